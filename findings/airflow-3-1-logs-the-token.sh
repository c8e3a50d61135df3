#!/usr/bin/env bash
# Software: apache-airflow-core 3.1.8, apache-airflow-task-sdk 1.1.8.
#
# Expected: the token that lets a task's process speak for its task to Airflow's execution API is in no log.
# Seen: the module that every pod of the KubernetesExecutor runs writes the whole token into its first log line,
#   on standard output: the line shows the repr of the workload, and that has the token. Airflow 3.2.2 and 3.3.2
#   leave it out of the repr.
# Why it matters: standard output of a pod is what `kubectl logs` shows and what log collectors store and index.
#   Whoever reads it can act as the task while the token is valid: read the variables, connections and XComs that
#   the task may read, and end it. Upgrade, or drop lines with the event "Executing workload" before they are stored.
#
# Output on 2026-11-28:
#   task SDK 1.1.8: the token is in the log: True
#   task SDK 1.3.2: the token is in the log: False
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False
# Nothing listens there: the line is written before the first request.
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL=http://127.0.0.1:9/execution/ AIRFLOW__WORKERS__EXECUTION_API_RETRIES=1

id=0190a0a0-0000-7000-8000-000000000001
workload='{"token": "the-token-of-the-task", "dag_rel_path": "dag.py", "log_path": null, "type": "ExecuteTask",
    "bundle_info": {"name": "dags-folder", "version": null},
    "ti": {"id": "'$id'", "dag_version_id": "'$id'", "task_id": "t", "dag_id": "d", "run_id": "r", "try_number": 1,
        "map_index": -1, "pool_slots": 1, "queue": "default", "priority_weight": 1}}'

# Installs these packages, runs the workload and prints whether its token is in the log.
run() {
    rm -rf "$work/venv"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile "$@"
    "$work/venv/bin/python" -m airflow.sdk.execution_time.execute_workload --json-string "$workload" \
        >"$work/log" 2>"$work/errors" || true
    grep -q "Executing workload" "$work/log" || { cat "$work/errors" >&2; exit 1; }
    if grep -q the-token-of-the-task "$work/log"; then shown=True; else shown=False; fi
    echo "task SDK $("$work/venv/bin/python" -c 'from importlib.metadata import version as v; print(v("apache-airflow-task-sdk"))'):" \
        "the token is in the log: $shown"
}

# structlog: findings/airflow-3-1-meets-new-structlog.sh
run apache-airflow-core==3.1.8 apache-airflow-task-sdk==1.1.8 "structlog<25.5"
old=$shown
run apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2
[ "$old $shown" = "True False" ] || {
    echo "CHANGED: $old in 3.1.8, $shown in 3.3.2" >&2
    exit 1
}
