"""Reading the log of a running pod from a server that stops answering: the reader gets a message within a time limit."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from podrelay import pod_logs
from podrelay.executor import RedisKubernetesExecutor
from tests.harness.task_instances import load, make_task_instances

SECTION = "AIRFLOW__KUBERNETES_EXECUTOR__"
POD = {"metadata": {"name": "p", "namespace": "default", "labels": {}}, "spec": {"containers": [{"name": "base"}]}}


class Halfway(BaseHTTPRequestHandler):
    """Lists one pod, sends the first line of its log, then nothing more on the open connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.split("?")[0].endswith("/log"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"f\r\nthe first line\n\r\n")
            self.wfile.flush()
            time.sleep(20)
            return
        body = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [POD]}).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def halfway() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Halfway)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


def read(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[str], list[str]]:
    """Read the log of one task. Returns the seconds that it took, the messages and the texts."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv(SECTION + "IN_CLUSTER", "False")
    monkeypatch.setenv(SECTION + "CONFIG_FILE", str(folder / "kubeconfig"))
    ti = load(make_task_instances(state="running")[0])
    executor = RedisKubernetesExecutor()
    found: list[tuple[float, list[str], list[str]]] = []

    def ask() -> None:
        begun_s = time.monotonic()
        answer = executor.get_task_log(ti, ti.try_number)
        found.append((time.monotonic() - begun_s, *answer))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(12)
    assert found, "the reader is still blocked"
    return found[0]


@pytest.mark.parametrize("limit", ["0.1", "[0.1, 0.1]"])
def test_a_server_that_never_answers_is_given_up_as_the_user_says(
    airflow_db: None, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv(SECTION + "KUBE_CLIENT_REQUEST_ARGS", f'{{"_request_timeout": {limit}}}')
    took_s, messages, texts = read(silent, tmp_path, monkeypatch)
    assert took_s > 0.1
    assert texts == [""]
    assert "Reading from k8s pod logs failed" in messages[-1]


def test_the_default_timeout_applies_without_an_option(
    airflow_db: None, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_logs, "READ_TIMEOUT_S", 0.1)
    _, messages, texts = read(silent, tmp_path, monkeypatch)
    assert texts == [""]
    assert "Reading from k8s pod logs failed" in messages[-1]


def test_a_log_that_breaks_off_keeps_what_was_read(
    airflow_db: None, halfway: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECTION + "KUBE_CLIENT_REQUEST_ARGS", '{"_request_timeout": 0.3}')
    _, messages, (text,) = read(halfway, tmp_path, monkeypatch)
    assert messages[-1] == "Found logs through kube API"
    assert "the first line" in text
    assert "Reading from k8s pod logs failed" in text
