"""A thin client for these tests: plain HTTP, so that each test sees what is on the wire, and waits that end with an event."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.harness.local_cluster import LocalCluster

Json = dict[str, Any]

WAIT_LIMIT_S = 20.0


def pod(name: str = "p", *command: str, **spec: Any) -> Json:
    """A pod with one container ``base``; `spec` overrides fields of its spec."""
    container: Json = {"name": "base", "image": "any:1"}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container], **spec},
    }


def held(name: str = "p", labels: dict[str, str] | None = None) -> Json:
    """A pod that stays Pending until the test says otherwise."""
    body = pod(name)
    body["metadata"].update(annotations={"local-cluster/hold": "true"}, labels=labels or {})
    return body


class Api:
    """The pods of one namespace of one local cluster."""

    def __init__(self, cluster: LocalCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.client = httpx.Client(base_url=cluster.url, headers=cluster.headers, timeout=WAIT_LIMIT_S)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def request(self, method: str, path: str = "", body: object = None, **options: Any) -> httpx.Response:
        """`path` is below the namespace's pods, or absolute."""
        headers = dict(options.pop("headers", {}))
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = path if path.startswith("/api") or path.startswith("/local-cluster") else self.path + path
        return self.client.request(method, url, headers=headers, **options)

    def create(self, body: Json, **params: str) -> Json:
        return self._good(self.request("POST", "", body, params=params), 201)

    def get(self, name: str) -> Json:
        return self._good(self.request("GET", f"/{name}"))

    def listing(self, **params: str) -> Json:
        return self._good(self.request("GET", "", params=params))

    def names(self, **params: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.listing(**params)["items"]]

    def version(self) -> str:
        return str(self.listing()["metadata"]["resourceVersion"])

    def patch(self, name: str, body: object, kind: str = "merge-patch", sub: str = "") -> httpx.Response:
        return self.request("PATCH", f"/{name}{sub}", body, headers={"Content-Type": f"application/{kind}+json"})

    def delete(self, name: str, body: object = None, **params: str) -> httpx.Response:
        return self.request("DELETE", f"/{name}", body, params=params)

    def log(self, name: str, **params: str) -> str:
        response = self.request("GET", f"/{name}/log", params=params)
        assert response.status_code == 200, response.text
        return response.text

    def set_phase(self, name: str, phase: str) -> None:
        assert self.patch(name, {"status": {"phase": phase}}, sub="/status").status_code == 200

    @contextmanager
    def watch(self, path: str = "", headers: Any = None, **params: str) -> Iterator[Iterator[Json]]:
        """The events of one watch, as they come; the iteration ends with the stream."""
        url = path or self.path
        with self.client.stream("GET", url, params={"watch": "true", **params}, headers=headers) as response:
            assert response.status_code == 200, response.read()
            yield (json.loads(line) for line in response.iter_lines())

    def wait(self, name: str, until: Callable[[Json], bool]) -> Json:
        """The pod as soon as `until` holds; fails after `WAIT_LIMIT_S`."""
        limit = {"timeoutSeconds": str(int(WAIT_LIMIT_S))}
        with self.watch(fieldSelector=f"metadata.name={name}", **limit) as events:
            last: Json = {}
            for event in events:
                last = event["object"]
                if event["type"] != "DELETED" and until(last):
                    return last
        raise AssertionError(f"{name} did not get there: {json.dumps(last.get('status'), indent=1)}")

    def wait_phase(self, name: str, *phases: str) -> Json:
        return self.wait(name, lambda found: found["status"].get("phase") in phases)

    def wait_gone(self, name: str, version: str = "0") -> Json:
        """The last state of a pod, from its DELETED event."""
        limit = {"timeoutSeconds": str(int(WAIT_LIMIT_S)), "resourceVersion": version}
        with self.watch(fieldSelector=f"metadata.name={name}", **limit) as events:
            for event in events:
                if event["type"] == "DELETED":
                    return dict(event["object"])
        raise AssertionError(f"{name} was not deleted")

    @staticmethod
    def _good(response: httpx.Response, code: int = 200) -> Json:
        assert response.status_code == code, response.text
        return dict(response.json())


def state(found: Json, container: str = "base") -> Json:
    """The state of a container in a pod's status."""
    statuses = (found["status"].get("initContainerStatuses") or []) + found["status"]["containerStatuses"]
    return dict(next(item["state"] for item in statuses if item["name"] == container))


def condition(found: Json, kind: str) -> Json:
    return dict(next(item for item in found["status"]["conditions"] if item["type"] == kind))


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
