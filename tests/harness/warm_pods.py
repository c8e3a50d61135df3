"""The processes of warm pods as threads, on a local cluster whose pods are timers: each waits in its own mailbox as
a real one does (`podrelay_workers.warm_pod.inbox`), and keeps what it gets.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError

from podrelay import pod_command
from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import Delivery, MailboxKey
from podrelay.protocol.messages import LaunchRequest, WarmPodConfig
from podrelay.settings import Settings
from podrelay_workers.warm_pod.inbox import DataLost, Inbox
from tests.harness.launcher_rig import LauncherRig
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until

_LOOK_S = 0.05
# How long a pod waits for its mailbox at a time.
_TURN_S = 0.2
# The template of pods whose timer outlasts a test.
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {name: template, labels: {from: template}, annotations: {"local-cluster/duration-s": "600"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: base, image: "apache/airflow:3.3.2"}]
"""


class WarmPodThreads:
    """`deliveries` holds what each pod got, by name. While `paused` is set, pods show that they live, and take nothing."""

    def __init__(self, cluster: LocalCluster, settings: Settings) -> None:
        self.cluster = cluster
        self.settings = replace(settings, redis_timeout_s=0.5)
        self.deliveries: dict[str, Delivery] = {}
        self.paused = threading.Event()
        self.seen: set[str] = set()
        self._stopped: set[str] = set()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextmanager
    def running(self) -> Iterator[WarmPodThreads]:
        looking = threading.Thread(target=self._follow, daemon=True)
        looking.start()
        try:
            yield self
        finally:
            self._done.set()
            looking.join()
            for thread in self._threads:
                thread.join(5.0)

    def pause(self) -> None:
        """From now on no pod takes anything, also none that waits for its mailbox at this moment."""
        self.paused.set()
        time.sleep(2 * _TURN_S)

    def pods(self) -> list[dict[str, Any]]:
        return [pod for pod in self.cluster.pods() if identifiers.LABEL_WARM in pod["metadata"]["labels"]]

    def idle(self) -> list[str]:
        """The names of the pods without a launch, as Kubernetes shows them."""
        return [pod["metadata"]["name"] for pod in self.pods() if identifiers.LABEL_IDLE in pod["metadata"]["labels"]]

    def _follow(self) -> None:
        while not self._done.wait(_LOOK_S):
            with suppress(HTTPError):  # a fault that concerns launchers
                self._look(self.pods())

    def _look(self, pods: list[dict[str, Any]]) -> None:
        running = {
            pod["metadata"]["name"]: pod
            for pod in pods
            if pod.get("status", {}).get("phase") == "Running" and not _ends_by_itself(pod)
        }
        self._stopped |= self.seen - set(running)
        for name in set(running) - self.seen:
            self.seen.add(name)
            thread = threading.Thread(target=self._wait, args=(name, running[name]), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _argument(self, pod: dict[str, Any]) -> str:
        *_, option, argument = pod["spec"]["containers"][0]["args"]
        if option != "--json-path":
            return str(argument)
        name = pod["metadata"]["annotations"][identifiers.ANNOTATION_WORKLOAD_SECRET]
        while True:  # the pod is created first
            try:
                secret = self.cluster.call("GET", f"/api/v1/namespaces/default/secrets/{name}")
            except HTTPError:
                time.sleep(_LOOK_S)
                continue
            return base64.b64decode(secret["data"]["workload.json"]).decode()

    def _wait(self, name: str, pod: dict[str, Any]) -> None:
        config = WarmPodConfig.decode(self._argument(pod).encode())
        inbox = PausableInbox(self.settings, config.deployment, MailboxKey.from_text(config.key))
        inbox.paused = self.paused
        end_s = time.monotonic() + config.idle_s
        try:
            while not self._done.is_set() and name not in self._stopped and time.monotonic() < end_s:
                delivery = inbox.wait(0.5)
                if delivery is not None:
                    self.deliveries[name] = delivery
                    return
            inbox.resign()
        except DataLost:
            pass
        finally:
            inbox.close()
        if name not in self._stopped and not self._done.is_set():
            self.cluster.end_pod("default", name, exit_code=75)


def _ends_by_itself(pod: dict[str, Any]) -> bool:
    """Of an image that cannot run a warm pod."""
    return "local-cluster/exit-code" in pod["metadata"]["annotations"]


class PausableInbox(Inbox):
    """Of a process that hangs at times, after it has shown a sign of life."""

    paused: threading.Event

    def _next(self, limit_s: float) -> bytes | None:
        if not self.paused.is_set():
            return super()._next(min(limit_s, _TURN_S))
        self._look()
        time.sleep(min(limit_s, _TURN_S))
        return None


ON: dict[str, Any] = {"warm_pods_max": 4, "warm_pods_min": 2, "warm_assign_timeout_s": 1.0}


class Warm:
    """A deployment with warm pods."""

    def __init__(self, rig: LauncherRig, cluster: LocalCluster, pods: WarmPodThreads) -> None:
        self.rig = rig
        self.cluster = cluster
        self.pods = pods
        self.marked = 0

    def request(self, number: int = 0, **changes: Any) -> LaunchRequest:
        args = pod_command.with_argument(f'{{"token": "{number}"}}')
        return self.rig.request(number, **{"args": args, "namespace": "default", **changes})

    @asynccontextmanager
    async def launcher(self, **changes: Any) -> AsyncIterator[Any]:
        async with self.rig.launcher(**(ON | changes)) as launcher:
            yield launcher

    def environment(self, **changes: Any) -> dict[str, str]:
        """The options for a launcher process."""
        return {f"AIRFLOW__PODRELAY__{name.upper()}": str(value) for name, value in (ON | changes).items()}

    async def started(self, *requests: LaunchRequest, state: str = "started") -> None:
        await until(lambda: self.rig.states(list(requests)) == {state: len(requests)}, 10)

    async def filled(self, number: int = 2) -> None:
        """One cold launch makes the shape known; wait for that many idle pods."""
        first = self.request(99)
        self.rig.offer(first)
        # Where a watcher runs, it may report the start before anybody looks.
        await until(lambda: self.rig.ledger(first).get("state") in ("created", "started"), 10)
        assert self.rig.ledger(first)["start"] == "new_shape"
        await self.ready(number)

    async def ready(self, number: int = 2) -> None:
        await until(lambda: self.idle_in_redis() == number, 15)

    def idle_in_redis(self) -> int:
        return sum(self.rig.redis.zcard(key) for key in self.rig.redis.keys("podrelay:default:warm_idle:*"))

    def pods_of(self, request: LaunchRequest) -> list[dict[str, Any]]:
        return [
            pod
            for pod in self.cluster.pods()
            if pod["metadata"]["labels"].get(identifiers.LABEL_LAUNCH_ID) == request.launch_id
        ]

    def calls(self) -> list[tuple[str, str]]:
        """Verb and pod of each successful request of launchers since `mark`."""
        return [
            (entry["verb"], entry["name"])
            for entry in self.cluster.audit(self.marked)
            if entry["resource"] == "pods" and "podrelay-" in entry["user_agent"] and entry["status"] < 300
        ]

    def mark(self) -> None:
        self.marked = max((entry["number"] for entry in self.cluster.audit()), default=0)
