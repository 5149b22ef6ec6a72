# All state lies under .precept/; `make help` says what there is.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN   := .precept/bin
TOOLS := infra/tools/go.mod infra/tools/go.sum
DEV   := $(BIN)/precept-dev
VENV  := .precept/venv
CUDA  := .precept/cuda

##@ To use
.PHONY: help
help: ## show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nPorts: PRECEPT_TEMPORAL_PORT=7233 PRECEPT_UI_PORT=8233 PRECEPT_S3_PORT=7070 PRECEPT_SIMLLM_PORT=8089\n'

.PHONY: demo
demo: announce tools build ## build and start everything, run the quickstart to its report
	@echo "The quickstart needs about 6 GB of memory and 14 GB of disk, and up to 23 minutes on 2 cores without a GPU."
	@$(DEV) demo

.PHONY: up
up: announce tools build ## start the embedded stack, to work with it by hand
	@$(DEV) up

.PHONY: down
down: $(DEV) ## stop the embedded stack
	@$(DEV) down

.PHONY: status
status: $(DEV) ## show what runs, and where
	@$(DEV) status

.PHONY: clean
clean: ## stop the stack and remove all state: tools, environment, database, data
	@if [ -x $(DEV) ]; then $(DEV) down && $(DEV) clean-check; fi
	@# What Python packages install may be read-only.
	@if [ -d .precept ]; then chmod -R u+w .precept && rm -rf .precept; fi

##@ To build
.PHONY: tools
tools: $(BIN)/temporal $(BIN)/versitygw $(BIN)/process-compose ## build the embedded stack's tools, where missing or changed

.PHONY: build
build: ## build worker, starter, simllm and precept-dev
	@mkdir -p $(BIN)
	$(call building,the programs,go build -o $(BIN)/ ./worker ./starter ./infra/simllm && go build -o $(DEV) ./infra/dev)

# The probe is linked against a stand-in: the driver's own library comes with the machine it runs on.
.PHONY: cuda
cuda: ## build gpuprobe, by which a worker beside it finds GPUs; needs a C compiler
	@mkdir -p $(BIN) $(CUDA)
	$(call building,gpuprobe,$(CUDA_HEADERS) && $(CUDA_STUB) && $(CUDA_ENV) go build -tags cuda -o $(BIN)/gpuprobe ./internal/gpu/probe)

CUDA_HEADERS = sh infra/cuda/headers.sh $(CUDA)/headers
CUDA_STUB    = "$$(go env CC)" -shared -fPIC -Wl,-soname,libcuda.so.1 -o $(CUDA)/libcuda.so internal/gpu/testdata/fakecuda/libcuda.c
CUDA_ENV     = CGO_ENABLED=1 CGO_CFLAGS="-I$(CURDIR)/$(CUDA)/headers/include" CGO_LDFLAGS="-L$(CURDIR)/$(CUDA)"

# What a first set-up costs, said before it starts; measured on Linux amd64 with two cores.
.PHONY: announce
announce:
	@if [ ! -x $(BIN)/temporal ] || [ ! -x $(BIN)/versitygw ] || [ ! -x $(BIN)/process-compose ]; then \
		echo "First set-up, tools: downloads up to $(TOOLS_GB) GB of Go modules and builds for about $(TOOLS_MINUTES) minutes on 2 cores."; fi
	@if [ ! -x $(VENV)/bin/python ]; then \
		echo "First set-up, trainer: downloads up to $(TRAINER_GB) GB of Python packages and the base model, while the first stages run."; fi

TOOLS_GB      := 0.6
TOOLS_MINUTES := 5
TRAINER_GB    := 3

