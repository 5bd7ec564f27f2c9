# make demo   a sheet of the bundled model, then slides -> tiles -> embeddings -> latents -> a small model trained here
# make ablations   one model for all scales against one model per scale, and what else matters: docs/results/ablations.md
# make test   the tests; make slow-test: those that take longer (JOBS=2 processes of one thread)
# make lint   ruff and mypy
# make docs   the site of docs/, into site/; a warning is an error
# Each creates .venv and installs into it when that has not been done.

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin

.PHONY: demo ablations test slow-test lint docs

demo: .venv/installed
	$(BIN)/zoomldm demo

ablations: .venv/installed
	$(BIN)/python -m benchmarks.ablations

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

slow-test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

.venv/docs-installed: .venv/installed
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@
