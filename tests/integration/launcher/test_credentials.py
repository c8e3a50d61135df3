"""A launcher whose credentials do not come: it names the cause, is not ready, stops when asked, and recovers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from podrelay import health
from tests.harness.launcher_rig import LauncherRig
from tests.harness.pod_api import status
from tests.harness.waiting import until


@pytest.fixture
def plugin(rig: LauncherRig) -> Path:
    """The kubeconfig gets an exec plugin, which hangs while the file beside it, `hang`, exists."""
    path = rig.folder / "corp-login"
    answer = '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "%s"}}'
    path.write_text(
        "#!/bin/sh\n"
        f"while [ -e {rig.folder}/hang ]; do sleep 1000 & wait; done\n"
        f"printf '{answer}' $(cat {rig.folder}/token)\n"
    )
    path.chmod(0o755)
    (rig.folder / "token").write_text("one")
    document = yaml.safe_load(rig.kubeconfig.read_text())
    words = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}
    document["users"][0]["user"] = {"exec": words}
    rig.kubeconfig.write_text(yaml.safe_dump(document))
    return path


def reason(rig: LauncherRig) -> str:
    """Why the launcher of this host is not ready."""
    return next((record.why_not_ready(time.time()) for record in health.read("launcher", None, rig.settings.place)), "")


@pytest.mark.parametrize("role", ["launcher", "watcher"])
def test_a_plugin_that_hangs_at_the_start_is_shown_and_does_not_stop_the_shutdown(
    rig: LauncherRig, plugin: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    import subprocess
    import sys

    (rig.folder / "hang").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(rig.folder))
    log = rig.folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "podrelay_workers", role],
            env=os.environ | {"TMPDIR": str(rig.folder), "AIRFLOW_HOME": str(rig.folder / "airflow")},
            stderr=file,
        )

    async def scenario() -> None:
        try:
            await until(lambda: "corp-login" in log.read_text(), 60)
            await until(lambda: health.read(role, None, rig.settings.place))
            (record,) = health.read(role, None, rig.settings.place)
            assert "corp-login" in record.why_not_ready(time.time())
            process.send_signal(signal.SIGTERM)
            await until(lambda: process.poll() is not None, 30)
        finally:
            process.kill()
            process.wait()

    asyncio.run(scenario())
    assert process.returncode == 0


def test_launches_go_on_within_ten_seconds_of_the_plugins_return(
    rig: LauncherRig, plugin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(rig.folder))
    valid = "one"

    def check(request: web.Request, _: object) -> web.Response | None:
        good = request.headers.get("Authorization") == f"Bearer {valid}"
        return None if good else status(401, "Unauthorized", "Unauthorized")

    rig.api.fault = check

    async def scenario() -> None:
        nonlocal valid
        async with rig.launcher():
            first = rig.offer_many(5)
            await until(lambda: rig.states(first) == {"created": 5})
            (rig.folder / "hang").touch()
            valid = "two"
            later = rig.offer_many(5)
            await until(lambda: "corp-login" in reason(rig), 20, "the probe says why")
            await asyncio.sleep(12.0)  # longer than any plugin takes that works
            assert rig.states(later).get("created", 0) == 0
            (rig.folder / "token").write_text("two")
            (rig.folder / "hang").unlink()
            await until(lambda: rig.states(later) == {"created": 5}, 10)
            await until(lambda: not reason(rig), 5)

    asyncio.run(scenario())
    assert {result.reason for result in rig.results()} <= {"Unauthorized"}, "the wait is reported"
    assert not [result for result in rig.results() if result.terminal]