$(DEV): $(wildcard infra/dev/*.go) go.mod
	@mkdir -p $(BIN)
	@go build -o $@ ./infra/dev
	@touch $@

# $(call building,NAME,COMMAND) runs a build, which may say nothing for minutes, and shows that it goes on.
define building
	@echo "Building $(1)"; \
	( n=0; while sleep 1 && kill -0 $$$$ 2>/dev/null; do n=$$((n + 1)); [ $$((n % 8)) -ne 0 ] || echo "  building $(1), $$n s"; done ) & ticker=$$!; \
	$(2); status=$$?; kill $$ticker; exit $$status
endef

# $(call tool,PACKAGE) builds a tool from its own module, so that its dependencies never
# join the program's. The old file goes first: it may be a link to an installed program.
define tool
	@mkdir -p $(BIN)
	@rm -f $@
	$(call building,$(notdir $@),cd infra/tools && go build -o ../../$@ $(1))
endef

# An installed temporal that is new enough is used instead of building one.
$(BIN)/temporal: $(TOOLS) | $(DEV)
	@mkdir -p $(BIN)
	@rm -f $@
	@if installed=$$($(DEV) installed-temporal 2>/dev/null); then echo "Using the installed $$installed"; ln -s "$$installed" $@; fi
	@[ -e $@ ] || $(MAKE) --no-print-directory build-temporal

.PHONY: build-temporal
build-temporal:
	$(call building,temporal (the largest of the tools),cd infra/tools && go build -ldflags "-X github.com/temporalio/cli/temporalcli.Version=$$(go list -m -f '{{.Version}}' github.com/temporalio/cli | tr -d v)" -o ../../$(BIN)/temporal github.com/temporalio/cli/cmd/temporal)

$(BIN)/versitygw: $(TOOLS)
	$(call tool,github.com/versity/versitygw/cmd/versitygw)

$(BIN)/process-compose: $(TOOLS)
	$(call tool,github.com/f1bonacc1/process-compose/src)

$(BIN)/staticcheck: $(TOOLS)
	$(call tool,honnef.co/go/tools/cmd/staticcheck)

$(BIN)/depguard: $(TOOLS)
	$(call tool,github.com/OpenPeeDeeP/depguard/v2/cmd/depguard)

$(BIN)/workflowcheck: $(TOOLS)
	$(call tool,go.temporal.io/sdk/contrib/tools/workflowcheck)

##@ To check
# $(call step,NAME,COMMAND) runs one step and prints its time; a failing one ends make.
define step
	@printf '\n=== %s\n' '$(1)'; begun=$$(date +%s); \
	if ( $(2) ); then printf '=== %s: %d s\n' '$(1)' $$(($$(date +%s) - begun)); \
	else printf '=== %s: FAILED after %d s\n' '$(1)' $$(($$(date +%s) - begun)) >&2; exit 1; fi
endef

GO_FILES := find . -name '*.go' -not -path './.precept/*'
TAGS     := e2e,bench,chaos
RACE     := ./internal/... ./workflows/... ./activities/...

# One after the other: torch beside a Go build is many times slower.
.PHONY: test
test: ## everything that CI runs
	@begun=$$(date +%s); \
	$(MAKE) --no-print-directory lint test-go test-cuda test-trainer test-e2e && \
	printf '\nAll passed in %d s\n' $$(($$(date +%s) - begun))

.PHONY: bench
bench: tools build ## measure against the bare loop, and over a million rows (an hour or more)
	@go test -count 1 -tags bench -run 'TestRate|TestRows|TestRebuild|TestFleet|TestTraining' -v -timeout 3h ./infra/e2e

.PHONY: chaos
chaos: tools build ## kill, freeze, fill and cut off everything, and compare the data set with one made in peace (20 minutes)
	@go test -count 1 -tags chaos -run TestChaos -v -timeout 2h ./infra/e2e

# The trainer's environment where it is installed, else what the machine has: its image may hold torch.
.PHONY: gpu-check
gpu-check: ## prove that training works on this machine's NVIDIA GPU; a page says what was seen
	@PYTHONPATH=trainer$${PYTHONPATH:+:$$PYTHONPATH} $(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,python3) -m gpucheck $(GPU_CHECK)

.PHONY: lint
lint: ## format, vet, staticcheck, the import rule, workflowcheck
	$(call step,tools,$(MAKE) --no-print-directory tools $(BIN)/staticcheck $(BIN)/depguard $(BIN)/workflowcheck)
	$(call step,gofmt,files=$$($(GO_FILES) | xargs gofmt -l); [ -z "$$files" ] || { echo "not formatted: $$files"; false; })
	$(call step,go vet,go vet -tags $(TAGS) ./...)
	$(call step,staticcheck,$(BIN)/staticcheck -tags $(TAGS) ./...)
	$(call step,import rule,$(BIN)/depguard ./...)
	$(call step,workflowcheck,$(BIN)/workflowcheck -config workflowcheck.yaml ./workflows/...)

.PHONY: test-go
test-go:
	$(call step,build,$(MAKE) --no-print-directory build)
	$(call step,go test,go test ./...)
	$(call step,race detector,$(RACE_TEST))
	$(call step,build for macOS arm64,GOOS=darwin GOARCH=arm64 go build -o /dev/null ./worker && GOOS=darwin GOARCH=arm64 go build -o /dev/null ./starter && GOOS=darwin GOARCH=arm64 go build -o /dev/null ./infra/dev)
	$(call step,build for Linux arm64,GOOS=linux GOARCH=arm64 go build -o /dev/null ./worker && GOOS=linux GOARCH=arm64 go build -o /dev/null ./starter && GOOS=linux GOARCH=arm64 go build -o /dev/null ./infra/dev)

# On Linux the race detector needs a C compiler, which a user's machine may lack; CI has one.
RACE_TEST = if command -v "$$(go env CC)" >/dev/null || [ -n "$$CI" ]; then CGO_ENABLED=1 go test -race $(RACE); \
	else echo "SKIPPED: the race detector needs a C compiler ($$(go env CC)), and there is none"; fi

# As with the race detector: a user's machine may lack a C compiler, CI has one.
.PHONY: test-cuda
test-cuda:
	$(call step,gpuprobe,$(if $(CUDA_SKIP),echo "SKIPPED: $(CUDA_SKIP)",$(MAKE) --no-print-directory cuda $(BIN)/staticcheck && \
		$(CUDA_ENV) go vet -tags cuda ./internal/gpu/... && $(CUDA_ENV) $(BIN)/staticcheck -tags cuda ./internal/gpu/... && \
		$(CUDA_ENV) go test -count 1 -tags cuda ./internal/gpu/...))

CUDA_SKIP = $(if $(or $(CI),$(shell command -v "$$(go env CC)")),$(if $(filter linux,$(shell go env GOOS)),,the CUDA driver is for Linux),gpuprobe needs a C compiler and there is none)

.PHONY: test-trainer
test-trainer:
	$(call step,trainer environment,sh infra/dev/trainer-env.sh)
	$(call step,ruff,cd trainer && ../$(VENV)/bin/ruff check . && ../$(VENV)/bin/ruff format --check .)
	$(call step,pytest,cd trainer && ../$(VENV)/bin/python -m pytest -q)

.PHONY: test-e2e
test-e2e:
	$(call step,end to end,go test -tags e2e -count 1 -timeout 30m ./infra/e2e/...)
