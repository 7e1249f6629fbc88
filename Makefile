# The whole ritual. Every target sets up what it needs from nothing but python3 and make.
VENV := .venv
UV := $(VENV)/bin/uv
RUN := $(VENV)/bin/
FUZZ_TARGETS ?= line planner answer ids tokens multipart disposition
FUZZ_SECONDS ?= 60
# Most tests wait for processes; the files of the others are few enough to leave room on two cores.
TESTS_AT_ONCE ?= 3
# In the order of their names, so that whole systems come first, and many small files last: all end together.
DISTRIBUTED := --dist loadfile --no-loadscope-reorder
PYTHON ?= python3
SOURCES := libs services tests benchmarks docs deploy examples

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults test-vllm test-compose test-chart soak fuzz check fmt docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.synced ## Create .venv with everything locked in uv.lock

$(VENV)/.synced: uv.lock pyproject.toml $(wildcard libs/*/pyproject.toml services/*/pyproject.toml)
	@test -x $(UV) || { echo "Setting up $(VENV) (once) ..."; $(PYTHON) -m venv $(VENV) && $(RUN)python -m pip install --quiet --disable-pip-version-check uv; }
	@# Behind a proxy with a certificate of its own, only the system's store knows it.
	@$(UV) sync --quiet --locked --all-packages 2>$(VENV)/sync.log \
		|| $(UV) sync --quiet --locked --all-packages --system-certs || { cat $(VENV)/sync.log; exit 1; }
	@touch $@

demo: setup ## Run the main job: a JSONL file in, every line answered, results and cost out
	@$(RUN)batchyard demo $(ARGS)

test: setup ## Run the tests, several files at once (ARGS= for pytest)
	@$(RUN)pytest --numprocesses $(TESTS_AT_ONCE) $(DISTRIBUTED) $(ARGS)

test-faults: setup ## Run the tests of crashes and outages alone, the latter for half a minute each
	@OUTAGE_SECONDS=30 $(RUN)pytest tests/faults $(ARGS)

test-vllm: setup ## Run the main flows before a real vLLM (VLLM_URL=... or VLLM_SERVE='vllm serve MODEL --port {port}')
	@$(RUN)pytest tests/vllm -m vllm $(ARGS)

test-compose: setup ## Bring docker-compose.yml up, run the main job, restart and kill each container (needs a Docker engine)
	@$(RUN)pytest tests/compose -m compose -o log_cli=true -o log_cli_level=INFO -o log_cli_format="%(message)s" $(ARGS)

test-chart: setup ## Render the Helm chart and hold it to Kubernetes' schemas (installs 100 MB of tools first)
	@$(UV) sync --quiet --locked --all-packages --group chart || $(UV) sync --quiet --locked --all-packages --group chart --system-certs
	@$(RUN)pytest tests/deploy $(ARGS)

soak: setup ## Kill processes while batches run, then check the truth (ARGS="--kills 100 --batches 20 --seed 1")
	@PYTHONPATH=tests $(RUN)python -m soak $(ARGS)

fuzz: setup ## Feed what reads strangers' bytes with ever stranger ones (FUZZ_SECONDS=60 for each of FUZZ_TARGETS)
	@$(UV) sync --quiet --locked --all-packages --group fuzz || $(UV) sync --quiet --locked --all-packages --group fuzz --system-certs
	@set -e; for target in $(FUZZ_TARGETS); do \
		echo "== $$target"; PYTHONPATH=tests $(RUN)python -m fuzz $$target -max_total_time=$(FUZZ_SECONDS) -max_len=1000 \
			-verbosity=0 -print_final_stats=1; done

check: setup ## Lint, types and import contracts
	@$(RUN)ruff check $(SOURCES)
	@$(RUN)ruff format --check $(SOURCES)
	@$(RUN)mypy
	@$(RUN)lint-imports

fmt: setup ## Format and fix what can be fixed
	@$(RUN)ruff format $(SOURCES)
	@$(RUN)ruff check --fix $(SOURCES)

docs: setup ## Write what is made from the code anew: OpenAPI, AsyncAPI, NATS' permissions, the docs' tables
	@$(RUN)python docs/generate.py
	@PYTHONPATH=tests $(RUN)python -m support.configuration_docs
	@PYTHONPATH=tests $(RUN)python -m support.operations_docs

clean: ## Remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .cache tests/contract/node/node_modules
