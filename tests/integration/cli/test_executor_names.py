"""Names in [core] executor that docs/migration_celery.md gives: Airflow finds podrelay by them, and so does the check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.generated_config import ROOT, environment

PAGE = (ROOT / "docs/migration_celery.md").read_text("utf-8")
VALUES = re.findall(r"^ *executor = (\S+)$", PAGE, re.MULTILINE)
CODE = """
import json, sys
from airflow.executors.executor_loader import ExecutorLoader
from podrelay.cli.check_options import check_executor
loaded = {name: type(ExecutorLoader.load_executor(name)).__module__ for name in sys.argv[1:]}
print(json.dumps([loaded, check_executor(None).detail]))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("value", VALUES)
def test_airflow_finds_podrelay_by_the_names_of_the_page(value: str, tmp_path: Path) -> None:
    names = ["RedisKubernetesExecutor", *(["KubernetesExecutor"] if ":" in value else [])]
    given = environment(tmp_path, AIRFLOW__CORE__EXECUTOR=value, AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names], env=given, capture_output=True, text=True, check=True, timeout=100
    )
    loaded, found = json.loads(done.stdout.splitlines()[-1])
    assert loaded == dict.fromkeys(names, "podrelay.executor")
    assert found == value


def test_the_page_has_both_forms() -> None:
    assert len(VALUES) == 2
    assert sum(":" in value for value in VALUES) == 1
