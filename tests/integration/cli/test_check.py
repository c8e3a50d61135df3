"""`airflow podrelay check` asks the API server which permissions each process has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from podrelay.cli.check import REQUIRED_PERMISSIONS, Check, run_checks


class Reviews(BaseHTTPRequestHandler):
    """Answers SelfSubjectAccessReviews: grants what `allowed` holds. `page`, if set, is the body of a 404."""

    allowed: ClassVar[set[tuple[str, str]]] = set()
    asked: ClassVar[list[tuple[str, str, str]]] = []
    page: ClassVar[bytes] = b""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asks = body["spec"]["resourceAttributes"]
        what = asks["resource"] + (f"/{asks['subresource']}" if asks.get("subresource") else "")
        self.asked.append((asks.get("namespace", ""), asks["verb"], what))
        answer = json.dumps({**body, "status": {"allowed": (asks["verb"], what) in self.allowed}}).encode()
        answer = self.page or answer
        self.send_response(404 if self.page else 201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Reviews]]:
    Reviews.allowed, Reviews.asked, Reviews.page = set(), [], b""
    with ThreadingHTTPServer(("127.0.0.1", 0), Reviews) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(path))
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE", "tasks")
        yield Reviews
        server.shutdown()
        server.server_close()


def kubernetes(process: str | None = None) -> Check:
    return [check for check in run_checks(None, process) if check.name == "Kubernetes"][0]


def test_the_permissions_of_each_process_are_checked(reviews: type[Reviews]) -> None:
    reviews.allowed = set(REQUIRED_PERMISSIONS["launcher"])
    assert kubernetes("launcher").ok
    assert {(verb, what) for _, verb, what in reviews.asked} == set(REQUIRED_PERMISSIONS["launcher"])
    assert {namespace for namespace, *_ in reviews.asked} == {"tasks"}
    both = kubernetes()
    assert not both.ok
    assert "watch pods in tasks" in both.detail
    assert "for the watcher" in both.detail
    assert "create pods" not in both.detail
    reviews.allowed |= set(REQUIRED_PERMISSIONS["watcher"])
    assert kubernetes().ok


def test_all_namespaces_are_checked_if_all_are_watched(reviews: type[Reviews], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE", "True")
    check = kubernetes()
    assert not check.ok
    assert "list pods in all namespaces" in check.detail
    assert {namespace for namespace, *_ in reviews.asked} == {""}


def test_a_404_page_of_a_gateway_is_a_failure(reviews: type[Reviews]) -> None:
    reviews.page = b"default backend - 404"
    check = kubernetes()
    assert not check.ok
    assert "404" in check.detail


def test_a_server_without_the_authorization_api_grants_everything(reviews: type[Reviews]) -> None:
    reviews.page = json.dumps({"kind": "Status", "code": 404, "reason": "NotFound"}).encode()
    assert kubernetes().ok
