# Worker, starter and the simulated language models: static binaries, no Python.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
ENV GOCACHE=/go/cache
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/go/cache \
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./worker ./starter ./infra/simllm

FROM alpine:3.22
RUN apk add --no-cache ca-certificates && adduser -D -u 10001 precept
COPY --from=build /out/ /usr/local/bin/
COPY examples /opt/precept/examples
USER 10001
WORKDIR /opt/precept
ENV PRECEPT_CONFIG=/etc/precept/worker.yaml
ENTRYPOINT ["worker"]
