.PHONY: install demo up test check static fast nemesis soak sbom audit docs gpu
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := broker errata ledger malmen_core migrations problems service worker
SEED ?= 1
MINUTES ?= 1
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

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
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml $(PACKAGES)
	$(BIN)/mypy .
	$(MAKE) --no-print-directory docs

docs: install
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

fast: install
	$(PYTEST) -m 'not slow and not stack' -q

nemesis: install
	$(BIN)/python -m tests.nemesis --seed $(SEED) --minutes $(MINUTES)

soak: install
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

sbom: install
	$(BIN)/cyclonedx-py environment --output-reproducible --of JSON -o sbom.json $(BIN)/python

# Ends with 2, and says so, where no database of vulnerabilities can be reached.
ADVISORIES := https://pypi.org/pypi/pip/json
audit: install
	@$(BIN)/python -c "import urllib.request as r; r.urlopen('$(ADVISORIES)', timeout=10)" 2>/dev/null || \
	  { echo "Nothing was audited: no database of vulnerabilities can be reached at $(ADVISORIES)."; exit 2; }
	$(BIN)/pip-audit --skip-editable

gpu: install
	$(BIN)/python -m benchmarks.gpu --out benchmarks/results/gpu.json
