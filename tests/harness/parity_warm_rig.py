"""Our executor whose launchers use warm pods: each task that a test hands over finds an idle one."""

from __future__ import annotations

import time
from typing import ClassVar

import redis

from podrelay.protocol import identifiers
from podrelay.protocol.redis_keys import RedisKeys
from tests.harness.parity_rig import Json, PodrelayRig, Task

DEPLOYMENT = "warm"
KEYS = RedisKeys(DEPLOYMENT)
OPTIONS = {"AIRFLOW__PODRELAY__WARM_PODS_MAX": "4", "AIRFLOW__PODRELAY__WARM_PODS_MIN": "2"}


class WarmRig(PodrelayRig):
    """`assigned`: uids of the warm pods that tasks were seen to have, of all rigs."""

    deployment = DEPLOYMENT
    workers = "warm_workers"
    assigned: ClassVar[set[str]] = set()

    def queue(self, ti_id: str) -> Task:
        client: redis.Redis = self.executor._breaker._client  # type: ignore[attr-defined]
        if not client.exists(KEYS.warm_shapes("default")):
            self._show_shape()
        self._await_idle_pod(client)
        return super().queue(ti_id)

    def host(self, task: Task, pod: Json) -> str:
        attempt = int(pod["metadata"]["labels"][identifiers.LABEL_ATTEMPT])
        return identifiers.warm_host(pod["metadata"]["name"], task.launch_id, attempt)

    def pods(self, task: Task) -> list[Json]:
        found = super().pods(task)
        WarmRig.assigned |= {
            pod["metadata"]["uid"] for pod in found if identifiers.LABEL_WARM in pod["metadata"]["labels"]
        }
        return found

    def creates(self, task: Task) -> list[Json]:
        """A warm pod was created for whichever task would get it."""
        uids = {pod["metadata"]["uid"] for pod in self.pods(task)}
        created = [entry for entry in self.cluster.audit() if entry["verb"] == "create" and entry["resource"] == "pods"]
        return [entry for entry in created if entry["uid"] in uids or entry["name"].startswith(task.prefix)]

    def _show_shape(self) -> None:
        """The first launch of a shape gets a new pod."""
        task = super().queue(self.make()[0])
        self.end_pod(self.pod(task, phase="Running"), exit_code=1, reason="Error")
        self.event(task)
        self.executor.get_event_buffer()

    @staticmethod
    def _await_idle_pod(client: redis.Redis) -> None:
        end = time.monotonic() + 20
        while not any(client.zcard(key) for key in client.keys(KEYS.warm_idle("default", "*"))):  # type: ignore[union-attr]
            assert time.monotonic() < end, "no warm pod is idle"
            time.sleep(0.05)
