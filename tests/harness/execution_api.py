"""Airflow's real execution API as a process, on the database of the tests, and tokens for it."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.harness.redis_server import free_port
from tests.harness.warm_process import environment

_START_LIMIT_S = 120.0


class ExecutionApi:
    """Only the routes that pods use, of one worker."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.port = free_port()
        self.log = folder / "execution-api.log"
        self._options = options

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/execution/"

    def __enter__(self) -> ExecutionApi:
        words = ["api-server", "--apps", "execution", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *words], env=environment(**self._options), stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the execution API did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return bool(opener.open(f"{self.url}health", timeout=5).status == 200)
        except (urllib.error.URLError, OSError):
            return False


def token_generator() -> Any:
    """What signs the token of a workload, as the scheduler does."""
    from airflow.api_fastapi.auth.tokens import JWTGenerator, get_signing_args
    from airflow.configuration import conf

    audience = conf.get_mandatory_list_value("execution_api", "jwt_audience")[0]
    return JWTGenerator(audience=audience, valid_for=600, **get_signing_args(make_secret_key_if_needed=False))
