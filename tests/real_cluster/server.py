"""The API server under test, reached by a kubeconfig and the Kubernetes client library only.

The suite does the work of controllers and kubelets: kube-apiserver and etcd are enough to run it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kubernetes import client, config

Json = dict[str, Any]

LONG_S = 60.0
# No node has this label, so no scheduler, kubelet or autoscaler acts on such a pod.
NOWHERE = {"podrelay.test/no-such-node": "true"}
_CONTAINER = {
    "name": "base",
    "image": "podrelay-test:none",
    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
    # Required by the strictest Pod Security level.
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
POD_SPEC: Json = {
    "restartPolicy": "Never",
    "nodeSelector": NOWHERE,
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [_CONTAINER],
}


class Refusal(Exception):
    """A response with a code of 400 or more; its body is usually a `Status`."""

    def __init__(self, code: int, body: Json) -> None:
        super().__init__(f"{code}: {body.get('message')}")
        self.code = code
        self.body = body


class Server:
    """One namespace of a real API server."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.namespace = namespace
        self._client: client.ApiClient = config.new_client_from_config(str(kubeconfig))

    @property
    def pods_path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Json:
        """One request; returns the JSON of the response. Raises `Refusal`."""
        answer = self.request(method, path, body, content_type)
        document = _parsed(answer.data)
        if answer.status >= 400:
            raise Refusal(answer.status, document)
        return document

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """One request; returns the response of urllib3, whatever its code."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        for entry in self._client.configuration.auth_settings().values():
            if entry.get("in") == "header" and entry.get("value"):
                headers[entry["key"]] = entry["value"]
        data = None if body is None else json.dumps(body).encode()
        url = self._client.configuration.host + path
        return self._client.rest_client.pool_manager.request(
            method, url, body=data, headers=headers, timeout=30.0, retries=False
        )

    def patch(self, path: str, patch: Json) -> Json:
        return self.call("PATCH", path, patch, "application/merge-patch+json")

    # --- pods -----------------------------------------------------------------------------------------------------
    def pods(self, query: str = "") -> list[Json]:
        return list(self.call("GET", self.pods_path + query)["items"])

    def get(self, name: str) -> Json | None:
        """The pod, or None."""
        try:
            return self.call("GET", f"{self.pods_path}/{name}")
        except Refusal as refusal:
            if refusal.code == 404:
                return None
            raise

    def set_status(self, name: str, status: Json) -> Json:
        """Write the status, as a kubelet does."""
        return self.patch(f"{self.pods_path}/{name}/status", {"status": status})

    def delete(self, name: str) -> None:
        """Delete the pod at once, as `kubectl delete --now --force` does. No effect when it does not exist."""
        self._delete(f"{self.pods_path}/{name}", {"gracePeriodSeconds": 0})

    def _delete(self, path: str, options: Json | None = None) -> None:
        try:
            self.call("DELETE", path, options)
        except Refusal as refusal:
            if refusal.code != 404:
                raise

    # --- the namespace --------------------------------------------------------------------------------------------
    def make_namespace(self) -> None:
        """Create the namespace, and its service account in case no controller does."""
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        try:
            self.call("POST", path, {"metadata": {"name": "default"}})
        except Refusal as refusal:
            if refusal.code != 409:
                raise
        until(lambda: self.call("GET", f"{path}/default"))

    def drop_namespace(self) -> None:
        """Remove the namespace and everything in it, also without a namespace controller."""
        path = f"/api/v1/namespaces/{self.namespace}"
        for pod in self.pods():
            name = pod["metadata"]["name"]
            if pod["metadata"].get("finalizers"):
                self.patch(f"{self.pods_path}/{name}", {"metadata": {"finalizers": None}})
            self.delete(name)
        for kind in ("resourcequotas", "serviceaccounts"):
            for item in self.call("GET", f"{path}/{kind}")["items"]:
                self._delete(f"{path}/{kind}/{item['metadata']['name']}")
        self._delete(path)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                found = self.call("GET", path)
            except Refusal:
                return
            time.sleep(0.5)
        # There is no namespace controller; do its last step.
        found["spec"] = {"finalizers": []}
        self.call("PUT", f"{path}/finalize", found)


def unique_namespace() -> str:
    return f"podrelay-test-{uuid.uuid4().hex[:8]}"


def until(condition: Callable[[], Any], what: str = "", most_s: float = LONG_S) -> Any:
    """Wait until `condition` holds; returns its value. A refused request counts as false."""
    end = time.monotonic() + most_s
    while True:
        try:
            value = condition()
        except Refusal:
            value = None
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {most_s:g} s: {what}")
        time.sleep(0.1)


def pod(name: str, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": POD_SPEC}


def running(container: str = "base") -> Json:
    """The status of a pod whose container runs."""
    return {"phase": "Running", "containerStatuses": [_status(container, {"running": {"startedAt": _now()}}, True)]}


def ended(exit_code: int, reason: str = "", container: str = "base", **fields: Any) -> Json:
    """The status of a pod whose container has ended."""
    state = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed"),
             "startedAt": _now(), "finishedAt": _now()}  # fmt: skip
    phase = "Failed" if exit_code else "Succeeded"
    return {"phase": phase, "containerStatuses": [_status(container, {"terminated": state}, False)], **fields}


def _status(container: str, state: Json, ready: bool) -> Json:
    image = {"image": _CONTAINER["image"], "imageID": ""}
    return {"name": container, "ready": ready, "restartCount": 0, "state": state, **image}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parsed(data: Any) -> Json:
    try:
        document = json.loads(data)
    except (ValueError, TypeError):
        return {"message": str(data)[:500]}
    return document if isinstance(document, dict) else {}
