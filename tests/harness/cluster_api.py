"""The HTTP API of a local cluster for tests: `ClusterApi` covers the cluster, `NamespaceApi` the pods of one namespace."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import select
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import httpx

Json = dict[str, Any]

WAIT_LIMIT_S = 20.0
_REQUEST_LIMIT_S = 30.0


class KeptConnections:
    """One connection for each thread: tests look often, and a handshake costs both sides more than the rest of a request."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[http.client.HTTPSConnection] = []

    def __del__(self) -> None:
        for connection in self._all:
            connection.close()

    def request(
        self, method: str, url: str, path: str, data: bytes | None, headers: dict[str, str], tls: ssl.SSLContext
    ) -> bytes:
        """The body of the answer. Raises what `urllib.request.urlopen` raises."""
        connection = self._of_this_thread(url, tls)
        try:
            connection.request(method, path, data, headers)
        except OSError as error:
            connection.close()
            raise URLError(error) from error
        try:
            response = connection.getresponse()
            body = response.read()
        except BaseException:
            connection.close()
            raise
        if response.status >= 300:
            raise HTTPError(url + path, response.status, response.reason, response.headers, io.BytesIO(body))
        return body

    def _of_this_thread(self, url: str, tls: ssl.SSLContext) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._own, "connection", None)
        if connection is None or self._own.of != (url, tls):
            if connection is not None:
                connection.close()
            address = url.partition("//")[2]
            connection = http.client.HTTPSConnection(address, timeout=_REQUEST_LIMIT_S, context=tls)
            self._own.connection, self._own.of = connection, (url, tls)
            self._all.append(connection)
        elif connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # the server has closed it, perhaps because it was stopped
        return connection


