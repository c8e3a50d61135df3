"""The process of a warm pod, as a container of an idle pod starts it, and the launcher's side of its mailbox."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from podrelay.protocol.mailbox import Delivery, MailboxKey
from podrelay.protocol.messages import WarmPodConfig
from podrelay.protocol.redis_keys import RedisKeys
from tests.harness.local_cluster import ROOT

LAUNCH = "0190a0a0-0000-7000-8000-000000000001"
_START_LIMIT_S = 60.0


def environment(**more: str) -> dict[str, str]:
    """Of a pod: that of the tests, with podrelay's sources, and compiled modules."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": f"{ROOT}/executor:{ROOT}/workers", **more}


class WarmProcess:
    """`options` are environment variables. Output goes to files, which `ended` returns."""

    def __init__(
        self, folder: Path, redis_url: str, options: Mapping[str, str], *, idle_s: float = 60.0, from_file: bool = False
    ) -> None:
        self.key = MailboxKey.generate()
        self.client: redis.Redis = redis.Redis.from_url(redis_url)
        keys = RedisKeys("default")
        self.alive, self.inbox = keys.mailbox_alive(self.key.name), keys.mailbox_in(self.key.name)
        self.taken = keys.mailbox_taken(self.key.name)
        config = WarmPodConfig("default", "0" * 32, self.key.text, idle_s).encode()
        words = [config.decode()]
        if from_file:
            path = folder / f"{self.key.name}.json"
            path.write_bytes(config)
            words = ["--json-path", str(path)]
        self.process = start(folder, "podrelay_workers.warm_pod", words, options)

    def wait_alive(self) -> None:
        """Until it waits for a workload."""
        deadline = time.monotonic() + _START_LIMIT_S
        while not self.client.exists(self.alive):
            assert self.process.popen.poll() is None, self.process.output()
            assert time.monotonic() < deadline, self.process.output()
            time.sleep(0.01)

    def deliver(self, workload: str, launch_id: str = LAUNCH, attempt: int = 1) -> None:
        self.client.rpush(self.inbox, self.key.seal(Delivery(launch_id, attempt, workload)))


class Process:
    """A process whose output goes to two files."""

    def __init__(self, popen: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> None:
        self.popen = popen
        self.stdout, self.stderr = stdout, stderr

    def ended(self, within_s: float = 60.0) -> int:
        """Its exit code."""
        try:
            return self.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"still running after {within_s} s: {self.output()}") from None

    def output(self) -> str:
        return self.stdout.read_text(errors="replace") + self.stderr.read_text(errors="replace")


def start(folder: Path, module: str, words: list[str], options: Mapping[str, str]) -> Process:
    """Start `python -m MODULE WORDS` with these environment variables."""
    number = len(list(folder.glob("*.stdout")))
    stdout, stderr = folder / f"{number}.stdout", folder / f"{number}.stderr"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        command = [sys.executable, "-m", module, *words]
        popen = subprocess.Popen(command, env=environment(**options), stdout=out, stderr=err, start_new_session=True)
    return Process(popen, stdout, stderr)


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
