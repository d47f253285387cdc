# The habits of this project in one place. `make run` and `make test` need Python 3.11+, git and make, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.requirements
DEV_STAMP := $(VENV)/.requirements-dev

SECONDS ?= 60

.PHONY: run up test test-fast soak-enforcement bench-enforcement test-postgres lint format types bench bench-data flood conformance fuzz clean help

help:
	@echo "make run          the whole server with a demo domain, client and login; Ctrl-C stops it"
	@echo "make test         everything; make test-fast in under a minute"
	@echo "make test-postgres  all that meets the database, on PostgreSQL in a cluster of its own"
	@echo "make lint         style and types"
	@echo "make bench        what the signal channel does in a second; make bench BENCH=--quick in four minutes"
	@echo "make bench-data     what the data channel does in a second"
	@echo "make bench-enforcement  the enforcer, and traffic, with up to 10,000 mitigations; as root"
	@echo "make soak-enforcement   ROUNDS=100 faults, each followed by the rules that were wanted; as root"
	@echo "make flood        what a client waits for its answers while others flood the server"
	@echo "make fuzz         a minute of unmeant input for each decoder; make fuzz SECONDS=600 for longer"
	@echo "make conformance  rows of the standards covered and passing"

run: $(STAMP)
	$(BIN)/python manage.py up --demo

up: $(STAMP)
	$(BIN)/python manage.py up

# The suite waits more than it computes, so that a few processes share the cores well. A module stays in one of them.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(DEV_STAMP)
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)

# What never meets the database, or only through pages: the engine, the rules and the browser do not know which one it is.
WITHOUT_DATABASE := tls rules protocol drivers pki conformance test_imports.py dashboard/test_dashboard_browser.py
test-postgres: $(DEV_STAMP)
	$(BIN)/python -m tests.harness.postgres $(BIN)/python -m pytest $(PARALLEL) $(PYTEST) $(WITHOUT_DATABASE:%=--ignore=tests/%)

test-fast: $(DEV_STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not flow and not slow"

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP)
	$(BIN)/python -m benchmarks $(BENCH)

bench-data: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.data_channel

bench-enforcement: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.enforcement
	$(BIN)/python -m benchmarks.traffic

soak-enforcement: ROUNDS ?= 100
soak-enforcement: $(DEV_STAMP)
	ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -q -s tests/flows/test_enforcement_soak.py

flood: $(DEV_STAMP)
	$(BIN)/python -m benchmarks.flood

# Where there is no wheel of atheris for this Python, inputs are drawn by chance.
fuzz: $(DEV_STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements-fuzz.txt
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)
	FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest -q tests/fuzz/test_live.py

conformance: $(DEV_STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL) --conformance

clean:
	rm -rf $(VENV) var .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "Python's venv is missing: apt install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV_STAMP): requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(STAMP)
