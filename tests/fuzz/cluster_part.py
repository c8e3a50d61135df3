"""Requests and pods for the local cluster: it never ends, answers no request with a fault of its own, and serves the next."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.cluster_requests import Request, requests, variants
from tests.fuzz.part import Report, complaints, feed
from tests.harness.local_cluster import LocalCluster

# One request may delete thousands of pods, on a busy machine.
_ANSWER_S = 120.0


class Client:
    """Sends requests byte by byte as they are, which no HTTP library would."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._socket: socket.socket | None = None
        self.connect(cluster)

    def connect(self, cluster: LocalCluster) -> None:
        """Send to this server from now on."""
        self.close()
        self._port, self._token = int(cluster.url.rpartition(":")[2]), cluster.token
        self._tls = cluster.tls

    def send(self, request: Request) -> tuple[int, bytes]:
        """Status and the beginning of the body; 0 where the server closed the connection without an answer."""
        method, path, headers, body = request
        head = [f"{method} {path} HTTP/1.1".encode(), b"Host: x", f"Authorization: Bearer {self._token}".encode(),
                b"Content-Length: %d" % len(body), *(name.encode() + b": " + value for name, value in headers)]  # fmt: skip
        data = b"\r\n".join(head) + b"\r\n\r\n" + body
        for fresh in (False, True):
            try:
                return self._exchange(data, method, fresh)
            except (ConnectionError, ssl.SSLError, http.client.HTTPException):
                self.close()
        return 0, b""

    def _exchange(self, data: bytes, method: str, fresh: bool) -> tuple[int, bytes]:
        if self._socket is None or fresh:
            self.close()
            plain = socket.create_connection(("127.0.0.1", self._port), timeout=_ANSWER_S)
            self._socket = self._tls.wrap_socket(plain, server_hostname="127.0.0.1")
        self._socket.sendall(data)
        answer = http.client.HTTPResponse(self._socket, method=method)
        try:
            answer.begin()
            if answer.getheader("Transfer-Encoding") == "chunked":  # a watch or a log, which may last
                self.close()
                return answer.status, b""
            content = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, content
        finally:
            answer.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


# A real API server answers so as well: a version from the future, an object too large for its storage.
_AS_REAL = (
    b"Too large resource version", b"request is too large", b"message larger than max", b"resourceVersion should not be set"
)  # fmt: skip


def run(folder: Path, count: int, seed: int, runner: str = "process") -> Report:
    """Fuzz one local cluster."""
    report = Report("local-cluster", seed)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(folder, runner=runner, namespaces="default,other"))
        client = Client(cluster)
        stack.callback(client.close)
        assert cluster.process is not None
        sent: list[str] = []

        def take(batch: list[Request]) -> int:
            for request in (variant for drawn in batch for variant in variants(drawn)):
                sent.append(request[0])
                try:
                    status, content = client.send(request)
                except TimeoutError:
                    status, content = 0, b""
                    report.fault(f"no answer within {_ANSWER_S:g} s to {_shown(request)}")
                if status >= 500 and not any(sign in content for sign in _AS_REAL):
                    report.fault(f"{status} {content[:150]!r} for {_shown(request)}")
                if cluster.process is not None and cluster.process.poll() is not None:
                    report.fault(f"the server ended after {_shown(request)}")
                    cluster.start()
                    client.connect(cluster)
                if request[1].startswith("/local-cluster/faults") and status == 200:
                    cluster.faults()
                if request[0] == "DELETE" and status == 200:
                    with contextlib.suppress(Exception):
                        cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": "other"}})
            used = len(sent)
            sent.clear()
            return used

        feed(st.lists(requests(), min_size=1, max_size=6), take, report, count)
        _honest(cluster, report)
    report.wrong += complaints(cluster.log_path.read_text("utf-8", "replace"), "podrelay_local_cluster")
    return report


def _honest(cluster: LocalCluster, report: Report) -> None:
    """A pod like any other still runs to its end."""
    try:
        body = {"metadata": {"name": "honest"}, "spec": {"restartPolicy": "Never", "containers": [
            {"name": "base", "image": "i", "command": ["true"]}]}}  # fmt: skip
        namespace = {"metadata": {"name": "fresh"}}
        cluster.call("POST", "/api/v1/namespaces", namespace)
        cluster.call("POST", "/api/v1/namespaces/fresh/pods", body)
        for _ in range(500):
            found = cluster.call("GET", "/api/v1/namespaces/fresh/pods/honest")
            if found["status"]["phase"] == "Succeeded":
                return
            time.sleep(0.02)
        report.fault(f"an honest pod does not end: {json.dumps(found['status'])[:300]}")
    except OSError as error:
        report.fault(f"an honest pod cannot be made: {error}")


def _shown(request: Request) -> str:
    method, path, headers, body = request
    return f"{method} {path[:200]} {headers} {body[:600]!r}"
