"""Watch events a second and core: podrelay's watcher and the stock KubernetesJobWatcher, in turn, on the same events.

`python -m tests.benchmarks.watch_events --pods 2000`. A server process streams the lives of so many pods as fast as it is
read. Ours includes everything up to ledger and stream in a real Redis; the stock one up to its queue. What is counted is
the processor time of the watching process alone, from the first event to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Json = dict[str, Any]
SCHEDULER = "7"
DEPLOYMENT = "bench"


def pod(number: int, launch_id: str) -> Json:
    """A pod as a cluster delivers it: about 6 KB with its spec, environment, volumes and managed fields."""
    labels = {
        "airflow-worker": SCHEDULER, "airflow_version": "3.3.2", "dag_id": "etl", "task_id": f"load-{number}",
        "run_id": "manual__2026-11-20", "try_number": "1", "kubernetes_executor": "True", "podrelay/launch-id": launch_id,
        "podrelay/attempt": "0", "podrelay/deployment": DEPLOYMENT, "podrelay/cluster": "default",
    }  # fmt: skip
    annotations = {"dag_id": "etl", "task_id": f"load-{number}", "run_id": "manual__2026-11-20", "try_number": "1",
                   "podrelay/subject": str(uuid.uuid4())}  # fmt: skip
    environment = [{"name": f"AIRFLOW__SECTION__OPTION_{n}", "value": "a value of some length"} for n in range(20)]
    fields = {"manager": "python", "operation": "Update", "apiVersion": "v1", "time": "2026-11-20T10:00:00Z",
              "fieldsV1": {"f:metadata": {f"f:label-{n}": {".": {}} for n in range(40)}}}  # fmt: skip
    container = {
        "name": "base", "image": "apache/airflow:3.3.2", "args": ["python", "-m", "execute_workload", "x" * 1200],
        "env": environment, "resources": {}, "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": f"v{n}", "mountPath": f"/mnt/{n}", "readOnly": True} for n in range(4)],
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"etl-load-{launch_id.replace('-', '')}-0", "namespace": "default", "uid": launch_id,
                     "creationTimestamp": "2026-11-20T10:00:00Z", "labels": labels, "annotations": annotations,
                     "managedFields": [fields]},
        "spec": {"containers": [container], "restartPolicy": "Never", "serviceAccountName": "default",
                 "volumes": [{"name": f"v{n}", "emptyDir": {}} for n in range(4)],
                 "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    }  # fmt: skip


def life(number: int) -> list[tuple[str, Json]]:
    """The events of one pod from its creation to its deletion."""
    given = pod(number, str(uuid.uuid4()))

    def status(phase: str, state: Json | None) -> Json:
        base = {
            "name": "base",
            "image": "apache/airflow:3.3.2",
            "restartCount": 0,
            "imageID": "sha256:1",
            "ready": phase == "Running",
        }
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": "2026-11-20T10:00:01Z"}
                      for kind in ("PodScheduled", "Initialized", "Ready", "ContainersReady")]  # fmt: skip
        statuses = {"containerStatuses": [base | {"state": state}]} if state else {}
        return given | {"status": {"phase": phase, "conditions": conditions, **statuses}}

    times = {"startedAt": "2026-11-20T10:00:02Z"}
    done = status(
        "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed", **times, "finishedAt": times["startedAt"]}}
    )
    deleted = done | {"metadata": done["metadata"] | {"deletionTimestamp": "2026-11-20T10:01:00Z"}}
    return [
        ("ADDED", given),
        ("MODIFIED", status("Pending", None)),
        ("MODIFIED", status("Pending", {"waiting": {"reason": "ContainerCreating"}})),
        ("MODIFIED", status("Running", {"running": times})),
        ("MODIFIED", done),
        ("DELETED", deleted),
    ]


def serve(pods: int, url_out: str) -> None:
    lives = [life(number) for number in range(pods)]
    lines = []
    for step in range(len(lives[0])):
        for version, events in enumerate(lives):
            kind, given = events[step]
            given = given | {"metadata": given["metadata"] | {"resourceVersion": str(100 + step * pods + version)}}
            lines.append(json.dumps({"type": kind, "object": given}, separators=(",", ":")).encode() + b"\n")
    print(f"{len(lines)} events of {sum(map(len, lines)) / len(lines):.0f} bytes", file=sys.stderr)

    async def handle(request: web.Request) -> web.StreamResponse:
        if not request.query.get("watch"):
            return web.json_response(
                {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}
            )
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        for start in range(0, len(lines), 20):
            await response.write(b"".join(lines[start : start + 20]))
        if "podrelay" in request.query["labelSelector"]:  # the stock watcher ends with its stream, ours on request
            await asyncio.sleep(3600)
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        Path(url_out).write_text(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(main())


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(name: str, events: int, wall_s: float, used_s: float) -> None:
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"name": name, "events": events, "wall_s": round(wall_s, 3), "processor_s": round(used_s, 3),
                      "events_per_processor_s": round(events / used_s), "us_per_event": round(1e6 * used_s / events, 1),
                      "peak_mb": round(peak_mb)}))  # fmt: skip


def stock(pods: int) -> None:
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import KubernetesJobWatcher
    from airflow.providers.cncf.kubernetes.kube_client import get_kube_client
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

    queue = multiprocessing.Manager().Queue()  # as the executor makes it
    watcher = KubernetesJobWatcher("default", queue, "1", SCHEDULER, KubeConfig())
    client = get_kube_client()
    began, used = time.monotonic(), processor_s()
    watcher._run(client, "1", SCHEDULER, watcher.kube_config)
    report("stock KubernetesJobWatcher", pods * 6, time.monotonic() - began, processor_s() - used)
    assert queue.qsize() >= pods


def ours(pods: int) -> None:
    import redis

    from podrelay.protocol.redis_keys import RedisKeys
    from podrelay.settings import Settings
    from podrelay_workers.runtime.shutdown import Shutdown
    from podrelay_workers.watcher.process import run_watcher

    settings = Settings(os.environ["BENCH_REDIS"], os.environ["BENCH_KEY"], DEPLOYMENT)
    keys, client = RedisKeys(DEPLOYMENT), redis.Redis.from_url(settings.redis_url)

    async def main() -> None:
        shutdown = Shutdown()
        task = asyncio.ensure_future(run_watcher(settings, shutdown=shutdown))
        while not client.exists(keys.watch("default")):
            await asyncio.sleep(0.01)
        began, used = time.monotonic(), processor_s()
        while client.zcard(keys.unacknowledged) < pods:
            await asyncio.sleep(0.02)
        report("podrelay watcher, published", pods * 6, time.monotonic() - began, processor_s() - used)
        shutdown.request()
        await task

    asyncio.run(main())


def main(pods: int) -> None:
    from cryptography.fernet import Fernet

    from tests.harness.redis_server import RedisServer

    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as redis_server:
        url_file = Path(name, "url")
        server = subprocess.Popen([sys.executable, "-m", __spec__.name, "--role", "serve", "--pods", str(pods),
                                   "--url-out", str(url_file)])  # fmt: skip
        while not url_file.exists() or not url_file.read_text():
            time.sleep(0.05)
        kubeconfig = Path(name, "kubeconfig")
        cluster = {"name": "c", "cluster": {"server": url_file.read_text()}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
                    "contexts": [context], "users": [{"name": "u", "user": {}}]}  # fmt: skip
        kubeconfig.write_text(yaml.safe_dump(document))
        environment = os.environ | {
            "AIRFLOW_HOME": name, "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False", "BENCH_REDIS": redis_server.url,
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING", "BENCH_KEY": Fernet.generate_key().decode(),
        }  # fmt: skip
        try:
            for role in ("stock", "ours"):
                command = [sys.executable, "-m", __spec__.name, "--role", role, "--pods", str(pods)]
                subprocess.run(command, env=environment, check=True)
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--role", choices=["serve", "stock", "ours"])
    parser.add_argument("--url-out", default="")
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.pods, options.url_out)
    else:
        {None: main, "stock": stock, "ours": ours}[options.role](options.pods)
