"""One request per method: what is sent, and which error each kind of answer raises."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest

from podrelay import __version__
from podrelay.errors import ConfigError
from podrelay_workers.kube import connection as kube_connection
from podrelay_workers.kube import credentials
from podrelay_workers.kube.client import PodClient
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Gone,
    NotFound,
    Overloaded,
    QuotaExceeded,
    Refused,
    Silent,
    Throttled,
    Unauthorized,
    Unreachable,
)
from tests.harness.scripted_server import (
    Step,
    answers,
    breaks,
    configuration,
    event,
    expired,
    lists,
    pod,
    refuses,
    scripted,
    streams,
)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


REFUSALS: list[tuple[Step, type[ApiError], dict[str, Any]]] = [
    (refuses(409, "AlreadyExists", "pods a already exists"), AlreadyExists, {"message": "pods a already exists"}),
    (refuses(409, "Conflict", "the UID differs"), Conflict, {}),
    (refuses(404, "NotFound"), NotFound, {}),
    (refuses(410, "Expired"), Gone, {}),
    (refuses(403, "Forbidden", "pods is forbidden: exceeded quota: q"), QuotaExceeded, {}),
    (
        refuses(403, "Forbidden", "pods is forbidden: User cannot create"),
        Refused,
        {"status": 403, "reason": "Forbidden"},
    ),
    (refuses(422, "Invalid"), Refused, {"status": 422}),
    (refuses(401, "Unauthorized"), Unauthorized, {}),
    (refuses(429, "TooManyRequests", Retry_After="7"), Throttled, {"retry_after_s": 7.0}),
    (refuses(429, "TooManyRequests"), Throttled, {"retry_after_s": None}),
    (refuses(429, "TooManyRequests", Retry_After="soon"), Throttled, {"retry_after_s": None}),
    (refuses(503, "ServiceUnavailable", Retry_After="1"), Overloaded, {"retry_after_s": 1.0}),
    (answers({"message": "m", "details": {"retryAfterSeconds": 3}}, 500), Overloaded, {"retry_after_s": 3.0}),
    (answers("<html>bad gateway</html>", 502), Overloaded, {"message": "Bad Gateway"}),
    (answers("", 500), Overloaded, {"message": "Internal Server Error"}),
    (answers({"kind": "Status", "message": "x" * 5000}, 400), Refused, {"message": "x" * 1000}),
    (answers("[]", 200), Unreachable, {}),
    (answers("{", 200), Unreachable, {}),
    (breaks(), Unreachable, {}),
    (refuses(403, "Forbidden", "status unknown for quota: q, resources: pods"), QuotaExceeded, {}),
    (refuses(500, "", "etcdserver: request is too large"), Refused, {"status": 500}),
    (refuses(500, "", "etcdserver: leader changed"), Overloaded, {}),
    (answers("<html>log in</html>", 302, Location="/login"), Unreachable, {"message": "Found"}),
    (answers("Too many requests, please try again later.", 429, Retry_After="1"), Throttled, {"retry_after_s": 1.0}),
    # Without a Status the answer comes from a gateway before the API server, which knows nothing about pods.
    (answers("404 page not found", 404), Unreachable, {"status": 404}),
    (answers("default backend - 404", 404), Unreachable, {"status": 404}),
    (answers({"type": "error", "message": "cluster not found"}, 404), Unreachable, {"status": 404}),
    (refuses(404, "NotFound", "the server could not find the requested resource"), Unreachable, {"status": 404}),
    (answers("<html>blocked by policy</html>", 403), Unreachable, {"status": 403}),
    (answers("Client sent an HTTP request to an HTTPS server.", 400), Unreachable, {"status": 400}),
    (answers("<html>too large</html>", 413), Refused, {"status": 413}),
    (answers("who are you", 401), Unauthorized, {"status": 401}),
]


@pytest.mark.parametrize(("step", "error", "values"), REFUSALS)
def test_answers_become_errors(
    step: Step, error: type[ApiError], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_other(team: str | None, on_wait: Any) -> Credentials:
        raise ConfigError("no other credentials")

    monkeypatch.setattr(kube_connection, "load_credentials", no_other)

    async def test() -> None:
        async with scripted(step) as (_, api):
            with pytest.raises(error) as caught:
                await api.create_pod("default", {"spec": {"secret": "tok3n"}})
        assert type(caught.value) is error
        assert {name: getattr(caught.value, name) for name in values} == values
        assert "tok3n" not in str(caught.value)

    run(test)


@pytest.mark.parametrize("document", [{}, {"items": []}, {"metadata": {}, "items": None}, {"error": "log in first"}])
def test_an_answer_without_a_version_is_no_list_and_no_pod(document: dict[str, Any]) -> None:
    """A gateway's own answer must not look like an empty cluster."""

    async def test() -> None:
        async with scripted(answers(document)) as (_, api):
            with pytest.raises(Unreachable):
                await api.list_page("default", partial=True)
            with pytest.raises(Unreachable):
                await api.get_pod("default", "a")

    run(test)