class ClusterApi:
    """The objects of one cluster, and its control API: faults, compaction, restarts, forced ends, audit log."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.url = ""
        """The address; requests to it need `headers` and `tls`."""
        self.token = ""
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        """Trusts the cluster's CA, once connected."""
        self.clients: list[httpx.Client] = []
        """Those of `NamespaceApi`, which `close` closes."""
        self._kept = KeptConnections()

    def connect(self) -> None:
        """Read address, CA and token from the kubeconfig."""
        config = json.loads(self.kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self.url = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.token = config["users"][0]["user"]["token"]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """One request with the token; returns the JSON of the response. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": content_type}
        return json.loads(self._kept.request(method, self.url, path, data, headers, self.tls))

    def control(self, path: str, body: object = None, method: str = "POST") -> Any:
        """One request below ``/local-cluster/``."""
        return self.call(method, f"/local-cluster/{path}", body)

    # --- faults -----------------------------------------------------------------------------------------------------

    def faults(self, *rules: Json, **others: Any) -> Any:
        """Replace all faults by these rules and `images`, `quota`, `seed`, `pod_start_delay_s`. No arguments: no faults."""
        return self.control("faults", {"rules": list(rules), **others}, "PUT")

    def add_fault(self, **rule: Any) -> str:
        """Add one rule; returns its id."""
        return str(self.control("faults", {"rules": [rule]})["ids"][0])

    def remove_fault(self, rule_id: str) -> None:
        self.control(f"faults?id={rule_id}", method="DELETE")

    def compact(self) -> None:
        """Drop the event window: every version so far is 410."""
        self.control("compact")

    def drop_streams(self) -> None:
        """End all open watches."""
        self.control("drop-streams")

    def restart(self, down_s: float, forget: bool = False) -> None:
        """Refuse connections for `down_s` while pods continue. Returns when all connections are closed."""
        connection = http.client.HTTPSConnection(
            self.url.partition("//")[2], timeout=_REQUEST_LIMIT_S, context=self.tls
        )
        body = json.dumps({"down_s": down_s, "forget": forget})
        connection.request("POST", "/local-cluster/restart", body, self.headers)
        sock = connection.sock
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"restart refused: {content!r}")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            sock.recv(1)
        connection.close()

    # --- pods -------------------------------------------------------------------------------------------------------

    def pods(self, namespace: str = "default", query: str = "") -> list[Json]:
        """The pods of a list."""
        items: list[Json] = self.call("GET", f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return items

    def end_pod(self, namespace: str, name: str, **end: Any) -> Any:
        """End a pod: exit_code, signal, reason, message, container, phase, pod_reason, pod_message, conditions."""
        return self.control(f"pods/{namespace}/{name}/end", end)

    def end_pods(self, exit_code: int = 0, namespace: str = "", label_selector: str = "") -> int:
        """The running pods that match end at the same time, as if their containers had exited; returns their number."""
        body = {"exit_code": exit_code, "namespace": namespace, "label_selector": label_selector}
        return int(self.control("end-pods", body)["ended"])

    def vanish_pod(self, namespace: str, name: str) -> None:
        """Remove a pod at once. The DELETED event is its only trace."""
        self.control(f"pods/{namespace}/{name}/vanish")

    # --- observation ------------------------------------------------------------------------------------------------

    def audit(self, since: int = 0) -> list[Json]:
        """The API requests numbered above `since`."""
        entries: list[Json] = self.control(f"audit?since={since}", method="GET")["entries"]
        return entries

    def stats(self) -> Json:
        found: Json = self.control("stats", method="GET")
        return found


class NamespaceApi:
    """The pods of one namespace over HTTP, so that a test sees what is on the wire. Waits end with a watch event."""

    def __init__(self, cluster: ClusterApi, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.client = httpx.Client(
            base_url=cluster.url, headers=cluster.headers, verify=cluster.tls, timeout=WAIT_LIMIT_S
        )
        cluster.clients.append(self.client)

    @property
    def path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def request(self, method: str, path: str = "", body: object = None, **options: Any) -> httpx.Response:
        """`path` is relative to the namespace's pods, or absolute."""
        headers = dict(options.pop("headers", {}))
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            options["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = path if path.startswith("/api") or path.startswith("/local-cluster") else self.path + path
        return self.client.request(method, url, headers=headers, **options)

    def create(self, body: Json, **params: str) -> Json:
        return self._checked(self.request("POST", "", body, params=params), 201)

    def get(self, name: str) -> Json:
        return self._checked(self.request("GET", f"/{name}"))

    def listing(self, **params: str) -> Json:
        return self._checked(self.request("GET", "", params=params))

    def names(self, **params: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.listing(**params)["items"]]

    def version(self) -> str:
        """The current resource version."""
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
        """The events of one watch. The iteration ends with the stream."""
        url = path or self.path
        with self.client.stream("GET", url, params={"watch": "true", **params}, headers=headers) as response:
            assert response.status_code == 200, response.read()
            yield (json.loads(line) for line in response.iter_lines())

    def wait(self, name: str, condition: Callable[[Json], bool]) -> Json:
        """The pod as soon as `condition` holds. Fails after `WAIT_LIMIT_S`."""
        limit = {"timeoutSeconds": str(int(WAIT_LIMIT_S))}
        with self.watch(fieldSelector=f"metadata.name={name}", **limit) as events:
            last: Json = {}
            for event in events:
                last = event["object"]
                if event["type"] != "DELETED" and condition(last):
                    return last
        raise AssertionError(f"condition not met by pod {name}: {json.dumps(last.get('status'), indent=1)}")

    def wait_phase(self, name: str, *phases: str) -> Json:
        return self.wait(name, lambda found: found["status"].get("phase") in phases)

    def wait_scheduled(self, name: str) -> Json:
        """The pod as soon as the node has accepted it."""
        return self.wait(name, lambda found: "startTime" in found["status"])

    def wait_gone(self, name: str, version: str = "0") -> Json:
        """The last state of a pod, from its DELETED event."""
        limit = {"timeoutSeconds": str(int(WAIT_LIMIT_S)), "resourceVersion": version}
        with self.watch(fieldSelector=f"metadata.name={name}", **limit) as events:
            for event in events:
                if event["type"] == "DELETED":
                    return dict(event["object"])
        raise AssertionError(f"pod {name} was not deleted")

    @staticmethod
    def _checked(response: httpx.Response, code: int = 200) -> Json:
        assert response.status_code == code, response.text
        return dict(response.json())


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
    """A pod that stays Pending until the test changes its status."""
    body = pod(name)
    body["metadata"].update(annotations={"local-cluster/hold": "true"}, labels=labels or {})
    return body


def state(found: Json, container: str = "base") -> Json:
    """The state of a container in a pod's status; empty before the node has accepted the pod."""
    if "containerStatuses" not in found["status"]:
        return {}
    statuses = (found["status"].get("initContainerStatuses") or []) + found["status"]["containerStatuses"]
    return dict(next(item["state"] for item in statuses if item["name"] == container))


def condition(found: Json, kind: str) -> Json:
    """The condition of this type in a pod's status."""
    return dict(next(item for item in found["status"]["conditions"] if item["type"] == kind))


def status_of(response: httpx.Response, code: int, reason: str) -> Json:
    """The body of a refused request: a `Status` of that code and reason."""
    assert response.status_code == code, response.text
    status: Json = response.json()
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    assert (status["code"], status["reason"]) == (code, reason)
    return status


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
