# make demo   set everything up, then train and evaluate a small network on this machine (minutes)
# make test   set everything up, then lint, all in-process tests and a dozen smoke jobs (minutes); with coverage by package
#             from Python 3.12 on, on 3.11 with COVERAGE=1, since it costs a quarter more CPU time there
# make test-full        everything else that runs unattended: processes, kills, resumes, sweeps
# make docs             the documentation as a site, in site/
# make test-slow        further cases, which take too long for every change
# make test-multinode   jobs and sweeps on two hosts made of namespaces, which needs root, iproute2, openssh-server and pdsh
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
BIN := $(VENV)/bin

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 5 --max-worker-restart 0

HAS_MONITORING := $(shell $(PYTHON) -c 'import sys; print(int(sys.version_info >= (3, 12)))')
COVERAGE ?= $(HAS_MONITORING)
ifeq ($(HAS_MONITORING),1)
export COVERAGE_CORE := sysmon
endif

.PHONY: demo docs test test-full test-slow test-multinode lint setup clean

demo: setup
	$(BIN)/msanet demo

test: lint
	$(PYTEST) $(if $(filter 1,$(COVERAGE)),--cov --cov-report=)
	$(if $(filter 1,$(COVERAGE)),$(BIN)/python tests/support/coverage_table.py)

test-full: setup
	$(PYTEST) -m 'full and not multinode and not slow'

docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

test-slow: setup
	$(PYTEST) -m slow --timeout 1800 -o faulthandler_timeout=3600

test-multinode: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -m multinode -rPs --timeout 1800 -o faulthandler_timeout=3600 --numprocesses 2 --dist loadfile tests/multinode

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, found %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_ARGS) --quiet --disable-pip-version-check --constraint requirements.txt torch
	$(BIN)/pip install $(PIP_ARGS) --quiet --disable-pip-version-check --constraint requirements.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo *.egg-info .mypy_cache .pytest_cache .ruff_cache