def test_retry_after_as_a_date() -> None:
    async def test() -> None:
        async with scripted(refuses(429, Retry_After=formatdate(time.time() + 20, usegmt=True))) as (_, api):
            with pytest.raises(Throttled) as caught:
                await api.get_pod("default", "a")
        assert caught.value.retry_after_s == pytest.approx(20, abs=3)

    run(test)


def test_what_is_sent() -> None:
    async def test() -> None:
        steps = (answers(pod("a", namespace="de/v")), answers(pod("a/b", namespace="dev")), answers({}), lists())
        async with scripted(*steps) as (script, api):
            await api.create_pod("de/v", {"kind": "Pod", "metadata": {"name": "a"}})
            await api.patch_pod("dev", "a/b", {"metadata": {"labels": {"x": None}}})
            await api.delete_pod("dev", "a", uid="u", grace_s=0, options={"propagation_policy": "Background"})
            await api.list_page(None, labels="a=b,c!=d", limit=2)
        create, patch, delete, page = script.requests
        assert (create.method, create.raw_path) == ("POST", "/api/v1/namespaces/de%2Fv/pods")
        assert (patch.method, patch.raw_path) == ("PATCH", "/api/v1/namespaces/dev/pods/a%2Fb")
        assert patch.headers["Content-Type"] == "application/merge-patch+json"
        assert json.loads(script.bodies[2]) == {
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", "gracePeriodSeconds": 0,
            "preconditions": {"uid": "u"},
        }  # fmt: skip
        assert delete.method == "DELETE"
        # The metadata alone where the server can send them alone, else the pod.
        metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
        assert [request.headers["Accept"] for request in (create, delete)] == [metadata] * 2
        assert patch.headers["Accept"] == "application/json"
        assert dict(page.query) == {"labelSelector": "a=b,c!=d", "limit": "2"}
        assert page.headers["Accept"] == "application/json"

    run(test)


def test_pages() -> None:
    async def test() -> None:
        async with scripted(lists(pod(), version="7", more="t0k"), lists(version="7")) as (script, api):
            first = await api.list_page("default")
            second = await api.list_page("default", continuation=first.continuation)
        assert (first.version, first.continuation, len(first.items), second.continuation) == ("7", "t0k", 1, "")
        assert script.queries("continue") == ["", "t0k"]

    run(test)


async def collect(api: PodClient, **options: Any) -> list[str]:
    return [item["type"] async for item in api.watch_stream("default", version="5", **options)]


def test_watch_decodes_events_however_they_are_cut() -> None:
    async def test() -> None:
        whole = b"".join(json.dumps(event("ADDED", f"p{n}")).encode() + b"\n" for n in range(3))
        pieces = [whole[n : n + 7] for n in range(0, len(whole), 7)]
        async with scripted(streams(*pieces, b"\n")) as (script, api):
            assert await collect(api) == ["ADDED"] * 3
        assert script.requests[0].query["resourceVersion"] == "5"
        assert script.requests[0].query["allowWatchBookmarks"] == "true"

    run(test)


