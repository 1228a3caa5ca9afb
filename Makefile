# `make help` lists what can be done. Everything runs in .venv, made on first use from exact pins.
ifeq ($(OS),Windows_NT)
$(error only Linux and macOS are supported; on Windows, use WSL)
endif

PYTHON ?= python3
PIP_ARGS ?=
PROFILE ?= quick
PLAN ?= assignments
SEEDS ?= auto
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
help:  ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or later is needed, {sys.version.split()[0]} found: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements.txt | $(BIN)/python
	@echo "installing pinned dependencies (the first time takes some minutes)"
	@$(INSTALL) -r requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt $(RUN_STAMP)
	@echo "installing what tests and checks need"
	@$(INSTALL) -r requirements-dev.txt
	@touch $@

$(BENCH_STAMP): benchmarks/requirements.txt $(RUN_STAMP)
	@echo "installing the peers of the benchmarks into $(BENCH_VENV)"
	@test -x $(BENCH_VENV)/bin/python || $(BIN)/python -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r benchmarks/requirements.txt
	@touch $@

.PHONY: setup
setup: $(RUN_STAMP)  ## create .venv, install the pins, create the tracking store
	@$(BIN)/python -m pipeline setup

.PHONY: run
run: $(RUN_STAMP)  ## both reference studies and their report: PROFILE=quick (default) or full, PLAN=surface, SEEDS=5
	@$(BIN)/python -m pipeline main --profile $(PROFILE) --plan $(PLAN) --seeds $(SEEDS)
	@echo "look at it: open reports/$(notdir $(basename $(PLAN)))/study.html, or make ui for the runs"

.PHONY: ui
ui: setup  ## start MLflow's UI and the Optuna dashboard, on this machine only
	@$(BIN)/python -m pipeline ui --mlflow_port $${MLFLOW_PORT:-5000} --dashboard_port $${DASHBOARD_PORT:-8080}

.PHONY: doctor
doctor: $(RUN_STAMP)  ## look whether a stage would find what it needs
	@$(BIN)/python -m pipeline doctor

.PHONY: test
test: $(DEV_STAMP)  ## run the tests (but the slow ones)
	@$(BIN)/python -m pytest -m "not slow" $(TESTS)

.PHONY: test-slow
test-slow: $(DEV_STAMP)  ## run the slow tests: killed processes, chains of commands
	@$(BIN)/python -m pytest -m slow $(TESTS)

.PHONY: lint
lint: $(DEV_STAMP)  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: bench
bench: $(RUN_STAMP) $(BENCH_STAMP)  ## measure the project beside what people use (wants an idle machine)
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: bench-short
bench-short: $(RUN_STAMP)  ## what a change must not slow down, in ratios; needs no peers
	@$(BIN)/python -m benchmarks --short

.PHONY: bench-scale
bench-scale: $(RUN_STAMP)  ## time and memory against images, width, epochs, trials and runs
	@$(BIN)/python -m benchmarks.scale $(BENCH)

.PHONY: docs
docs: $(DEV_STAMP)  ## write docs/parameters.md anew from the parameter records
	@$(BIN)/python -m tools.parameters_page

.PHONY: lock
lock: $(BIN)/python  ## make the pins anew from the ranges in pyproject.toml
	@$(BIN)/python -m tools.lock
