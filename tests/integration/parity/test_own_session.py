"""The executor asks the database in its own sessions (item 111): the scheduler calls it in mid-transaction."""

from __future__ import annotations

import time
import uuid

from airflow import settings
from airflow.models.taskinstance import TaskInstance

from tests.harness.parity_rig import Rig
from tests.harness.task_instances import load


def test_the_schedulers_transaction_is_left_alone(ours: Rig) -> None:
    """A session that is shared by thread would be committed and closed by ours, and its row locks would be gone."""
    task, _ = ours.run()
    ours.successor()
    ti = load(task.ti_id)
    session = settings.get_session()()
    row = session.get(TaskInstance, uuid.UUID(task.ti_id))
    assert row is not None
    row.hostname = "not committed"
    session.flush()
    assert list(ours.executor.try_adopt_task_instances([ti])) == []
    ours.executor.revoke_task(ti=ti)
    begun = time.monotonic()
    while time.monotonic() - begun < 1.0:  # several comparisons with the database
        ours.executor.heartbeat()
        time.sleep(0.05)
    assert row in session
    session.rollback()
    session.close()
    assert load(task.ti_id).hostname != "not committed"
