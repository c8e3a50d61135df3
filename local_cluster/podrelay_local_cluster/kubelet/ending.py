"""Pure: the status of a pod that a test wants to have ended in a given way (OOMKilled, Evicted, node lost, ...)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from podrelay_local_cluster.kubelet import pod_status
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.errors import bad_request

Json = dict[str, Any]

_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


@dataclass(frozen=True)
class Ending:
    """How a pod ends. Without `exit_code` the container states stay as they are; without `phase` the exit code decides."""

    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    container: str = ""
    """The container that ends (an init container: the main ones never started); empty: all that have not ended."""
    phase: str = ""
    pod_reason: str = ""
    pod_message: str = ""
    conditions: tuple[Json, ...] = ()

    @classmethod
    def of_json(cls, body: Any) -> Ending:
        """Raises `ApiError` 400 for anything that is no such object."""
        if not isinstance(body, dict):
            raise bad_request("the ending of a pod is a JSON object")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(body) - known)
        if unknown:
            raise bad_request(f"unknown fields {unknown}; known are {sorted(known)}")
        if body.get("phase") and body["phase"] not in _PHASES:
            raise bad_request(f"phase must be one of {_PHASES}")
        values = {**body, "conditions": tuple(body.get("conditions") or ())}
        ending = cls(**values)
        if ending.exit_code is None and not ending.phase and not ending.pod_reason:
            raise bad_request("an ending needs exit_code, phase or pod_reason")
        return ending

    def status_of(self, pod: Json) -> Json:
        """Raises `ApiError` 400 when the pod has no such container."""
        old = pod.get("status") or {}
        if "containerStatuses" not in old:
            old = pod_status.build(pod, pod_status.container_states(pod["spec"]))
        status: Json = json.loads(json.dumps(old))
        if self.exit_code is not None:
            self._end_containers(status)
        status["phase"] = self.phase or ("Succeeded" if self.exit_code == 0 and not self.pod_reason else "Failed")
        if self.pod_reason:
            status["reason"] = self.pod_reason
        if self.pod_message:
            status["message"] = self.pod_message
        conditions = status.get("conditions") or []
        if status["phase"] != "Running":
            reason = "PodCompleted" if status["phase"] == "Succeeded" else "PodFailed"
            for kind in ("Ready", "ContainersReady"):
                conditions = _replaced(conditions, kind, {"status": "False", "reason": reason})
        for given in self.conditions:
            body = {key: value for key, value in given.items() if key != "type"}
            conditions = _replaced(conditions, given.get("type", ""), {"status": "True", **body})
        status["conditions"] = conditions
        return status

    def _end_containers(self, status: Json) -> None:
        inits, mains = status.get("initContainerStatuses") or [], status["containerStatuses"]
        chosen = [item for item in inits + mains if item["name"] == self.container]
        if self.container and not chosen:
            raise bad_request(f"the pod has no container {self.container}")
        for item in chosen or [item for item in mains + inits if "terminated" not in item["state"]]:
            is_bystander = item in inits and not self.container
            item["state"] = {"terminated": self._terminated(item, 0 if is_bystander else self.exit_code or 0)}
            item["ready"] = item["started"] = False

    def _terminated(self, item: Json, exit_code: int) -> Json:
        started = item["state"].get("running", {}).get("startedAt", clock.EPOCH)
        is_own = exit_code == self.exit_code
        reason, message = (self.reason, self.message) if is_own else ("", "")
        body = pod_status.terminated(exit_code, reason, message, started, item.get("containerID", ""))
        if self.signal is not None and is_own:
            body["signal"] = self.signal
        return body


def _replaced(conditions: list[Json], kind: str, body: Json) -> list[Json]:
    before = next((item for item in conditions if item.get("type") == kind), None)
    fresh = pod_status.condition(before, kind, body)
    return [item for item in conditions if item.get("type") != kind] + [fresh]
