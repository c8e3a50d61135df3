"""One whole stack for all end-to-end tests: starting Airflow takes most of a minute on two cores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from demo import stack as demo_stack
from demo.processes import marked
from demo.stack import TROUBLED_NAMESPACES, Shape, Stack
from tests.end_to_end.stack_rig import StackRig
from tests.harness.browser import chromium

_LOG_LINES = 25


def copied_dags(home: Path) -> Path:
    """The demo's DAGs and those of the tests, in the stack's home."""
    dags = home / "dags"
    shutil.copytree(demo_stack.HERE / "dags", dags)
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    return dags


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    # No DAG file changes: each is parsed once.
    options = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600"}
    shape = Shape(dashboard=True, dags=copied_dags(home), namespaces=TROUBLED_NAMESPACES, options=options)
    running = Stack(home, shape)
    try:
        running.start()
        yield running
    finally:
        running.stop()
    assert marked(home) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For the tests of one file, which must not call asyncio.run."""
    with chromium() as started:
        yield started


@pytest.fixture
def rig(stack: Stack, request: pytest.FixtureRequest) -> Iterator[StackRig]:
    """The stack as a test uses it: all processes up, no faults; repaired after a test that killed some."""
    rig = StackRig(stack)
    rig.repair()
    request.node.stash[_STACK] = stack
    yield rig
    rig.repair()


_STACK = pytest.StashKey[Stack]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A red test shows the end of each process's log."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and _STACK in item.stash:
        for path in sorted((item.stash[_STACK].home / "processes").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            report.sections.append((f"end of {path.name}", "\n".join(lines)))
