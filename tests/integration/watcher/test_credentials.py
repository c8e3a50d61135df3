"""A watcher whose credentials expire while its exec plugin does not work: the probe says why, and it recovers by itself."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web

from podrelay import health
from tests.harness.local_cluster import LocalCluster
from tests.harness.waiting import until
from tests.harness.watcher_rig import WatcherRig

EXEC_API = "client.authentication.k8s.io/v1"
# What the plugin does while the file `broken` exists.
HANGS = "sleep 1000 & wait"
FAILS = "echo no login >&2; exit 1"


class Gate:
    """Passes requests on to a cluster if they hold the valid token, and answers 401 if not."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.valid = "one"
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(auto_decompress=False) as self.session:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self.pass_on)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield
            finally:
                await runner.cleanup()

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.valid}":
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 401, "reason": "Unauthorized"}
            return web.json_response({**status, "message": "Unauthorized"}, status=401)
        headers = {"Accept": request.headers.get("Accept", "*/*"), **self.cluster.headers}
        async with self.session.get(
            self.cluster.url + request.raw_path, headers=headers, ssl=self.cluster.tls
        ) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):  # either end is closed
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response


def write_plugin(folder: Path, broken: str) -> Path:
    answer = f'{{"apiVersion": "{EXEC_API}", "kind": "ExecCredential", "status": {{"token": "%s"}}}}'
    path = folder / "corp-login"
    path.write_text(
        f"#!/bin/sh\nwhile [ -e {folder}/broken ]; do {broken}; done\nprintf '{answer}' $(cat {folder}/token)\n"
    )
    path.chmod(0o755)
    (folder / "token").write_text("one")
    return path


def kubeconfig(url: str, plugin: Path) -> str:
    words = {"apiVersion": EXEC_API, "command": str(plugin), "interactiveMode": "Never"}
    return yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"exec": words}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    })  # fmt: skip


def reason(rig: WatcherRig) -> str:
    """Why the watcher of this host is not ready."""
    return next((record.why_not_ready(time.time()) for record in health.read("watcher", None, rig.settings.place)), "")


@pytest.mark.parametrize("broken", [HANGS, FAILS], ids=["hangs", "fails"])
def test_reports_go_on_within_ten_seconds_of_the_plugins_return(
    rig: WatcherRig, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(rig.folder))
    plugin, gate = write_plugin(rig.folder, broken), Gate(rig.cluster)
    monkeypatch.setenv("AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE", str(rig.folder / "kubeconfig"))

    async def scenario() -> None:
        async with gate.open():
            (rig.folder / "kubeconfig").write_text(kubeconfig(gate.url, plugin))
            launch = await asyncio.to_thread(rig.launch)
            async with rig.watching():
                await until(lambda: rig.said("started") == 1)
                (rig.folder / "broken").touch()
                gate.valid = "two"
                await asyncio.to_thread(rig.cluster.drop_streams)  # as a server ends a watch after some minutes
                await asyncio.to_thread(rig.end, launch)
                await until(lambda: "config_file" in reason(rig), 30, "the probe says why")
                await asyncio.sleep(15.0)  # until pauses are as long as they get
                assert rig.end_of(launch) is None
                (rig.folder / "token").write_text("two")
                (rig.folder / "broken").unlink()
                await until(lambda: rig.end_of(launch), 10, "the end is reported")
                await until(lambda: not reason(rig), 5, "the probe is green")

    asyncio.run(scenario())
