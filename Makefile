.PHONY: install demo up test check static fast gpu
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

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
	$(PYTEST) -m 'not slow'

check: static fast

static: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

fast: install
	$(PYTEST) -m 'not slow and not stack' -q

gpu: install
	$(BIN)/python -m benchmarks.gpu --out benchmarks/results/gpu.json
