#!/usr/bin/env bash
# Software: Airflow 3.3.2.
#
# Expected: `airflow dags unpause DAG --output json` prints the DAG as it is now.
# Seen: it prints `is_paused` as it was before, so the proof that the DAG was unpaused reads
#   "True", and after `pause` "False". The table for people has the same column.
# Why it matters: a deployment script that reads what the command printed repeats it, or
#   stops with an error, although all went well. `airflow dags list` has the present value.
#
# Output on 2026-11-27:
#   Airflow 3.3.2
#   unpause printed is_paused True, and the DAG is paused: False
#   pause printed is_paused False, and the DAG is paused: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False PATH=$work/venv/bin:$PATH
export AIRFLOW__CORE__DAGS_FOLDER=$work/dags AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION=True
mkdir "$work/dags"
cat >"$work/dags/report.py" <<'PY'
from airflow.sdk import DAG

dag = DAG("report", schedule=None)
PY
airflow db migrate >"$work/log" 2>&1
airflow dags reserialize >"$work/log" 2>&1

# The value of is_paused in the JSON that a command prints.
printed() { airflow dags "$@" --output json 2>/dev/null | grep -o '"is_paused": "[A-Za-z]*"' | cut -d '"' -f 4; }

echo "Airflow $(airflow version 2>/dev/null | tail -n 1)"
seen=
for command in unpause pause; do
    said=$(printed "$command" report --yes) now=$(printed list --columns dag_id,is_paused)
    echo "$command printed is_paused $said, and the DAG is paused: $now"
    seen="$seen $said $now"
done
[ "$seen" = " True False False True" ] || {
    echo "CHANGED: the command prints the new value" >&2
    exit 1
}
