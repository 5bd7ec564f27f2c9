# make demo   slides -> tiles -> embeddings -> latents -> a trained multi-scale model -> sampled patches, in minutes on a laptop
# make ablations   one model for all scales against a model a scale, and what else matters: docs/results/ablations.md
# make test   the tests
# make lint   ruff and mypy
# Each creates .venv and installs into it when that has not been done.

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/make-demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo ablations test lint

demo: .venv/installed
	$(BIN)/python main.py --base configs/demo/zoomldm.yaml run=$(RUN)
	$(BIN)/python scripts/sample_patches.py --model $(RUN) --from data/demo/cohort/histology_100.h5 --out $(RUN)/samples

ablations: .venv/installed
	$(BIN)/python -m benchmarks.ablations

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@