def test_watch_failures() -> None:
    async def test() -> None:
        async with scripted(streams(event("ADDED"), then="hang")) as (_, api):
            with pytest.raises(Silent):
                await collect(api, silence_s=0.3)
        # The request timeout does not apply to a watch: bookmarks come about once a minute, often less.
        async with scripted(streams(event("ADDED"), then="hang"), read_s=0.1) as (_, api):
            with pytest.raises(Silent, match="for 0.6 s"):
                await collect(api, silence_s=0.6)
        async with scripted(streams(event("ADDED"), b'{"type":"MODI', then="cut")) as (_, api):
            with pytest.raises(Unreachable):
                await collect(api)
        async with scripted(streams(b'{"type":"MODI')) as (_, api):
            with pytest.raises(Unreachable):
                await collect(api)
        async with scripted(refuses(410, "Expired")) as (_, api):
            with pytest.raises(Gone):
                await collect(api)
        async with scripted(streams(expired())) as (_, api):
            assert await collect(api) == ["ERROR"]

    run(test)


def test_a_hanging_answer_is_unreachable() -> None:
    async def test() -> None:
        async def step(_: Any) -> Any:
            await asyncio.sleep(5)

        async with scripted(step, request_s=0.3) as (_, api):
            with pytest.raises(Unreachable):
                await api.get_pod("default", "a")
        async with PodClient(Credentials(configuration("http://127.0.0.1:9"))) as api:
            with pytest.raises(Unreachable):
                await api.get_pod("default", "a")

    run(test)


def test_the_api_servers_audit_log_names_who_asked() -> None:
    async def test() -> None:
        async with scripted(answers(pod("a"))) as (script, api):
            await api.get_pod("default", "a")
            async with PodClient(Credentials(configuration(script.url)), role="launcher") as launcher:
                await launcher.get_pod("default", "a")
            agents = [request.headers["User-Agent"] for request in script.requests]
            assert agents[1].startswith(f"podrelay-launcher/{__version__} (") and str(os.getpid()) in agents[1]
            assert agents[0].startswith("podrelay-client/")

    run(test)


def test_log_tail_keeps_the_end() -> None:
    async def test() -> None:
        async with scripted(answers("\n".join(f"line {n}" for n in range(1000)))) as (_, api):
            assert await api.read_log_tail("default", "a", tail_lines=2) == ["line 998", "line 999"]
        async with scripted(answers("x" * 100_000 + "end")) as (_, api):
            (line,) = await api.read_log_tail("default", "a", limit_bytes=50)
            assert line.endswith("end")
            assert len(line) == 50

    run(test)


def test_a_401_reads_the_credentials_once_for_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async def step(request: Any) -> Any:
            good = request.headers.get("Authorization") == "Bearer new"
            return await (answers(pod("a")) if good else refuses(401, "Unauthorized"))(request)

        loads = []
        async with scripted(step) as (script, api):

            async def load(team: str | None, on_wait: Any) -> Credentials:
                loads.append(team)
                await asyncio.sleep(0.05)
                return Credentials(configuration(script.url, "new"))

            monkeypatch.setattr(kube_connection, "load_credentials", load)
            assert len(await asyncio.gather(*(api.get_pod("default", "a") for _ in range(20)))) == 20
            assert len(loads) == 1
            # Credentials that stay rejected are not loaded again for every request.
            script.steps = [refuses(401, "Unauthorized")]
            for _ in range(3):
                with pytest.raises(Unauthorized):
                    await api.get_pod("default", "a")
            assert len(loads) == 1

    run(test)


