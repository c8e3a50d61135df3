#!/usr/bin/env bash
# Software: apache-airflow-core 3.1.0, apache-airflow-task-sdk 1.1.0, structlog 26.1.0.
#
# Expected: a release of Airflow that was installed without the constraints file may get versions
#   that nobody tried with it, but its own bounds keep out those with which it cannot start.
# Seen: it asks for structlog>=25.4.0 without an upper bound and takes structlog.dev.Styles from it,
#   a name that structlog has no longer had since 25.5.0. `airflow version` ends with an ImportError, as does every
#   import of airflow's logging.
# Why it matters: whoever tests a provider or an executor against "each supported Airflow" with a
#   plain `pip install apache-airflow==3.1.0` sees all of them broken from one day to the next, and
#   looks for the fault at home. Install with that release's constraints, or bound structlog.
#
# Output on 2026-11-27:
#   Airflow 3.1.0, structlog 26.1.0, Python 3.11
#   required: structlog>=25.4.0
#   airflow version: ImportError: cannot import name 'Styles' from 'structlog.dev'
#   with structlog 25.4.0: 3.1.0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIRFLOW_HOME=$work/airflow

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.1.0 apache-airflow-task-sdk==1.1.0 structlog==26.1.0
"$work/venv/bin/python" - <<'PY'
import sys
from importlib.metadata import requires, version

print(f"Airflow {version('apache-airflow-core')}, structlog {version('structlog')},",
      "Python %d.%d" % sys.version_info[:2])
print("required:", *[item for item in requires("apache-airflow-core") if item.startswith("structlog")])
PY
if "$work/venv/bin/airflow" version >"$work/out" 2>"$work/err"; then
    echo "CHANGED: this Airflow starts with structlog 26" >&2
    exit 1
fi
seen=$(grep -o "ImportError: cannot import name 'Styles' from 'structlog.dev'" "$work/err" | head -n 1)
echo "airflow version: $seen"
[ -n "$seen" ] || { tail -n 5 "$work/err" >&2; echo "CHANGED: it fails for another reason" >&2; exit 1; }
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile structlog==25.4.0
echo "with structlog 25.4.0: $("$work/venv/bin/airflow" version 2>"$work/err" | tail -n 1)"
