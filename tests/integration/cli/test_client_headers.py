"""`airflow podrelay check` and live logs send what launchers and watcher send: a factory's headers, a kubeconfig's user."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml

from podrelay import teams
from podrelay.cli.check import Check, run_checks
from podrelay.cli.check_kubernetes import REQUIRED_PERMISSIONS
from podrelay.executor import RedisKubernetesExecutor
from tests.harness.launcher_rig import TEMPLATE
from tests.harness.task_instances import load, make_task_instances

SECTION = "AIRFLOW__KUBERNETES_EXECUTOR__"
POD = {"metadata": {"name": "p", "namespace": "default", "labels": {}}, "spec": {"containers": [{"name": "base"}]}}


class Recorder(BaseHTTPRequestHandler):
    """Grants and creates everything, has one pod with a log, and keeps the headers of each request by its path."""

    seen: list[tuple[str, Any]]

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith("/log"):
            return self.reply(b"a line\n")
        return self.reply(json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [POD]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(json.dumps({**body, "status": {"allowed": True}}).encode())

    def reply(self, body: bytes) -> None:
        self.seen.append((self.path.split("?")[0], self.headers))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Recorder.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(SECTION + "POD_TEMPLATE_FILE", str(tmp_path / "template.yaml"))
    monkeypatch.setenv(SECTION + "CONFIG_FILE", str(tmp_path / "kubeconfig"))
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def kubeconfig(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def write(proxy: bool = False, **user: Any) -> None:
        if proxy:
            monkeypatch.setenv("HTTP_PROXY", url)
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            # A proxy is asked for the address of the server, which need not exist.
            "clusters": [{"name": "c", "cluster": {"server": "http://kubernetes.invalid" if proxy else url}}],
            "users": [{"name": "u", "user": {"token": "t", **user}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))

    return write


@pytest.fixture
def factory(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def make() -> Any:
        client = kubernetes.client.ApiClient(kubernetes.client.Configuration(host=url), cookie="session=1")
        client.set_default_header("X-Gateway-Key", "g1")
        client.set_default_header("Impersonate-User", "jane")
        client.user_agent = "corp-airflow/7"
        return kubernetes.client.CoreV1Api(client)

    def use(option: str) -> None:
        monkeypatch.setattr(teams, option, make, raising=False)
        monkeypatch.setenv(f"{SECTION}{option.upper()}", f"podrelay.teams.{option}")

    return use


def checks() -> dict[str, Check]:
    return {check.name: check for check in run_checks(None)}


def read_log() -> tuple[list[str], list[str]]:
    ti = load(make_task_instances(state="running")[0])
    return RedisKubernetesExecutor().get_task_log(ti, ti.try_number)


def every_request() -> list[Any]:
    """The headers of each request of the check and of a live log."""
    found = checks()
    assert found["Kubernetes"].ok, found["Kubernetes"]
    assert found["dry run"].ok, found["dry run"]
    messages, (text,) = read_log()
    assert messages[-1] == "Found logs through kube API"
    assert "a line" in text
    reviews = len({permission for each in REQUIRED_PERMISSIONS.values() for permission in each})
    assert len(Recorder.seen) == 1 + reviews + 1 + 2  # the namespace, the permissions, the dry run; list and log
    return [headers for _, headers in Recorder.seen]


def test_headers_of_a_factory_are_sent_with_every_request(airflow_db: None, factory: Callable[[str], None]) -> None:
    factory("client_factory")
    for headers in every_request():
        assert headers["X-Gateway-Key"] == "g1"
        assert headers["Impersonate-User"] == "jane"
        assert headers["Cookie"] == "session=1"
        assert headers["User-Agent"] == "corp-airflow/7"


@pytest.mark.parametrize("proxy", [False, True])
def test_a_kubeconfig_that_impersonates_someone_does_so_in_every_request(
    airflow_db: None, kubeconfig: Callable[..., None], proxy: bool
) -> None:
    kubeconfig(proxy, **{"as": "jane", "as-groups": ["dev", "ops"], "as-user-extra": {"team": ["red"]}})
    for headers in every_request():
        assert headers.get_all("Impersonate-User") == ["jane"]
        assert headers.get_all("Impersonate-Group") == ["dev", "ops"]
        assert headers.get_all("Impersonate-Extra-team") == ["red"]
        assert headers["Authorization"] == "Bearer t"


def test_nobody_is_impersonated_unasked(airflow_db: None, kubeconfig: Callable[..., None]) -> None:
    kubeconfig()
    for headers in every_request():
        assert not [name for name in headers if name.lower().startswith("impersonate")]


def test_an_impersonation_that_cannot_be_meant_sends_nothing(airflow_db: None, kubeconfig: Callable[..., None]) -> None:
    kubeconfig(**{"as-groups": ["dev"]})
    check = checks()["Kubernetes"]
    assert not check.ok
    assert "[kubernetes_executor] config_file" in check.detail
    assert "need as" in check.detail
    messages, _ = read_log()
    assert "[kubernetes_executor] config_file" in messages[-1]
    assert "need as" in messages[-1]
    assert not Recorder.seen


def test_a_factory_for_asynchronous_code_only_is_reported(
    airflow_db: None, kubeconfig: Callable[..., None], factory: Callable[[str], None], tmp_path: Path
) -> None:
    """The blocking requests use the kubeconfig, as those of the stock executor do."""
    factory("async_client_factory")
    kubeconfig()
    check = checks()["Kubernetes"]
    assert check.ok
    assert "set client_factory too" in check.warnings[0]
    (tmp_path / "kubeconfig").unlink()
    check = checks()["Kubernetes"]
    assert not check.ok
    assert "set client_factory too" in check.detail
