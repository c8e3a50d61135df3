#!/usr/bin/env bash
# Software: apache-airflow-core 3.3.2, apache-airflow-task-sdk 1.3.2.
#
# Expected: the process that supervises a task ends a few milliseconds after the task's process; that of an
#   executor's worker, or the container of a task pod, with it.
# Seen: about every second time it ends five seconds later. It waits for the sockets of its child and then asks
#   once whether the child has exited. The kernel closes the sockets of a dying process before its parent can see
#   that it is dead, so the question often comes too early, and the supervisor goes on to wait for
#   `[workers] min_heartbeat_interval` (5 s by default), without a socket that could wake it.
# Why it matters: the task is a success and its log is complete, but its slot, its pod and what that pod requests
#   stay taken for five seconds more. For a task of one second that is most of what it costs. Where it matters,
#   set AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=1; heartbeats are then sent each second.
#
# Output on 2026-11-28:
#   task SDK 1.3.2
#   seconds from the task's success to the end of its supervisor: 0.02 5.03 0.01 5.03 0.02 5.02 0.02 5.03 0.04 5.02 0.01 0.01
#   5 of 12 supervisors waited, at most 5.03 s
#   task SDK 1.3.2
#   seconds from the task's success to the end of its supervisor: 1.09 1.01 0.03 1.01
#   with min_heartbeat_interval = 1: at most 1.09 s
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    apache-airflow-core==3.3.2 apache-airflow-task-sdk==1.3.2 apache-airflow-providers-standard==1.21.0
export AIRFLOW_HOME=$work/airflow AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__DAGS_FOLDER=$work/dags
export AIRFLOW__LOGGING__LOGGING_LEVEL=ERROR
mkdir "$work/dags"
cat >"$work/dags/short.py" <<'PY'
from airflow.sdk import DAG, task

with DAG("short", schedule=None):

    @task
    def hello():
        print("hello")

    hello()
PY
cat >"$work/tasks.py" <<'PY'
import sys
import time
import uuid
from datetime import datetime, timezone
from importlib.metadata import version

import httpx
from airflow.executors.workloads import BundleInfo
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import TaskInstance
from airflow.sdk.execution_time.supervisor import supervise_task

now = datetime.now(timezone.utc).isoformat()
dates = ("logical_date", "data_interval_start", "data_interval_end", "run_after", "start_date")
run = dict.fromkeys(dates, now) | {
    "dag_id": "short", "run_id": "r", "end_date": None, "run_type": "manual", "state": "running", "conf": {},
    "consumed_asset_events": [], "partition_key": None,
}
context = {"dag_run": run, "task_reschedule_count": 0, "max_tries": 0, "variables": [], "connections": [],
           "should_retry": False, "xcom_keys_to_clear": []}
ended = 0.0


def api(request):
    """What the execution API answers; no other part of Airflow runs here."""
    global ended
    if request.url.path.endswith("/state"):  # the task is over, and its process exits
        ended = time.monotonic()
    return httpx.Response(200, json=context) if request.url.path.endswith("/run") else httpx.Response(204)


def linger():
    ti = TaskInstance(id=uuid.uuid4(), task_id="hello", dag_id="short", run_id="r", try_number=1, map_index=-1,
                      dag_version_id=uuid.uuid4(), queue="default")
    code = supervise_task(
        ti=ti, bundle_info=BundleInfo(name="dags-folder", version=None), dag_rel_path="short.py", token="",
        client=Client(base_url="http://api/execution/", token="", transport=httpx.MockTransport(api)),
    )
    assert code == 0
    return time.monotonic() - ended


print(f"task SDK {version('apache-airflow-task-sdk')}", file=sys.stderr)
after = [linger() for _ in range(int(sys.argv[1]))]
print("seconds from the task's success to the end of its supervisor:", *(f"{s:.2f}" for s in after), file=sys.stderr)
print(sum(s > 1 for s in after), f"{max(after):.2f}")
PY

python=$work/venv/bin/python
read -r late longest < <("$python" "$work/tasks.py" 12 | tail -n 1)
echo "$late of 12 supervisors waited, at most $longest s"
read -r _ short < <(AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=1 "$python" "$work/tasks.py" 4 | tail -n 1)
echo "with min_heartbeat_interval = 1: at most $short s"
[ "$late" -ge 1 ] || {
    echo "CHANGED: no supervisor outlives its task" >&2
    exit 1
}
