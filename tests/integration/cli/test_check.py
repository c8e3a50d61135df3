"""`airflow podrelay check` asks the API server which permissions each process has."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from podrelay.cli.check import REQUIRED_PERMISSIONS, Check, run_checks
from podrelay.cli.check_kubernetes import SECRET_PERMISSIONS, WARM_PERMISSIONS
from tests.harness.launcher_rig import TEMPLATE


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


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An API server that `[kubernetes_executor]` refers to."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(path))
        monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE", "tasks")
        yield
        server.shutdown()
        server.server_close()


@pytest.fixture
def reviews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Reviews]]:
    Reviews.allowed, Reviews.asked, Reviews.page = set(), [], b""
    with serving(Reviews, tmp_path, monkeypatch):
        yield Reviews


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


def test_the_option_for_secrets_needs_permissions_for_secrets(
    reviews: type[Reviews], monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews.allowed = set(REQUIRED_PERMISSIONS["launcher"])
    monkeypatch.setenv("AIRFLOW__PODRELAY__WORKLOAD_IN_SECRET", "True")
    refused = kubernetes("launcher")
    assert not refused.ok
    assert "create secrets in tasks, delete secrets in tasks (for the launcher)" in refused.detail
    assert refused.detail.endswith("as in docker/kubernetes/components/workload_secrets/access.yaml.")
    reviews.allowed |= set(SECRET_PERMISSIONS)
    assert kubernetes("launcher").ok
    assert "secrets" not in kubernetes("watcher").detail
    # A Secret is deleted only where its pod is kept.
    reviews.allowed -= {("delete", "secrets")}
    assert not kubernetes("launcher").ok
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__DELETE_WORKER_PODS_ON_FAILURE", "True")
    assert kubernetes("launcher").ok
    reviews.allowed = set()
    both = "docker/kubernetes/base/access.yaml and docker/kubernetes/components/workload_secrets/access.yaml."
    assert both in kubernetes().detail


def test_warm_pods_need_a_permission_of_their_own(reviews: type[Reviews], monkeypatch: pytest.MonkeyPatch) -> None:
    reviews.allowed = set(REQUIRED_PERMISSIONS["launcher"])
    assert kubernetes("launcher").ok
    assert ("tasks", "list", "pods") not in reviews.asked
    monkeypatch.setenv("AIRFLOW__PODRELAY__WARM_PODS_MAX", "5")
    refused = kubernetes("launcher")
    assert "missing permissions: list pods in tasks (for the launcher)" in refused.detail
    assert refused.detail.endswith("as in docker/kubernetes/components/warm_pods/access.yaml.")
    reviews.allowed |= set(WARM_PERMISSIONS)
    assert kubernetes("launcher").ok
    reviews.allowed = set(REQUIRED_PERMISSIONS["launcher"])
    both = "docker/kubernetes/base/access.yaml and docker/kubernetes/components/warm_pods/access.yaml."
    assert both in kubernetes().detail


def test_a_namespace_in_which_nothing_is_granted_may_not_exist(
    reviews: type[Reviews], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with rights within namespaces only does not learn whether another namespace exists."""
    question = "This user may do nothing in tasks: does it exist?"
    for process in ("launcher", "watcher", None):
        assert question in kubernetes(process).detail
    reviews.allowed = {("get", "pods")}
    assert "exist?" not in kubernetes("launcher").detail
    reviews.allowed = set()
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE", "True")
    assert "exist?" not in kubernetes().detail


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


