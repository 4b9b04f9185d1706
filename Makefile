# holdfast: `make` lists the targets. Nothing here needs root, Docker or anything but pip.

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
DATA ?= .data
ROW ?=
COUNT ?=
SEED ?=

VENV := .venv
PY := $(VENV)/bin/python
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# What is installed is redone when these change, and when the tree moved: an editable install knows
# its path.
INPUTS := pyproject.toml constraints.txt
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
MADE := $(VENV)/.made-$(HERE)
RUN := $(VENV)/.run-$(HERE)
TEST := $(VENV)/.test-$(HERE)

.DEFAULT_GOAL := help
.PHONY: help run test lint format bench faults constraints clean clean-data

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(RUN) ## install what running needs, then `holdfast dev $(ARGS)`: everything on this machine
	@exec $(PY) -m holdfast dev $(ARGS)

test: lint ## everything that a commit must pass: lint, types, tests (PYTEST_ARGS="-k reserve")
	$(PY) -m pytest -n 3 --dist loadfile $(PYTEST_ARGS)

lint: $(TEST) ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(TEST) ## let ruff rewrite what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(TEST) ## measure this machine: `holdfast bench $(ARGS)`
	@exec $(PY) -m holdfast bench $(ARGS)

faults: $(TEST) ## add runs of the fault suite to docs/fault-report.md (ROW=oom COUNT=5 SEED=7)
	@exec $(PY) -m tests.faults --row '$(ROW)' --count '$(COUNT)' --seed '$(SEED)'

constraints: ## renew constraints.txt with the newest versions that pyproject.toml allows
	$(PYTHON) -m venv --clear $(VENV)/constraints
	$(VENV)/constraints/bin/python -m pip install --quiet -e '.[test]'
	{ sed -n '/^#/p' constraints.txt; \
	  $(VENV)/constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)/constraints

clean: ## remove the virtual environment and what was built; data stays
	rm -rf $(VENV) build dist src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lua settlement src tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: $(RUN) ## delete $(DATA) with every account in it; refused while something runs on it
	$(PY) -m holdfast.staging $(DATA)

$(MADE):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("holdfast needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(RUN): $(INPUTS) | $(MADE)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(TEST): $(INPUTS) | $(MADE)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $(RUN) $@
