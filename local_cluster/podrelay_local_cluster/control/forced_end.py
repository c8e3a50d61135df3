"""Pure: the status of a pod that a test ends in a given way (OOMKilled, Evicted, node lost, ...)."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Any

from podrelay_local_cluster.kubelet import pod_status
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.decoding import decoded
from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.schema import CONDITIONS

_END = {
    "exit_code": int, "signal": int, "reason": str, "message": str, "container": str, "phase": str, "pod_reason": str,
    "pod_message": str, "conditions": CONDITIONS,
}  # fmt: skip
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")


@dataclass(frozen=True)
class ForcedEnd:
    """How a pod ends. Without `exit_code` the container states do not change; without `phase` the exit code decides."""

    exit_code: int | None = None
    signal: int | None = None
    reason: str = ""
    message: str = ""
    container: str = ""
    """The container that ends (if an init container: the main ones never start). Empty: all that have not ended."""
    phase: str = ""
    pod_reason: str = ""
    pod_message: str = ""
    conditions: tuple[Json, ...] = ()

    @classmethod
    def from_json(cls, body: Any) -> ForcedEnd:
        """Raises `StatusError` 400 for an invalid body."""
        if not isinstance(body, dict):
            raise bad_request("the end of a pod must be a JSON object")
        known = {field.name for field in fields(cls)}
        body = {name: value for name, value in decoded(body, _END).items() if value is not None}
        unknown = sorted(set(body) - known)
        if unknown:
            raise bad_request(f"unknown fields {unknown}; known fields: {sorted(known)}")
        if body.get("phase") and body["phase"] not in _PHASES:
            raise bad_request(f"phase must be one of {_PHASES}")
        values = {**body, "conditions": tuple(body.get("conditions") or ())}
        end = cls(**values)
        if end.exit_code is None and not end.phase and not end.pod_reason:
            raise bad_request("the end of a pod needs exit_code, phase or pod_reason")
        return end

    def status_of(self, pod: Json) -> Json:
        """The pod's status after this end. Raises `StatusError` 400 when the pod has no such container."""
        old = pod.get("status") or {}
        if "containerStatuses" not in old:
            old = pod_status.build(pod, pod_status.initial_statuses(pod["spec"]))
        status: Json = copy.deepcopy(old)
        if self.exit_code is not None:
            self._end_containers(status)
        status["phase"] = self.phase or ("Succeeded" if self.exit_code == 0 and not self.pod_reason else "Failed")
        if self.pod_reason:
            status["reason"] = self.pod_reason
        if self.pod_message:
            status["message"] = self.pod_message
        status["conditions"] = self._conditions(status.get("conditions") or [], status["phase"])
        return status

    def _conditions(self, conditions: list[Json], phase: str) -> list[Json]:
        if phase != "Running":
            reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
            for kind in ("Ready", "ContainersReady"):
                conditions = _replaced(conditions, kind, {"status": "False", "reason": reason})
            conditions = _replaced(conditions, "PodReadyToStartContainers", {"status": "False"})
        for given in self.conditions:
            body = {key: value for key, value in given.items() if key != "type"}
            conditions = _replaced(conditions, given.get("type", ""), {"status": "True", **body})
        return conditions

    def _end_containers(self, status: Json) -> None:
        inits, mains = status.get("initContainerStatuses") or [], status["containerStatuses"]
        chosen = [item for item in inits + mains if item.get("name") == self.container]
        if self.container and not chosen:
            raise bad_request(f"the pod has no container {self.container}")
        for item in chosen or [item for item in mains + inits if "terminated" not in (item.get("state") or {})]:
            completes = item in inits and not self.container  # init containers succeed when the main ones end
            item["state"] = {"terminated": self._terminated(item, 0 if completes else self.exit_code or 0)}
            item["ready"] = item["started"] = False

    def _terminated(self, item: Json, exit_code: int) -> Json:
        started = (item.get("state") or {}).get("running", {}).get("startedAt", clock.EPOCH)
        as_given = exit_code == self.exit_code
        reason, message = (self.reason, self.message) if as_given else ("", "")
        body = pod_status.terminated(exit_code, reason, message, started, item.get("containerID", ""))
        if self.signal is not None and as_given:
            body["signal"] = self.signal
        return body


def _replaced(conditions: list[Json], kind: str, body: Json) -> list[Json]:
    before = next((item for item in conditions if item.get("type") == kind), None)
    fresh = pod_status.condition(before, kind, body)
    return [item for item in conditions if item.get("type") != kind] + [fresh]