@pytest.fixture
def kube_options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def write(**options: str) -> None:
        for name, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{name.upper()}", value)

    return write


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1/prefix/"}}]
users: [{name: u, user: {token: s3cret}}]
contexts: [{name: one, context: {cluster: c, user: u}}]
"""


def test_access_by_kubeconfig(tmp_path: Any, kube_options: Callable[..., None]) -> None:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    kube_options(in_cluster="False", config_file=str(path), kube_client_request_args='{"_request_timeout": [3, 9]}')

    async def test() -> None:
        access = await load_credentials()
        assert access.host == "http://127.0.0.1:1/prefix"
        assert (access.connect_s, access.request_s, access.read_s) == (3.0, 60.0, 9.0)
        assert await access.headers() == {"Authorization": "Bearer s3cret"}
        assert "s3cret" not in repr(access)
        await PodClient(access).close()

    run(test)


@pytest.mark.parametrize("broken", ["missing", "context", "yaml"])
def test_no_access_names_the_option(tmp_path: Any, kube_options: Callable[..., None], broken: str) -> None:
    path = tmp_path / "config"
    if broken != "missing":
        path.write_text(KUBECONFIG if broken == "context" else "{{{")
    kube_options(in_cluster="False", config_file=str(path), cluster_context="two" if broken == "context" else "")

    async def test() -> None:
        with pytest.raises(ConfigError, match=r"\[kubernetes_executor\] config_file") as caught:
            await PodClient.connect()
        assert ("no such file" in str(caught.value)) == (broken == "missing")

    run(test)


@pytest.mark.parametrize(
    ("set_options", "used"),
    [
        (["client_factory"], "client_factory"),
        (["async_client_factory"], "async_client_factory"),
        (["client_factory", "async_client_factory"], "async_client_factory"),
    ],
)
def test_access_by_a_client_factory(
    monkeypatch: pytest.MonkeyPatch, kube_options: Callable[..., None], set_options: list[str], used: str
) -> None:
    import kubernetes
    import kubernetes_asyncio

    def factory(client: Any, name: str) -> Callable[[], Any]:
        def make() -> Any:
            made = client.Configuration(host=f"https://{name.replace('_', '-')}:6443")
            key = "authorization" if client is kubernetes.client else "BearerToken"
            made.api_key[key] = f"Bearer of-{name}"
            return client.CoreV1Api(client.ApiClient(made))

        return make

    clients = {"client_factory": kubernetes.client, "async_client_factory": kubernetes_asyncio.client}
    for name, client in clients.items():
        monkeypatch.setattr(credentials, name, factory(client, name), raising=False)
    kube_options(**{name: f"podrelay_workers.kube.credentials.{name}" for name in set_options})

    async def test() -> None:
        access = await load_credentials()
        assert access.host == f"https://{used.replace('_', '-')}:6443"
        assert await access.headers() == {"Authorization": f"Bearer of-{used}"}

    run(test)


def test_warnings_of_the_server_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    text = 'would violate PodSecurity \\"restricted:latest\\": allowPrivilegeEscalation'

    async def test() -> None:
        step = answers(pod(), 201, Warning=f'299 - "{text}"')
        async with scripted(step) as (_, api):
            for _ in range(3):
                await api.create_pod("default", pod())

    with caplog.at_level("WARNING"):
        run(test)
    (record,) = caplog.records
    assert 'would violate PodSecurity "restricted:latest"' in record.getMessage()


def test_delete_options_are_named_as_in_the_api_at_every_depth() -> None:
    async def test() -> None:
        async with scripted(answers(pod())) as (script, api):
            options = {
                "grace_period_seconds": 3,
                "preconditions": {"resource_version": "7"},
                "propagationPolicy": "Orphan",
            }
            await api.delete_pod("default", "a", uid="u", options=options)
            sent = json.loads(script.bodies[0])
        assert sent["preconditions"] == {"resourceVersion": "7", "uid": "u"}
        assert (sent["gracePeriodSeconds"], sent["propagationPolicy"]) == (3, "Orphan")

    run(test)


def test_a_log_without_content_is_empty() -> None:
    """The API server answers 204 for a pod that no node was chosen for."""

    async def test() -> None:
        async with scripted(answers("", 204)) as (_, api):
            assert await api.read_log_tail("default", "a") == []

    run(test)
