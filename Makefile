# Every target that needs the environment makes it first. `make help` lists them.
.DEFAULT_GOAL := help
# The first that runs, or the one that PYTHON=... names.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13,$(shell $(name) -c "print('$(name)')" 2>/dev/null)))
VENV   := .venv
STAMP  := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help repro test test-slow test-user test-full-size exps ui bench docs lint lock clean

help: ## say what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

repro: $(STAMP) ## set up, then run the whole pipeline
	lossbook check && dvc repro

test: $(STAMP) ## set up, then run the tests
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## the tests that take minutes, or a server of their own
	python -m pytest -m slow

test-user: $(STAMP) ## README's way as printed, sweeps, MLflow's pages in a browser; a GPU's script without one
	python -m pytest -n 2 --dist loadfile -m slow tests/test_workbench.py tests/test_readme.py tests/test_pipeline.py tests/test_gpu.py

test-full-size: $(STAMP) ## GPT-2 at its full sizes; up to 20 GB of memory
	python -m pytest -m full_size

exps: $(STAMP) ## DVC's experiments: what was tried, what came of it
	dvc exp show --only-changed --drop '.*/|run|experiment|name|Executor' --sort-by best.val_loss

ui: $(STAMP) ## open MLflow on this repository's runs
	lossbook ui

bench: $(STAMP) ## measure the README's speed claims, beside their peers
	for script in benchmarks/*.py; do python $$script || exit 1; done

docs: $(STAMP) ## write docs/params.md's tables from pipeline/params.py
	python -m docs.params_page

lint: $(STAMP) ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

lock: ## resolve the requirements anew into requirements.lock
	./requirements.sh $(PYTHON)

clean: ## remove the environment and caches, keep data, models and runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(STAMP): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "make: $(or $(PYTHON),Python 3.11 to 3.13) not found; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages into $(VENV), which takes some minutes"
	python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
