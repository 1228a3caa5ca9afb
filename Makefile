# `make help` lists the targets. Everything runs in .venv, created on first use from pinned requirements.
ifeq ($(OS),Windows_NT)
$(error only Linux and macOS are supported; on Windows, use WSL)
endif

PYTHON ?= python3
PIP_ARGS ?=
PROFILE ?= quick
PLAN ?= assignments
SEEDS ?= auto
WORKERS ?= auto
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or later is required, got {sys.version.split()[0]}: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements.txt | $(BIN)/python
	@echo "installing pinned dependencies (takes a few minutes the first time)"
	@$(INSTALL) -r requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(RUN_STAMP)
	@echo "installing development dependencies"
	@$(INSTALL) -r requirements-dev.txt
	@touch $@

$(BENCH_STAMP): benchmarks/requirements.txt $(RUN_STAMP)
	@echo "installing the tools to compare with into $(BENCH_VENV)"
	@test -x $(BENCH_VENV)/bin/python || $(BIN)/python -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r benchmarks/requirements.txt
	@touch $@

.PHONY: setup
setup: $(RUN_STAMP)  ## create .venv, install dependencies, create the tracking store
	@$(BIN)/python -m pipeline setup

.PHONY: run
run: $(RUN_STAMP)  ## run both reference plans and write their report (PROFILE=full, PLAN=surface, SEEDS=5, WORKERS=1)
	@$(BIN)/python -m pipeline main --profile $(PROFILE) --plan $(PLAN) --seeds $(SEEDS) --workers $(WORKERS)
	@echo "report: reports/$(notdir $(basename $(PLAN)))/study.html; make ui shows the runs"

.PHONY: ui
ui: setup  ## start MLflow's UI and the Optuna dashboard on loopback
	@$(BIN)/python -m pipeline ui --mlflow_port $${MLFLOW_PORT:-5000} --dashboard_port $${DASHBOARD_PORT:-8080}

.PHONY: doctor
doctor: $(RUN_STAMP)  ## check the environment
	@$(BIN)/python -m pipeline doctor

.PHONY: test
test: $(DEV_STAMP)  ## run the tests, except the slow ones
	@$(BIN)/python -m pytest -m "not slow" $(TESTS)

.PHONY: test-slow
test-slow: $(DEV_STAMP)  ## run the slow tests (killed processes, chains of commands)
	@$(BIN)/python -m pytest -m slow $(TESTS)

.PHONY: lint
lint: $(DEV_STAMP)  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: bench
bench: $(RUN_STAMP) $(BENCH_STAMP)  ## benchmark against other tools (needs an idle machine)
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: bench-short
bench-short: $(RUN_STAMP)  ## check that nothing got slower, by ratios within one run
	@$(BIN)/python -m benchmarks --short

.PHONY: bench-scale
bench-scale: $(RUN_STAMP)  ## measure time and memory against images, width, epochs, trials and runs
	@$(BIN)/python -m benchmarks.scale $(BENCH)

.PHONY: docs
docs: $(DEV_STAMP)  ## regenerate docs/parameters.md
	@$(BIN)/python -m tools.parameters_page

.PHONY: lock
lock: $(BIN)/python  ## resolve the ranges in pyproject.toml to pinned requirements
	@$(BIN)/python -m tools.lock
