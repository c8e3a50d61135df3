"""Pods of many shapes and tasks mapped over the results of mapped tasks, while the scheduler is killed in the middle."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(600)

SHAPES = ("annotated", "with_volume", "with_sidecar", "labelled", "other_image", "placed")
GROUPS, WIDTH = 2, 2
NESTED = (
    "numbers",
    *(f"section.{task}[{number}]" for task in ("double", "spread") for number in range(GROUPS)),
    "flat",
    *(f"plus_one[{number}]" for number in range(GROUPS * WIDTH)),
    "total",
)


def test_shapes_and_nested_mapping_through_a_killed_scheduler(rig: StackRig) -> None:
    shapes, nested = rig.trigger("shapes"), rig.trigger("nested", groups=GROUPS, width=WIDTH)
    rig.until("some are over and some are under way", lambda: _between(shapes) and _between(nested))
    rig.stack.processes.kill("scheduler")
    rig.stack.start_scheduler()
    for run, tasks in ((shapes, SHAPES), (nested, NESTED)):
        assert run.finish() == "success"
        run.settle()
        assert run.pods_made() == Counter({(task, 1): 1 for task in tasks})
        assert {task.label: task.try_number for task in run.tasks()} == dict.fromkeys(tasks, 1)
    assert rig.api.xcom("nested", nested.run_id, "total") == sum(2 * number + 1 for number in (1, 2)) * WIDTH


def _between(run: Run) -> bool:
    states = [task.state for task in run.tasks()]
    return "success" in states and not all(state == "success" for state in states)
