# `make figures` runs the main study and builds its figures; `make test` checks everything. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUDY ?= figures/core.toml
# PyPI's torch for Linux brings several GB of CUDA; name another index here for a CPU build, for example
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup weights figures papers experiment-pictures test tests test-every lint notebooks docs picture benchmarks front-end lock setup-locked audit licences clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH_FLAGS) $(TORCH)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY)  ## Make .venv and install the pinned dependencies

weights: setup  ## Fetch and convert the default model (93 MB, once)
	$(BIN)/circuitlab models fetch smollm2-135m

figures: weights  ## Run the main study (resumes after an interruption) and build figures/built/core
	$(BIN)/circuitlab study run $(STUDY)
	$(BIN)/circuitlab figures build $(STUDY)

papers: weights  ## Run every published experiment on the default model and keep its record (resumes after an interruption)
	$(BIN)/circuitlab experiment run all -o src/circuitlab/experiments/results
	$(BIN)/circuitlab experiment gate all -o src/circuitlab/experiments/results/gates.smollm2-135m.json || test $$? -eq 2

experiment-pictures: setup  ## Redraw the pictures on the experiments' pages (needs Chromium)
	$(BIN)/python docs/writers/experiment_pictures.py

lint: setup  ## Ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: weights  ## Everything continuous integration checks, side by side: lint, and tests on some of their families and settings
	$(MAKE) --no-print-directory --jobs 2 lint tests

# Compiled modules are kept, also where PYTHONDONTWRITEBYTECODE is set: some fifty commands that tests run in processes of their own use them.
tests: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-every: weights  ## The tests on every family and with every setting, and every notebook (an hour)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --every

notebooks: weights  ## Execute the notebooks in place (a test says when their outputs are stale)
	$(BIN)/python notebooks/execute.py

docs: setup  ## Write the pages that follow from the code, and build the documentation into site/
	$(BIN)/python docs/write.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

picture: setup  ## Redraw the README's picture from the stored runs (needs Chromium)
	$(BIN)/circuitlab figures build figures/core.toml
	$(BIN)/python docs/writers/explorer_picture.py figures/built/core/explorer.html docs/images/explorer.png

benchmarks: weights  ## Measure speed and memory and rewrite the README's tables (an hour; run nothing beside it)
	$(BIN)/python benchmarks/bench_patching.py --save
	$(BIN)/python benchmarks/bench_scaling.py --save
	$(BIN)/python benchmarks/table.py
	$(BIN)/python benchmarks/bench_methods.py --save
	$(BIN)/python benchmarks/table_methods.py

front-end: setup  ## Build the explorer's front end again (npm comes with the dev extra; the result is committed)
	cd src/circuitlab/explorer/frontend && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci && PATH="$(CURDIR)/$(BIN):$$PATH" npm run build

lock: setup  ## Write requirements.lock anew: every package with the hash of its file
	$(BIN)/python .ci/supply.py lock

setup-locked:  ## Make .venv from requirements.lock; a file with another hash is refused
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH_FLAGS) $(TORCH)
	$(PIP) install --require-hashes --no-deps -r requirements.lock
	$(PIP) install --no-deps -e .
	$(BIN)/python -m pip check
	@touch $(READY)

audit: setup  ## Look up known vulnerabilities of the locked packages (needs the network)
	test -x $(VENV)/audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip --quiet install pip-audit; }
	$(BIN)/python .ci/supply.py audit --audit-python $(VENV)/audit/bin/python

licences: setup  ## Print what every locked package says about its licence
	@$(BIN)/python .ci/supply.py licences

clean:  ## Remove built figures and caches (runs and .venv stay)
	rm -rf figures/built site .pytest_cache .ruff_cache .mypy_cache