# --- dry run ------------------------------------------------------------------------------------------------------
class DryRuns(BaseHTTPRequestHandler):
    """A server whose user may look at no namespace; `answer` and `warnings` are its reply to a pod."""

    answer: ClassVar[tuple[int, dict[str, Any]]] = (201, {})
    warnings: ClassVar[list[str]] = []
    pods: ClassVar[list[tuple[dict[str, list[str]], dict[str, Any]]]] = []

    def do_GET(self) -> None:
        self.reply(403, {"kind": "Status", "message": "namespaces is forbidden", "code": 403})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("kind") != "Pod":
            return self.reply(201, {**body, "status": {"allowed": True}})
        self.pods.append((parse_qs(urlsplit(self.path).query), body))
        code, extra = self.answer
        return self.reply(code, {**body, **extra}, self.warnings)

    def reply(self, code: int, document: dict[str, Any], warnings: Sequence[str] = ()) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for warning in warnings:
            self.send_header("Warning", warning)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dry_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[DryRuns]]:
    DryRuns.answer, DryRuns.warnings, DryRuns.pods = (201, {}), [], []
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE", str(template))
    with serving(DryRuns, tmp_path, monkeypatch):
        yield DryRuns


def refusal(code: int, message: str, **details: Any) -> tuple[int, dict[str, Any]]:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message, "details": details}


def test_the_warnings_of_the_server_are_shown(dry_runs: type[DryRuns]) -> None:
    dry_runs.warnings = [
        '299 - "unknown field \\"spec.containers[0].resource\\""',
        '299 - "would violate PodSecurity \\"restricted:latest\\": runAsNonRoot != true", 299 - "deprecated"',
    ]
    check = named("dry run")
    assert check.ok
    assert check.warnings == (
        'unknown field "spec.containers[0].resource"',
        'would violate PodSecurity "restricted:latest": runAsNonRoot != true',
        "deprecated",
    )
    ((query, pod),) = dry_runs.pods
    assert (query["dryRun"], query["fieldValidation"]) == (["All"], ["Warn"])
    assert pod["spec"]["containers"][0]["name"] == "base"


@pytest.mark.parametrize(
    ("answer", "ok", "text"),
    [
        (refusal(404, 'namespaces "tasks" not found', name="tasks", kind="namespaces"), False, "no namespace tasks"),
        (
            refusal(403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"'),
            False,
            "violates PodSecurity",
        ),
        (refusal(422, "spec.containers[0].image: Required value"), False, "Required value"),
        (refusal(500, "etcdserver: leader changed"), False, "leader changed"),
        (refusal(403, "pods is forbidden: exceeded quota: q, used: pods=1"), True, "quota of namespace tasks"),
        (refusal(400, 'admission webhook "w" does not support dry run'), True, "could not be tried"),
    ],
)
def test_what_the_server_says_to_the_pod(
    dry_runs: type[DryRuns], answer: tuple[int, dict[str, Any]], ok: bool, text: str
) -> None:
    dry_runs.answer = answer
    check = named("dry run")
    assert check.ok is ok
    assert text in (check.warnings[0] if ok else check.detail)


def test_a_watcher_sends_no_pod(dry_runs: type[DryRuns]) -> None:
    assert [check.name for check in run_checks(None, "watcher")][-1] == "Kubernetes"
    assert [check.name for check in run_checks(None, "launcher")][-1] == "dry run"
    assert len(dry_runs.pods) == 1


# --- clocks and tokens --------------------------------------------------------------------------------------------
def named(name: str) -> Check:
    return [check for check in run_checks(None) if check.name == name][0]


@pytest.mark.parametrize(("ahead_s", "text"), [(540.0, "540.0 s ahead of"), (-540.0, "540.0 s behind"), (0.0, "")])
def test_the_clock_of_this_machine_is_compared_with_that_of_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, ahead_s: float, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead_s)
    check = named("clocks")
    assert check.ok
    assert text in check.detail
    assert bool(check.warnings) is bool(ahead_s)


@pytest.mark.parametrize(("timeout", "margin", "warns"), [("60", "60", True), ("600", "60", False), ("5", "1", False)])
def test_a_margin_beyond_a_quarter_of_a_token_is_named(
    monkeypatch: pytest.MonkeyPatch, timeout: str, margin: str, warns: bool
) -> None:
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT", timeout)
    monkeypatch.setenv("AIRFLOW__PODRELAY__TOKEN_MARGIN_S", margin)
    check = named("tokens")
    assert check.ok
    assert ["token_margin_s" in warning and "task_queued_timeout" in warning for warning in check.warnings] == [
        True
    ] * warns
