# Everything a newcomer runs. Each target sets up the virtual environment it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
AUDIT_STAMP := $(VENV)/.audit-installed
DEMO_DIR ?= demo

.PHONY: compiled demo demo-full demo-smoke test test-slow harden lint audit format bench claims docs clean

# Torch's own threads would fight with the test processes for the cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
		{ echo "error: Python 3.11 to 3.13 is needed; name one with PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP)  ## real models with skills that conflict: trained, merged, bred and measured, in three minutes
	$(BIN)/genepool demo $(DEMO_DIR)

demo-full: $(STAMP)  ## the same with larger models and budgets, in some ten minutes
	$(BIN)/genepool demo $(DEMO_DIR)-full --full

demo-smoke: $(STAMP)  ## the same story in about a minute, in a temporary folder
	@folder=$$(mktemp -d) && $(BIN)/genepool demo $$folder/demo --tiny && rm -r $$folder

# Tests start hundreds of commands. Where Python is told to write no bytecode, each would compile genepool anew.
compiled: $(STAMP)
	@$(BIN)/python -m compileall -q src

test: compiled  ## the fast tests
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not harden"

test-slow: compiled  ## kill -9, training, whole stories
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup -m "slow and not harden"

harden: compiled  ## kill -9 and races over every command that writes; GENEPOOL_HARDEN=5 for five times as many
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadgroup -m harden tests

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## ratios against a floor measured in the same run; `python -m benchmarks.merge` has mergekit too
	$(BIN)/python -m benchmarks

claims: $(STAMP)  ## what the papers say, asked on the testbeds: five seeds, rewrites docs/claims.md
	$(TEST_ENV) $(BIN)/python -m benchmarks.claims

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[docs]"
	@touch $@

docs: $(DOCS_STAMP)  ## rewrites the generated reference pages and builds the site; a broken link is an error
	$(BIN)/python docs/reference/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(AUDIT_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[audit]"
	@touch $@

# pip-audit ends in a traceback where it cannot connect; a weakness that it found is told without one.
audit: $(AUDIT_STAMP)  ## licences of the dependencies, and their known weaknesses, which are looked up at pypi.org
	$(TEST_ENV) $(BIN)/python -m pytest tests/test_licences.py
	@$(BIN)/pip-audit --skip-editable --progress-spinner off 2>$(VENV)/audit.log; code=$$?; \
	if grep -q Traceback $(VENV)/audit.log; then tail -n 1 $(VENV)/audit.log; \
	echo "error: no known weakness was looked up. Run make audit again with a network."; exit 2; fi; \
	cat $(VENV)/audit.log; exit $$code

clean:
	rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
