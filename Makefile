# Each target installs what it needs into .venv by itself.
# PYTHON=... chooses the interpreter (3.10 to 3.13); PYTEST=... adds arguments for pytest, as in make test PYTEST='-k fence'.
.DEFAULT_GOAL := help
.PHONY: help demo up test real-cluster lint bench chaos constraints clean

AIRFLOW := 3.3.2
BIN := .venv/bin
ENV := .venv/.installed-to-run
DEV := .venv/.installed-to-test

# Without bytecode each process would compile Airflow again.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo 'make demo   run a DAG through podrelay on this machine, show it, clean up'
	@echo 'make up     the same, and stay: Airflow and rq-dashboard to look around in'
	@echo 'make test   lint, types, import rules and all tests'
	@echo 'make lint   the first three of these only'
	@echo 'make real-cluster KUBECONFIG=...  what podrelay relies on, on that cluster, in a namespace of its own'
	@echo 'make bench  measure against the stock executor (BENCH=... for options)'
	@echo 'make chaos  kill, freeze, cut off and lose everything, and judge what became of the tasks (CHAOS=... for options)'
	@echo 'make clean  remove .venv and all caches'

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

test: lint
	$(BIN)/python -m pytest --reruns 2 --reruns-delay 2 tests/unit tests/integration tests/chaos tests/benchmarks tests/real_cluster tests/end_to_end $(PYTEST)

# Without KUBECONFIG=... on the command line it would run wherever kubectl happens to point.
real-cluster: $(DEV)
	@test '$(origin KUBECONFIG)' = 'command line' || { echo 'say which cluster: make real-cluster KUBECONFIG=FILE'; exit 2; }
	PODRELAY_REAL_KUBECONFIG='$(KUBECONFIG)' $(BIN)/python -m pytest tests/real_cluster $(PYTEST)

bench: $(DEV)
	@demo/install dev,bench
	$(BIN)/python -m tests.benchmarks $(BENCH)

chaos: $(DEV)
	$(BIN)/python -m tests.chaos $(CHAOS)

# New pins for everything, from the ranges in pyproject.toml: for all of Python 3.10 to 3.13 in one file.
constraints: $(DEV)
	@echo 'apache-airflow==$(AIRFLOW)' >.venv/airflow.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --upgrade --no-header --no-annotate \
		--constraints .venv/airflow.txt --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
