# `make` or `make help` says what can be made.

PYTHON ?= python3
VENV ?= .venv
# What exactly is installed; pip takes the newest of whatever it does not name.
CONSTRAINTS ?= constraints/tested.txt
MODEL ?= pretrained/diffasr-base
JOBS ?= 2
TESTS ?= speechbrain_diffasr tests
ARGS ?=

BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-newest lint wheel clean

help: ## This page
	@echo "usage: make TARGET [VARIABLE=value ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "The first run of demo, test, lint or wheel makes $(VENV) and installs the packages that"
	@echo "$(CONSTRAINTS) names: some minutes and about 5 GB, most of it PyTorch. Later runs"
	@echo "start in seconds."
	@echo
	@echo "  PYTHON=$(PYTHON)   3.11 to 3.13, e.g. make demo PYTHON=python3.12"
	@echo "  MODEL=$(MODEL)   whose samples demo transcribes; or pretrained/diffasr-tiny"
	@echo "  JOBS=$(JOBS)   tests at once"
	@echo "  TESTS=, ARGS=   for pytest, e.g. make test TESTS=tests/decoders ARGS='-k seed'"
	@echo "  DIFFASR_TEST_DATA=   a folder with fsdd/ and text/, which some tests want"

demo: $(VENV)/.installed ## Transcribes the samples of a model, each beside its reference
	@$(BIN)/diffasr transcribe $(wildcard $(MODEL)/samples/*.wav $(MODEL)/samples/*.ogg) \
		--model $(MODEL) --format json \
		| $(BIN)/python benchmarks/beside_reference.py

test: lint ## Lint, then the tests and the examples of the docstrings; no network, no GPU
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(ARGS) $(TESTS)

test-lowest: ## The same with the oldest packages: constraints/lowest.txt, Python 3.11
	@$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints/lowest.txt PYTHON=python3.11

test-newest: ## The same with the newest packages: constraints/newest.txt, Python 3.13
	@$(MAKE) test VENV=.venv-newest CONSTRAINTS=constraints/newest.txt PYTHON=python3.13

lint: $(VENV)/.installed-test ## Style only: ruff check and ruff format --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(VENV)/.installed-test ## dist/speechbrain_diffasr-*.whl, with the small models in it
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation -w dist .

clean: ## Removes virtual environments and caches; data/ and results/ stay
	rm -rf $(VENV) .venv-lowest .venv-newest build dist *.egg-info .pytest_cache .ruff_cache
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

$(VENV)/.installed: setup.py $(CONSTRAINTS) $(VENV)/.created
	@echo "Installing what $(CONSTRAINTS) names: once, some minutes, about 5 GB"
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-test: setup.py $(CONSTRAINTS) $(VENV)/.created
	@echo "Installing what $(CONSTRAINTS) names: once, some minutes, about 5 GB"
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	@touch $(VENV)/.installed $@
