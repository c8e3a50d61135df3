"""Watch events a second and core: podrelay's watcher and the stock KubernetesJobWatcher, in turn, on the same events.

`python -m tests.benchmarks.watch_events --pods 2000`, or the part `watcher` of the benchmark. A server process streams the
lives of so many pods over TLS, as fast as they are read. Ours is `airflow podrelay watcher`, up to ledger and stream in a
real Redis; the stock one goes up to its queue. What is counted is the processor time of the watching process alone, from
the first event to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import ssl
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
import yaml
from aiohttp import web

from podrelay_local_cluster.kubelet import pod_status
from podrelay_local_cluster.objects import managed_fields
from podrelay_local_cluster.objects.managed_fields import Managers
from podrelay_local_cluster.objects.record import Record
from tests.benchmarks.builds import ROOT, THIS, Build
from tests.benchmarks.cues import GO, Cues
from tests.benchmarks.figures import medians
from tests.benchmarks.processes import cost_of
from tests.benchmarks.rig import FERNET_KEY, airflow_home
from tests.harness.certificates import make_certificates
from tests.harness.redis_server import RedisServer

Json = dict[str, Any]
SCHEDULER = "7"
DEPLOYMENT = "default"
EVENTS_PER_POD = 8
FIRST_VERSION = 100
START_LIMIT_S = 180.0
SETTLED_S = 2.0


def pod(number: int, launch_id: str) -> Json:
    """A pod as a cluster delivers it: 6 to 7 KB with spec, volumes, status and managed fields."""
    labels = {
        "airflow-worker": SCHEDULER, "airflow_version": "3.3.2", "dag_id": "etl", "task_id": f"load-{number}",
        "run_id": "manual__2026-11-20", "try_number": "1", "kubernetes_executor": "True", "podrelay/launch-id": launch_id,
        "podrelay/attempt": "0", "podrelay/deployment": DEPLOYMENT, "podrelay/cluster": "default",
    }  # fmt: skip
    annotations = {"dag_id": "etl", "task_id": f"load-{number}", "run_id": "manual__2026-11-20", "try_number": "1",
                   "podrelay/subject": str(uuid.uuid4())}  # fmt: skip
    environment = [{"name": f"AIRFLOW__SECTION__OPTION_{n}", "value": "a value of some length"} for n in range(8)]
    container = {
        "name": "base", "image": "apache/airflow:3.3.2", "args": ["python", "-m", "execute_workload", "x" * 1200],
        "env": environment, "resources": {}, "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": f"v{n}", "mountPath": f"/mnt/{n}", "readOnly": True} for n in range(4)],
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": f"etl-load-{launch_id.replace('-', '')}-0", "namespace": "default", "uid": launch_id,
                     "creationTimestamp": "2026-11-20T10:00:00Z", "labels": labels, "annotations": annotations},
        "spec": {"containers": [container], "restartPolicy": "Never", "serviceAccountName": "default",
                 "volumes": [{"name": f"v{n}", "emptyDir": {}} for n in range(4)],
                 "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    }  # fmt: skip


def life(number: int) -> list[tuple[str, Json, Managers]]:
    """The events of one pod from its creation to its deletion, with the statuses of a kubelet."""
    given = pod(number, str(uuid.uuid4()))
    managers = managed_fields.of_new_pod("python", given["spec"], given)
    events = [("ADDED", given, managers), ("MODIFIED", given | {"status": pod_status.scheduled(given)}, managers)]
    (state,) = states = pod_status.initial_statuses(given["spec"])

    def report(sandbox: bool = True, final: bool = False) -> None:
        last = events[-1][1]
        status = pod_status.build(last, states, sandbox=sandbox, final=final)
        events.append(("MODIFIED", last | {"status": status}, managed_fields.with_kubelet(managers, status)))

    report(sandbox=False)
    state.set_running("containerd://" + uuid.uuid4().hex * 2)
    report()
    state.set_terminated(0)
    report()
    report(final=True)
    _, ended, managers = events[-1]
    mark = {"deletionTimestamp": "2026-11-20T10:01:00Z", "deletionGracePeriodSeconds": 0}
    deleted = ended | {"metadata": ended["metadata"] | mark}
    return [*events, ("MODIFIED", deleted, managers), ("DELETED", deleted, managers)]


def last_version(pods: int) -> int:
    """Of the events of so many lives."""
    return FIRST_VERSION + pods * EVENTS_PER_POD - 1


def serve(pods: int, folder: Path) -> None:
    """Over TLS, with the certificates in `folder`. The events follow when the cue is given."""
    lives = [life(number) for number in range(pods)]
    assert {len(events) for events in lives} == {EVENTS_PER_POD}
    lines = []
    for step in range(len(lives[0])):
        for version, events in enumerate(lives):
            kind, given, managers = events[step]
            given = given | {
                "metadata": given["metadata"] | {"resourceVersion": str(FIRST_VERSION + step * pods + version)}
            }
            text = Record("pods", given, 0, managers=managers).json()
            lines.append(b'{"type":"%s","object":%s}\n' % (kind.encode(), text))
    signals = Cues(folder)

    async def handle(request: web.Request) -> web.StreamResponse:
        if not request.query.get("watch"):
            return web.json_response(
                {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}
            )
        response = web.StreamResponse()
        response.content_type = "application/json"
        await response.prepare(request)
        while not signals.given(GO):
            await asyncio.sleep(0.01)
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
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(folder / "server.crt", folder / "server.key")
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = folder / "port.new"
        port.write_text(str(runner.addresses[0][1]))
        port.rename(folder / "port")
        await asyncio.Event().wait()

    asyncio.run(main())


def stock(pods: int, out: Path) -> None:
    from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import KubernetesJobWatcher
    from airflow.providers.cncf.kubernetes.kube_client import get_kube_client
    from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

    queue = multiprocessing.Manager().Queue()  # as the executor makes it
    watcher = KubernetesJobWatcher("default", queue, "1", SCHEDULER, KubeConfig())
    client = get_kube_client()
    began_s, used_s = time.monotonic(), time.process_time()
    watcher._run(client, "1", SCHEDULER, watcher.kube_config)
    found = {"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time() - used_s}
    assert queue.qsize() >= pods
    out.write_text(json.dumps(found))


class Bed:
    """A Redis and a server of events; a context manager. Made anew for each contestant."""

    def __init__(self, pods: int) -> None:
        self.pods = pods

    def __enter__(self) -> Bed:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podrelay-bench-watch-")))
            self._redis = stack.enter_context(RedisServer(self.folder))
            make_certificates(self.folder)
            command = [sys.executable, "-m", __spec__.name, "--role", "serve", "--pods", str(self.pods)]
            server = subprocess.Popen([*command, "--folder", str(self.folder)], cwd=ROOT)
            stack.callback(server.wait)
            stack.callback(server.kill)
            end = time.monotonic() + START_LIMIT_S
            while not (self.folder / "port").exists():
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("the server of events did not start")
                time.sleep(0.05)
            self._kubeconfig = self.folder / "kubeconfig"
            self._kubeconfig.write_text(yaml.safe_dump(self._config()))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _config(self) -> Json:
        cluster = {
            "server": f"https://localhost:{(self.folder / 'port').read_text()}",
            "certificate-authority": str(self.folder / "ca.crt"),
        }
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        return {"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [context],
                "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {}}]}  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {
            **airflow_home(self.folder),
            "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "AIRFLOW__PODRELAY__REDIS_URL": self._redis.url,
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(self._kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        }

    def stock(self) -> Json:
        Cues(self.folder).give(GO)
        out = self.folder / "stock.json"
        command = [sys.executable, "-m", __spec__.name, "--role", "stock", "--pods", str(self.pods), "--out", str(out)]
        subprocess.run(command, cwd=ROOT, env=self._environment(), check=True)
        return self._figures(**json.loads(out.read_text()))

    def ours(self, build: Build) -> Json:
        """:raises RuntimeError: the watcher ended, or did not report all pods in time."""
        client = redis.Redis.from_url(self._redis.url)
        log_path = self.folder / "watcher.log"
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                build.worker("watcher"), cwd=build.root, env=self._environment(), stdout=log, stderr=log
            )

        def wait_for(true: Callable[[], object]) -> None:
            end = time.monotonic() + START_LIMIT_S
            while not true():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"watcher of {build.label}:\n{log_path.read_text()[-4000:]}")
                time.sleep(0.02)

        try:
            wait_for(lambda: client.hget("podrelay:default:watch:default", "t_listed"))
            time.sleep(SETTLED_S)
            began_s, used_s = time.monotonic(), cost_of(process.pid)["cpu_s"]
            Cues(self.folder).give(GO)
            wait_for(lambda: client.zcard("podrelay:default:unacknowledged") >= self.pods)
            wall_s = time.monotonic() - began_s
            # Reports may come before the events that follow an end are read. Now and then the watcher writes how far it is.
            last = str(last_version(self.pods)).encode()
            wait_for(lambda: client.hget("podrelay:default:watch:default", "version") == last)
            return self._figures(wall_s, cost_of(process.pid)["cpu_s"] - used_s)
        finally:
            client.close()
            process.terminate()
            process.wait(30)

    def _figures(self, wall_s: float, cpu_s: float) -> Json:
        events = self.pods * EVENTS_PER_POD
        return {"events": events, "wall_s": wall_s, "cpu_s": cpu_s, "events_per_cpu_s": events / cpu_s,
                "us_per_event": 1e6 * cpu_s / events}  # fmt: skip


def measure(pods: int, rounds: int, builds: Callable[[int], list[Build]]) -> Json:
    """:param builds: which, in a given round."""
    found: dict[str, list[Json]] = {}
    for turn in range(rounds):
        with Bed(pods) as bed:
            found.setdefault("stock KubernetesJobWatcher", []).append(bed.stock())
        for build in builds(turn):
            with Bed(pods) as bed:
                found.setdefault(f"{build.label}, watcher", []).append(bed.ours(build))
    return {"pods": pods, "rounds": rounds, "rows": [{"name": name, **medians(runs)} for name, runs in found.items()]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--role", choices=["serve", "stock"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "serve":
        serve(options.pods, options.folder)
    elif options.role == "stock":
        stock(options.pods, options.out)
    else:
        print(json.dumps(measure(options.pods, 1, lambda _: [THIS]), indent=2))
