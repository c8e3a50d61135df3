#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-task-sdk 1.3.2.
#
# Expected: `import airflow`, and so each `airflow` command, loads what every process of Airflow needs; what runs
#   a task is loaded where a task runs.
# Seen: it loads the task runner of the task SDK, and with it libcst, a parser of Python sources: two fifths of the
#   time. The import registers the secrets of the configuration with the masker of the log; the SDK's version of that
#   passes each one on to the supervisor of a task, if there is one, and finds out by importing the task runner.
# Why it matters: a probe, an `airflow version` in a script and the start of each process pay for it: about 0.4 s of
#   CPU on a machine where the whole import takes one. Nothing shows it, because no module imports it at its top.
#
# Output on 2026-11-28:
#   apache-airflow-core 3.3.2, task SDK 1.3.2
#   import airflow: 0.95 s with the import timer, 1316 modules
#   of which the task runner: 0.38 s, 40 %
#   libcst loaded: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False
python=$work/venv/bin/python
"$python" -c 'import airflow' >"$work/first" 2>&1  # writes airflow.cfg, and the byte code

"$python" -X importtime -c 'import airflow' 2>"$work/times" >"$work/printed"
cat >"$work/share.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

took_us = {}
for line in Path(sys.argv[1]).read_text().splitlines():
    if line.startswith("import time:") and line.count("|") == 2:
        _, cumulative, name = line.split("|")
        if cumulative.strip().isdigit():
            took_us[name.strip()] = int(cumulative)
print(f"apache-airflow-core {version('apache-airflow-core')}, task SDK {version('apache-airflow-task-sdk')}")
runner = took_us.get("airflow.sdk.execution_time.task_runner", 0)
print(f"import airflow: {took_us['airflow'] / 1e6:.2f} s with the import timer, {len(took_us)} modules")
print(f"of which the task runner: {runner / 1e6:.2f} s, {100 * runner / took_us['airflow']:.0f} %")
print(f"libcst loaded: {'libcst' in took_us}")
sys.exit(not ("libcst" in took_us and runner > 0.2 * took_us["airflow"]))
PY
"$python" "$work/share.py" "$work/times" || { echo "CHANGED: import airflow no longer loads the task runner"; exit 1; }
