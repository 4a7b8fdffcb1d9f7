# The words a newcomer needs: quickstart, test, check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test check format clean

quickstart: $(VENV)/installed ## fine-tune, score and compare the embedded model on the bundled conversations
	$(BIN)/tomtat train recipes/quickstart.toml --evaluate --show 3

test: $(VENV)/installed-dev ## all tests, those with real weights too
	$(BIN)/python -m pytest -m "slow or not slow"

check: $(VENV)/installed-dev ## format, lint, type-check, fast tests
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
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

clean: ## the environment and caches of tools; run folders stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
