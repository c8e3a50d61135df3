"""Everything on that docs/security.md lists: tasks run as ever, and nothing that anybody can look at holds a secret."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
import redis

from demo.processes import MARK, marked
from demo.stack import USER
from podrelay.protocol.redis_keys import RQ_JOB_PREFIX
from tests.end_to_end.conftest import _STACK, copied_dags
from tests.end_to_end.secured_stack import SecuredStack
from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(900)

COUNT = 4
# How often all that exists only for a while is searched.
LOOK_S = 0.2
_TOKEN = re.compile(rb"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")
# Part of every workload: whatever holds it holds a payload that is not encrypted.
_PAYLOAD = b'"bundle_info"'
# Processes of tests that run beside this one: those may show tokens of their own, but no secret of this stack.
_OTHERS = "other processes"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredStack]:
    home = tmp_path_factory.mktemp("secured")
    running = SecuredStack(home, copied_dags(home))
    try:
        running.start()
        yield running
    finally:
        running.stop()
    assert marked(home) == []


@pytest.fixture
def rig(stack: SecuredStack, request: pytest.FixtureRequest) -> StackRig:
    request.node.stash[_STACK] = stack
    return StackRig(stack)


def test_a_secured_stack_works_and_shows_no_secret(rig: StackRig, stack: SecuredStack) -> None:
    run = rig.trigger("spread", count=COUNT, seconds=5.0, dies=1)
    seen = Seen(stack)
    rig.until("tasks run", lambda: seen.watch(rig, running(run) >= 3), pause_s=LOOK_S)
    rig.stack.processes.kill("launcher.1")
    assert finish(rig, run, seen) == "success"
    run.settle()
    assert {task.label for task in run.tasks() if task.try_number > 1} == {"work[1]"}
    seen.logs_files_and_pages(run)
    assert seen.sizes["process list"] and seen.sizes["pods"] and seen.sizes["redis"] and seen.sizes["pages"]
    assert seen.found == []
    assert stack.refused_commands() == []


def running(run: Run) -> int:
    return sum(task.state == "running" for task in run.tasks())


def finish(rig: StackRig, run: Run, seen: Seen) -> str:
    rig.until("the run is over", lambda: seen.watch(rig, run.state() in ("success", "failed")), 300, LOOK_S)
    return run.state()


class Seen:
    """All that somebody can look at who may not see a secret, searched for each of them."""

    def __init__(self, stack: SecuredStack) -> None:
        self._stack = stack
        self._secrets = [(name, value.encode()) for name, value in stack.hidden()]
        self.found: list[str] = []
        self.sizes: dict[str, int] = {}

    def watch(self, rig: StackRig, done: bool) -> bool:
        """Look at what exists only for a while: process list and pods. Returns `done`."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                own = process.environ().get(MARK) == str(self._stack.home)
                words = "\0".join(process.cmdline()).encode()
                self._search("process list" if own else _OTHERS, f"process {process.pid}", words)
        for pod in rig.pods():
            self._search("pods", f"pod {pod['metadata']['name']}", json.dumps(pod).encode())
        return done

    def logs_files_and_pages(self, run: Run) -> None:
        home = self._stack.home
        with redis.Redis.from_url(self._stack.redis_url) as client:
            client.save()
            jobs = [key.decode().removeprefix(RQ_JOB_PREFIX) for key in client.scan_iter(f"{RQ_JOB_PREFIX}*")]
        for path in (path for path in (home / "redis").rglob("*") if path.is_file()):
            self._search("redis", path.name, path.read_bytes())
        for name in ("launcher.1", "launcher.2", "watcher.1", "watcher.2", "scheduler", "dashboard", "redis"):
            self._search("logs", f"log of {name}", self._stack.processes.log_of(name).read_bytes())
        assert jobs
        for page in ("/", "/0/view/queues", "/0/view/workers", *(f"/0/view/job/{job}" for job in jobs)):
            self._search("pages", page, self._page(page))

    def _page(self, path: str) -> bytes:
        login = base64.b64encode(f"{USER}:{self._stack.password}".encode()).decode()
        request = urllib.request.Request(
            f"{self._stack.dashboard_url}{path}", headers={"Authorization": f"Basic {login}"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return bytes(reply.read())

    def _search(self, kind: str, where: str, content: bytes) -> None:
        self.sizes[kind] = self.sizes.get(kind, 0) + len(content)
        for name, value in self._secrets:
            if value in content:
                self.found.append(f"{where}: {name}")
        if kind != _OTHERS and _TOKEN.search(content):
            self.found.append(f"{where}: a token")
        if kind not in ("process list", _OTHERS) and _PAYLOAD in content:
            self.found.append(f"{where}: a payload that is not encrypted")


def test_the_search_finds_what_it_looks_for(stack: SecuredStack) -> None:
    seen = Seen(stack)
    token = f"eyJ{'a' * 20}.{'b' * 20}.{'c' * 20}"
    for text in (
        token,
        stack.passwords["launcher"],
        stack.environment["AIRFLOW__CORE__FERNET_KEY"],
        '{"bundle_info": {}}',
    ):
        before = len(seen.found)
        seen._search("logs", "a text", text.encode())
        assert len(seen.found) == before + 1
