"""A real Prometheus for tests, and its promtool: Debian's package `prometheus`, or any on the PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.redis_server import free_port

_START_LIMIT_S = 30.0


def find_program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Skips the test where there is none, and fails it when CI=true."""
    found = shutil.which(name)
    if found is None:
        message = f"no {name}: install Debian's prometheus"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


class Prometheus:
    """One server on loopback that scrapes some ports of loopback every half second."""

    def __init__(self, folder: Path, *ports: int) -> None:
        self._folder = folder
        self._ports = ports
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        targets = [f"127.0.0.1:{port}" for port in self._ports]
        job = {"job_name": "podrelay", "static_configs": [{"targets": targets}]}
        (self._folder / "prometheus.yaml").write_text(
            yaml.safe_dump({"global": {"scrape_interval": "500ms"}, "scrape_configs": [job]})
        )
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [find_program("prometheus"), f"--config.file={self._folder}/prometheus.yaml",
                 f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address=127.0.0.1:{self._port}"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression yields now; nothing means that an alert with it does not fire."""
        body = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query", body, timeout=10) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=10).close()
                return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "prometheus.log").read_text()
                time.sleep(0.05)
