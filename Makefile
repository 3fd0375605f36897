# Needs python3 (3.11 or newer) and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all bench lint format clean

help:                       ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## .venv with groundling in it, ready to change and test

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "groundling needs Python 3.11 or newer, not " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.installed-all: $(VENV)/.installed
	$(PIP) --editable '.[dev,deepspeed,swanlab,tensorboard]'
	@touch $@

demo: install               ## fine-tune the bundled tiny model and look at what it learned
	$(BIN)/groundling demo

test: install               ## the tests that take minutes on two cores
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(VENV)/.installed-all ## all tests, with DeepSpeed and the trackers
	$(BIN)/python -m pytest -q

bench: install              ## training speed beside other frameworks (bench/environments.sh installs them)
	$(BIN)/python bench/compare.py

lint: install               ## format, rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: install             ## put code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:                      ## remove what was made, .venv too
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis demo
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
