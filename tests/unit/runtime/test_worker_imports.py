"""A launcher or watcher at work has neither Airflow nor a Kubernetes library in memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LARGE = ("airflow", "kubernetes", "kubernetes_asyncio", "sqlalchemy", "pydantic", "requests")


@pytest.mark.parametrize("module", ["launcher.process", "watcher.process", "runtime.handover", "command"])
def test_the_modules_of_a_worker(module: str) -> None:
    code = f"import sys, podrelay_workers.{module}; print(*(name for name in {_LARGE} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
