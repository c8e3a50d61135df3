"""Everything that the fork_server imports once, and the small jobs that need Airflow's models."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import tests.chaos.driver
import tests.harness.task_instances  # noqa: F401

__all__ = ["logged", "make_database", "make_tasks"]


def logged() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )


def make_database() -> None:
    from airflow.utils.db import initdb

    initdb()


def make_tasks(count: int, dag_id: str, out: str) -> None:
    """Rows without a state, as Airflow has them before their time; their ids as JSON."""
    from tests.harness.task_instances import make_task_instances

    ids = make_task_instances(count, state=None, dag_id=dag_id, queued_by_job_id=None, external_executor_id=None)
    Path(out).write_text(json.dumps(ids))
