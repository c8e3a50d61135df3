# Each target installs what it needs into .venv.
# PYTHON=... selects the interpreter (3.10 to 3.13). PYTEST=... adds arguments for pytest: make test PYTEST='-k fence'.
.DEFAULT_GOAL := help
.PHONY: help demo up test test-fast unit lint options real-cluster bench chaos constraints clean

AIRFLOW := 3.3.2
BIN := .venv/bin
ENV := .venv/.installed-to-run
DEV := .venv/.installed-to-test

# Without bytecode files each process would compile Airflow again.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo 'make demo       run a DAG through podrelay on this machine, show the result, clean up'
	@echo 'make up         the same, but keep Airflow and rq-dashboard running until Ctrl-C'
	@echo 'make test       lint and all tests'
	@echo 'make test-fast  lint and unit tests, for the daily loop'
	@echo 'make unit       unit tests only'
	@echo 'make lint       style, format, types and import rules only'
	@echo 'make options    write docs/options.md from the option descriptions'
	@echo 'make real-cluster KUBECONFIG=FILE   test against a real cluster, in a temporary namespace'
	@echo 'make bench      measure against the stock executor (BENCH=... for options)'
	@echo 'make chaos      inject faults and verify that no task is lost or run twice (CHAOS=... for options)'
	@echo 'make constraints   update all pins in constraints.txt'
	@echo 'make clean      remove .venv and all caches'

$(ENV): pyproject.toml local_cluster/pyproject.toml constraints.txt demo/install
	@demo/install local,dashboard
	@touch $@

$(DEV): pyproject.toml local_cluster/pyproject.toml constraints.txt demo/install
	@demo/install dev
	@touch $@

demo: $(ENV)
	@$(BIN)/python -m demo.run

up: $(ENV)
	@$(BIN)/python -m demo.run --stay

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy executor workers local_cluster demo tests
	$(BIN)/lint-imports

unit: $(DEV)
	$(BIN)/python -m pytest tests/unit $(PYTEST)

test-fast: lint unit

test: lint
	$(BIN)/python -m pytest tests/unit tests/integration tests/chaos tests/benchmarks tests/real_cluster tests/end_to_end $(PYTEST)

# Documents the options; a unit test fails while the page is out of date.
options: $(DEV)
	$(BIN)/python -m docs.options_page

# KUBECONFIG must be on the command line: the environment may point to any cluster.
real-cluster: $(DEV)
	@test '$(origin KUBECONFIG)' = 'command line' || { echo 'No cluster given: run make real-cluster KUBECONFIG=FILE'; exit 2; }
	PODRELAY_REAL_KUBECONFIG='$(KUBECONFIG)' $(BIN)/python -m pytest tests/real_cluster $(PYTEST)

bench: $(DEV)
	@demo/install dev,bench
	$(BIN)/python -m tests.benchmarks $(BENCH)

chaos: $(DEV)
	$(BIN)/python -m tests.chaos $(CHAOS)

# Pins for Python 3.10 to 3.13 in one file, resolved from the ranges in pyproject.toml.
constraints: $(DEV)
	@echo 'apache-airflow==$(AIRFLOW)' >.venv/airflow.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --upgrade --no-header --no-annotate \
		--constraints .venv/airflow.txt --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
