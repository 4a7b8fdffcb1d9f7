# The words a newcomer needs: quickstart, test, check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := $(VENV)/clients

.PHONY: quickstart test check format clean

quickstart: $(VENV)/installed ## fine-tune, score and compare the embedded model on the bundled conversations
	$(BIN)/tomtat train recipes/quickstart.toml --evaluate --show 3

test: $(VENV)/installed-dev $(CLIENTS)/installed ## all tests, those with real weights too
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(VENV)/installed-dev ## format, lint, type-check, fast tests
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/python -m pytest

# pip and venv rather than uv: constraints.txt pins a CPU build of torch, which an open range would replace by CUDA's gigabytes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tomtat needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (PyTorch and its company: some minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

# Libraries whose newest releases want other versions than constraints.txt has: tests/test_clients.py runs them from here.
$(CLIENTS)/installed: $(BIN)/python examples/requirements.txt
	@echo "Installing the clients of examples/requirements.txt into $(CLIENTS) ..."
	@$(BIN)/python -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet --no-deps --no-compile -r examples/requirements.txt
	@touch $@

clean: ## the environment and caches of tools; run folders stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
