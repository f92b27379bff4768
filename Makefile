.PHONY: install demo up test check
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

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
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/python -m pytest -m 'not slow and not stack' -q
