"""A pod that speaks Airflow's real execution API without importing Airflow: it begins, defers, and succeeds when resumed.

Run by `python -S -E`, for a thousand pods share two cores. The last argument is the workload that podrelay's pod was given.
With `succeed` as the first, it succeeds at once.
"""

import datetime
import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

Json = dict[str, object]

TRIGGER = "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
LONG_AGO = "2020-01-01T00:00:00+00:00"  # the trigger fires as soon as a triggerer has it


def patch(path: str, token: str, body: Json) -> tuple[int, Json, str]:
    """Status, document, and the token to go on with. Asks again while the server is away or busy, as the task SDK does."""
    server = urllib.parse.urlsplit(os.environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"])
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for _ in range(60):
        try:
            connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=60)
            connection.request("PATCH", server.path.rstrip("/") + path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status < 500:
                return answer.status, json.loads(text or b"{}"), answer.headers.get("Refreshed-API-Token") or token
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.5)
    return 0, {}, token


def main() -> int:
    workload = json.loads(sys.argv[-1])
    path = f"/task-instances/{workload['ti']['id']}"
    now = datetime.datetime.now(datetime.timezone.utc).isoformat()
    begin = {
        "state": "running",
        "hostname": socket.gethostname(),
        "unixname": "pod",
        "pid": os.getpid(),
        "start_date": now,
    }
    status, context, token = patch(f"{path}/run", workload["token"], begin)
    if status != 200:
        print("refused:", status, context)
        return 1
    if context.get("next_method") or sys.argv[1] == "succeed":
        update: Json = {"state": "success", "end_date": now}
    else:
        update = {
            "state": "deferred",
            "classpath": TRIGGER,
            "trigger_kwargs": {"target_time": LONG_AGO},
            "next_method": "execute_complete",
        }
    status, answer, _ = patch(f"{path}/state", token, update)
    print(update["state"], status, answer)
    return 0 if status == 204 else 1


if __name__ == "__main__":
    sys.exit(main())
