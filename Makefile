# Two commands need nothing but Python >= 3.11: `make demo` and `make test`. Each makes .venv and fills it as needed.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=

.PHONY: help demo test lint bench clean
help:
	@echo "make demo    watch 32 users share 8 connections (about 15 seconds)"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make bench   compare with other clients (needs nginx; about 7 minutes)"
	@echo "make clean   remove .venv and caches"

demo: $(VENV)/.cli
	$(BIN)/sessionpool demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.peers
	$(BIN)/python -m loadtests.peers

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "sessionpool needs Python 3.11 or newer; say where it is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu its part for that is the package python3-venv" >&2; exit 1; }

$(VENV)/.cli $(VENV)/.dev $(VENV)/.peers: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
