"""Ids without an ASCII letter or digit: the stock executor's labels for them are invalid, and it gets no pod. Ours only."""

from __future__ import annotations

import re

import pytest

from podrelay.executor import RedisKubernetesExecutor
from tests.harness.parity_rig import Rig
from tests.harness.task_instances import load, update

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@pytest.mark.parametrize(
    ("dag_id", "task_id", "run_id"),
    [("\u65e5\u5831", "\u96c6\u8a08", "run"), ("___", "___", "___"), ("etl", "\u043e\u0442\u0447\u0451\u0442", "~~~")],
)
def test_such_a_task_runs_and_everything_finds_its_pod(ours: Rig, dag_id: str, task_id: str, run_id: str) -> None:
    task, pod = ours.run(dag_id=dag_id, task_id=task_id, run_id=run_id)
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    assert all(LABEL_VALUE.fullmatch(value) for value in labels.values()), labels
    assert (annotations["dag_id"], annotations["task_id"], annotations["run_id"]) == (dag_id, task_id, run_id)
    for launch_id in (
        task.launch_id,
        None,
    ):  # found by launch id, and as an earlier try is: by the stock executor's labels
        ti = load(task.ti_id)
        ti.external_executor_id = launch_id
        messages, texts = RedisKubernetesExecutor().get_task_log(ti, ti.try_number)
        assert [text for text in messages if "failed" in text] == []
        assert len(texts) == 1
    ours.successor()
    assert ours.adopt(task) == []
    update(task.ti_id, state="success")
    ours.end_pod(pod, exit_code=0)
    assert ours.event(task)[0] == "success"
    ours.until(lambda: ours.look(pod) is None, "the pod is cleaned up")
