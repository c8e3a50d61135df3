"""What a client factory puts on its client, and whom a kubeconfig impersonates, is sent with every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from podrelay.errors import ConfigError
from podrelay_workers.kube import credentials
from podrelay_workers.kube.client import METADATA, PodClient
from podrelay_workers.kube.credentials import load_credentials
from tests.harness.scripted_server import Script, event, lists, pod, scripted, streams
from tests.harness.scripted_server import answers as answers_with


async def every_request(api: PodClient) -> None:
    """One request of each kind that launcher and watcher send."""
    await api.create_pod("default", {"metadata": {"name": "a"}})
    await api.get_pod("default", "a")
    await api.patch_pod("default", "a", {"metadata": {"labels": {"x": "y"}}})
    await api.delete_pod("default", "a")
    await api.get_namespace("default")
    await api.list_events("default", name="a")
    await api.read_log_tail("default", "a")
    await api.list_page("default")
    async for _ in api.watch_stream("default", version="1"):
        pass


def run(work: Callable[[Script], Awaitable[PodClient]]) -> list[Any]:
    """The headers of each request."""

    async def test() -> list[Any]:
        steps = [answers_with(pod("a"))] * 7 + [lists(), streams(event("ADDED"))]
        async with scripted(*steps) as (script, _):
            async with await work(script) as api:
                await every_request(api)
            assert len(script.requests) == 9
            return [request.headers for request in script.requests]

    return asyncio.run(asyncio.wait_for(test(), 30))


@pytest.mark.parametrize("option", ["client_factory", "async_client_factory"])
def test_headers_of_a_factory_are_sent_with_every_request(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    import kubernetes
    import kubernetes_asyncio

    library: Any = kubernetes.client if option == "client_factory" else kubernetes_asyncio.client
    made: list[Any] = []

    async def connect(script: Script) -> PodClient:
        def factory() -> Any:
            client = library.ApiClient(library.Configuration(host=script.url), cookie="session=1")
            client.set_default_header("X-Gateway-Key", "g1")
            client.set_default_header("Impersonate-User", "jane")
            client.set_default_header("accept", "text/html")
            client.user_agent = "corp-airflow/7"
            made.append(client)
            return library.CoreV1Api(client)

        monkeypatch.setattr(credentials, option, factory, raising=False)
        monkeypatch.setenv(
            f"AIRFLOW__KUBERNETES_EXECUTOR__{option.upper()}", f"podrelay_workers.kube.credentials.{option}"
        )
        return await PodClient.connect(role="launcher")

    for headers in run(connect):
        assert headers["X-Gateway-Key"] == "g1"
        assert headers["Impersonate-User"] == "jane"
        assert headers["Cookie"] == "session=1"
        assert headers["User-Agent"].startswith("corp-airflow/7 podrelay-launcher/")
        assert headers["Accept"] in ("application/json", "*/*", METADATA)


def test_a_header_that_the_factory_changes_later_is_sent_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    import kubernetes

    made: list[Any] = []

    async def test() -> None:
        async with scripted(answers_with(pod("a"))) as (script, _):

            def factory() -> Any:
                made.append(kubernetes.client.ApiClient(kubernetes.client.Configuration(host=script.url)))
                return kubernetes.client.CoreV1Api(made[-1])

            monkeypatch.setattr(credentials, "client_factory", factory, raising=False)
            monkeypatch.setenv(
                "AIRFLOW__KUBERNETES_EXECUTOR__CLIENT_FACTORY", "podrelay_workers.kube.credentials.client_factory"
            )
            async with await PodClient.connect() as api:
                for number in range(2):
                    made[0].set_default_header("X-Ticket", str(number))
                    await api.get_pod("default", "a")
                    assert script.requests[-1].headers["X-Ticket"] == str(number)

    asyncio.run(asyncio.wait_for(test(), 30))


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER", "False")
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(path))

    def write(url: str, **user: Any) -> None:
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "other", "user": {"as": "nobody"}}, {"name": "u", "user": {"token": "t", **user}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}},
                         {"name": "d", "context": {"cluster": "c", "user": "other"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document))

    return write


def test_a_kubeconfig_that_impersonates_someone_does_so_in_every_request(kubeconfig: Callable[..., None]) -> None:
    async def connect(script: Script) -> PodClient:
        kubeconfig(script.url, **{"as": "jane", "as-groups": ["dev", "ops"], "as-user-extra": {"team": ["red"]}})
        return await PodClient.connect()

    for headers in run(connect):
        assert headers.getall("Impersonate-User") == ["jane"]
        assert headers.getall("Impersonate-Group") == ["dev", "ops"]
        assert headers.getall("Impersonate-Extra-team") == ["red"]
        assert headers["Authorization"] == "Bearer t"


def test_the_context_that_is_chosen_decides_who_is_impersonated(
    kubeconfig: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig("http://127.0.0.1:1")
    assert asyncio.run(load_credentials()).impersonated == ()
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CLUSTER_CONTEXT", "d")
    assert asyncio.run(load_credentials()).impersonated == (("Impersonate-User", "nobody"),)


def test_an_impersonation_that_cannot_be_meant_names_the_option(kubeconfig: Callable[..., None]) -> None:
    kubeconfig("http://127.0.0.1:1", **{"as-groups": ["dev"]})
    with pytest.raises(ConfigError, match=r"\[kubernetes_executor\] config_file.*need as"):
        asyncio.run(load_credentials())
