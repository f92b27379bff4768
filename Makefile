.PHONY: install demo up test check static fast-core fast-rest
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
FAST := $(BIN)/python -m pytest -m 'not slow and not stack' -q

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/errata demo

up: install
	$(BIN)/errata up

test: install
	$(BIN)/python -m pytest -m 'not slow'

check: install
	$(MAKE) --no-print-directory -j2 --output-sync=target fast-rest static fast-core

static: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

fast-core: install
	$(FAST) tests/malmen_core

fast-rest: install
	$(FAST) --ignore=tests/malmen_core
