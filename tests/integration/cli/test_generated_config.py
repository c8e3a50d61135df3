"""What Airflow writes into an airflow.cfg that it generates is not taken for a user's wish."""

from __future__ import annotations

import asyncio
import configparser
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from podrelay.get_provider_info import OPTIONS, default_of
from tests.harness.generated_config import AIRFLOW, airflow, environment, generate
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import Json, status
from tests.harness.waiting import until

# Several commands in a row, each of which imports all of Airflow.
pytestmark = pytest.mark.timeout(300)
SENTENCE = "launches wait up to 600 s ([scheduler] task_queued_timeout)"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("generated")
    return generate(home)


@pytest.fixture
def home(generated: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that a test may edit."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(generated, folder)
    yield folder
    shutil.rmtree(folder)


def set_option(home: Path, section: str, **options: str) -> None:
    """Write options into airflow.cfg as a user does: directly below the header of their section."""
    file = home / "airflow.cfg"
    head, rest = file.read_text().split(f"[{section}]\n", 1)
    lines = [line for line in rest.split("\n") if line.partition(" =")[0] not in options]
    written = "".join(f"{name} = {value}\n" for name, value in options.items())
    file.write_text(f"{head}[{section}]\n{written}" + "\n".join(lines))


def checks(home: Path, **options: str) -> dict[str, dict[str, Any]]:
    result = airflow(home, "podrelay", "check", "--json", **options)
    assert result.returncode in (0, 1), result.stderr
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


# --- waiting ------------------------------------------------------------------------------------------------------
def test_a_generated_file_sets_no_retries(generated: Path, home: Path) -> None:
    assert "\ntask_publish_max_retries = 0\n" in generated.read_text()
    found = checks(home)["launch waits"]
    assert found["ok"]
    assert SENTENCE in found["detail"]
    assert "task_publish_max_retries = 0, which does not count" in found["detail"]


def test_the_check_has_nothing_to_say_about_a_generated_file(home: Path) -> None:
    found = checks(home)["[podrelay] options"]
    assert (found["ok"], found["warnings"]) == (True, [])


def test_the_check_says_how_long_launches_wait_and_why(home: Path) -> None:
    set_option(home, "kubernetes_executor", task_publish_max_retries="3")
    detail = checks(home)["launch waits"]["detail"]
    assert "with at most 3 retries ([kubernetes_executor] task_publish_max_retries" in detail
    set_option(home, "podrelay", launch_retries_max="0", capacity_wait_s="90")
    detail = checks(home)["launch waits"]["detail"]
    assert "up to 90 s ([podrelay] capacity_wait_s), with at most 0 retries ([podrelay] launch_retries_max" in detail


def test_a_launcher_of_a_generated_file_waits_for_a_throttled_server(rig: LauncherRig, home: Path) -> None:
    """And it logs as the file says."""
    refused: list[str] = []

    def throttle(_: web.Request, __: Json) -> web.Response | None:
        refused.append("429")
        return status(429, "TooManyRequests", "slow down", retry_after="0.2") if len(refused) < 3 else None

    rig.api.fault = throttle
    request = rig.request()
    rig.offer(request)
    options = {name: value for name, value in rig.environment().items() if name.startswith("AIRFLOW__")}
    del options["AIRFLOW__LOGGING__LOGGING_LEVEL"]
    set_option(home, "logging", json_logs="True")
    with (home / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(
            [*AIRFLOW, "podrelay", "launcher"], env=environment(home, **options), stdout=subprocess.DEVNULL, stderr=log
        )
    try:
        asyncio.run(until(lambda: rig.ledger(request).get("state") in ("created", "finished"), 100.0))
    finally:
        launcher.terminate()
        launcher.wait(30)
    assert len(refused) == 3
    assert rig.ledger(request)["state"] == "created"
    written = (home / "launcher.log").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    (created,) = [line for line in lines if line["event"] == "Pod created"]
    assert created.items() >= {
        "level": "info", "launch_id": request.launch_id, "attempt": 0, "dag_id": "etl", "task_id": "load0",
        "run_id": "manual__2026-11-20", "try_number": 1, "pod": rig.ledger(request)["pod"], "namespace": "default",
    }.items()  # fmt: skip
    assert created["latency_s"] > 0.2, "it was throttled"
    assert TOKEN not in written


# --- pinned defaults ----------------------------------------------------------------------------------------------
def test_a_generated_file_pins_no_number(generated: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(generated)
    pinned = set(parser["podrelay"])
    assert {name for name, option in OPTIONS.items() if option["type"] != "string"} & pinned == set()
    assert "# launcher_concurrency = \n" in generated.read_text()
    assert "Default: 64." in generated.read_text()


def test_the_check_lists_defaults_that_an_older_release_pinned(home: Path) -> None:
    numbers = {name: default_of(name) for name in ("launcher_concurrency", "launch_lease_s")}
    set_option(home, "podrelay", **numbers, watch_lease_s="7", token_margin_s="")
    found = checks(home)["[podrelay] options"]
    assert found["ok"], "an empty number means the default"
    (warning,) = found["warnings"]
    assert "launcher_concurrency" in warning
    assert "launch_lease_s" in warning
    assert "watch_lease_s" not in warning
