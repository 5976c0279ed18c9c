# `make` or `make help` says what can be made.

PYTHON ?= python3
VENV ?= .venv
MODEL ?= pretrained/diffasr-tiny
JOBS ?= 2
TESTS ?= speechbrain_diffasr tests
ARGS ?=

BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help: ## This page
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-6s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "The first run of demo, test or lint makes $(VENV) and installs the packages that setup.py"
	@echo "pins: some minutes and about 5 GB, most of it PyTorch. Later runs start in seconds."
	@echo
	@echo "  PYTHON=$(PYTHON)   3.11 or newer, e.g. make demo PYTHON=python3.12"
	@echo "  MODEL=$(MODEL)   whose samples demo transcribes"
	@echo "  JOBS=$(JOBS)   tests at once"
	@echo "  TESTS=, ARGS=   for pytest, e.g. make test TESTS=tests/test_sampler.py ARGS='-k seed'"

demo: $(VENV)/.installed ## Transcribes the samples of the small model, each beside its reference
	@$(BIN)/diffasr transcribe $(MODEL)/samples/*.wav --model $(MODEL) --format json \
		| $(BIN)/python benchmarks/beside_reference.py

test: lint ## Lint, then the tests and the examples of the docstrings; no network, no GPU
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) $(ARGS) $(TESTS)

lint: $(VENV)/.installed-test ## Style only: ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean: ## Removes the virtual environment and caches; data/ and results/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find benchmarks recipes speechbrain_diffasr tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian and Ubuntu have ensurepip in a package of its own, which need not be there.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		f"$(PYTHON) is Python {v.major}.{v.minor}, but 3.11 or newer is needed; name one: make demo PYTHON=python3.12")'
	@echo "Making $(VENV) with $(PYTHON)"
	@if $(PYTHON) -c 'import ensurepip' 2> /dev/null; then \
		$(PYTHON) -m venv $(VENV); \
	else \
		$(PYTHON) -m venv --without-pip $(VENV); \
		$(BIN)/python .ci/get_pip.py; \
	fi
	@touch $@

$(VENV)/.installed: setup.py $(VENV)/.created
	@echo "Installing the packages that setup.py pins: once, some minutes, about 5 GB"
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: setup.py $(VENV)/.created
	@echo "Installing the packages that setup.py pins: once, some minutes, about 5 GB"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[test]'
	@touch $(VENV)/.installed $@
