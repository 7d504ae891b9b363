# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and installs what it needs, once.
#
# On Linux, PyPI's torch brings several GB of CUDA libraries. The CPU build is enough for the demo and the tests:
#   make demo PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
# Another interpreter than the first of python3, python3.12 and python3.11 that is new enough: make demo PYTHON=/path/to/python

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.12 python3.11; do $$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done)
endif
PIP_ARGS ?=
DEMO_ARGS ?=
BIN := .venv/bin
# Processes that run tests, one a core unless told otherwise; each takes about 2 GiB of memory.
WORKERS ?= -n auto --dist loadgroup

help:  ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.core  ## the whole path on an embedded data set: train, measure, search, verify, export, report
	@start=$$SECONDS; $(BIN)/nas demo $(DEMO_ARGS); echo "Ran for $$((SECONDS - start)) s (installing is not counted)." >&2

test: lint  ## everything that CI checks: ruff, mypy, pytest
	@start=$$SECONDS; $(BIN)/python -m pytest -m 'not alone' --durations=30 $(WORKERS); $(BIN)/python -m pytest -m alone; \
		echo "Tested for $$((SECONDS - start)) s." >&2

fast: lint  ## the same without the tests marked slow
	@$(BIN)/python -m pytest -m 'not slow and not alone' $(WORKERS)

lint: .venv/.dev  ## ruff and mypy only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: .venv/.dev  ## the benchmarks, each a script to run
	@for script in benchmarks/*.py; do [ -e "$$script" ] || continue; \
		printf '%s %s\n    ' $(BIN)/python "$$script"; \
		$(BIN)/python -c 'import ast, sys; print((ast.get_docstring(ast.parse(open(sys.argv[1]).read())) or "").split("\n")[0])' "$$script"; \
	done

wheel: .venv/.dev  ## dist/paretovit-*.whl
	@rm -rf build && $(BIN)/python -m build --wheel

clean:  ## remove what was made here, .venv included; results/runs stays
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# One stamp for each set of packages: a second `make` installs nothing unless what is asked for has changed.
.venv/.core: pyproject.toml constraints.txt
	@$(call install,.)

.venv/.dev: pyproject.toml constraints.txt
	@$(call install,.[dev])
	@touch .venv/.core  # which is a part of it

define install
[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(NEW_ENOUGH)' || \
	{ echo "Python 3.11 or newer is needed and none was found; say which: make PYTHON=/path/to/python" >&2; exit 1; }; \
echo "Installing into .venv (about 2.2 GB on disk; some minutes) ..." >&2; start=$$SECONDS; \
$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv; \
$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_ARGS) --editable '$(1)'; \
touch $@; echo "Installed in $$((SECONDS - start)) s." >&2
endef

.PHONY: help demo test fast lint bench wheel clean
