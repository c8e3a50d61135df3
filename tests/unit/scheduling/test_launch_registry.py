"""The life of a launch as a table of transitions, and the registry that holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from podrelay.protocol.messages import LaunchRequest
from podrelay.scheduling.decisions import TaskRow
from podrelay.scheduling.launch_registry import IllegalTransition, Launch, LaunchRegistry, LaunchState, slot_only

ADOPTED, REQUESTED = LaunchState.ADOPTED, LaunchState.REQUESTED
SLOT_ONLY, TASK_OVER, WITHDRAWN = LaunchState.SLOT_ONLY, LaunchState.TASK_OVER, LaunchState.WITHDRAWN
ME, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
REQUEST = LaunchRequest(ME, 0, "task", "subject", (), "1", ())
NEW = LaunchRequest(ME, 0, "task", "subject", (), "1", ("new",))


def launch(state: LaunchState = REQUESTED, launch_id: str = ME, key: str = "key", **fields: Any) -> Launch:
    if state not in (ADOPTED, SLOT_ONLY):
        fields = {"request": REQUEST, "workload": "old", **fields}
    return Launch(launch_id, key, "task", "subject", task=key, state=state, **fields)


def attach_request(one: Launch) -> Launch:
    one.attach_request(NEW, "new")
    return one


def next_attempt(one: Launch) -> Launch:
    return one.next_attempt(NEW, "new", relaunched=True)


def mark_task_over(one: Launch) -> Launch:
    one.mark_task_over(1.0)
    return one


def withdraw(one: Launch) -> Launch:
    one.withdraw()
    return one


def catch_up(one: Launch) -> Launch:
    one.catch_up(3, 2)
    return one


Transition = Callable[[Launch], Launch]

# For each state, what each transition leads to; None if it is illegal.
TABLE: dict[Transition, dict[LaunchState, LaunchState | None]] = {
    attach_request: {
        ADOPTED: REQUESTED, REQUESTED: None, SLOT_ONLY: None, TASK_OVER: None, WITHDRAWN: WITHDRAWN,
    },
    next_attempt: {
        ADOPTED: None, REQUESTED: REQUESTED, SLOT_ONLY: None, TASK_OVER: REQUESTED, WITHDRAWN: WITHDRAWN,
    },
    mark_task_over: {
        ADOPTED: None, REQUESTED: TASK_OVER, SLOT_ONLY: None, TASK_OVER: TASK_OVER, WITHDRAWN: None,
    },
    withdraw: dict.fromkeys(LaunchState, WITHDRAWN),
    catch_up: {state: state for state in LaunchState},
}  # fmt: skip


@pytest.mark.parametrize("state", LaunchState)
@pytest.mark.parametrize("transition", TABLE)
def test_transitions(transition: Transition, state: LaunchState) -> None:
    one, target = launch(state), TABLE[transition][state]
    if target is not None:
        assert transition(one).state is target
        return
    before = repr(one)
    with pytest.raises(IllegalTransition, match=f"launch {ME} is in state {state.value!r}"):
        transition(one)
    assert repr(one) == before, "an illegal transition changes nothing"


@pytest.mark.parametrize("state", LaunchState)
def test_a_launch_is_followed_unless_it_is_withdrawn_or_holds_only_a_slot(state: LaunchState) -> None:
    assert launch(state).is_followed is (state in (ADOPTED, REQUESTED, TASK_OVER))
    assert launch(state).is_withdrawn is (state is WITHDRAWN)


def test_a_launch_begins_as_adopted_and_without_request() -> None:
    one = Launch(ME, "key", "task", "subject")
    assert (one.state, one.request, one.workload, one.attempt) == (ADOPTED, None, None, 0)


@pytest.mark.parametrize("state", [ADOPTED, WITHDRAWN])
def test_an_attached_request_is_kept(state: LaunchState) -> None:
    one = attach_request(launch(state))
    assert (one.request, one.workload) == (NEW, "new")


@pytest.mark.parametrize(("relaunched", "relaunches"), [(True, 2), (False, 1)])
def test_a_next_attempt_is_another_launch_object_with_the_same_id(relaunched: bool, relaunches: int) -> None:
    one = launch(relaunches=1, attempt=4, former_row_id=OTHER)
    again = one.next_attempt(NEW, "new", relaunched=relaunched)
    assert (again.launch_id, again.attempt, again.relaunches, again.workload) == (ME, 5, relaunches, "new")
    assert again.request is not None
    assert (again.request.attempt, again.request.args) == (5, ("new",))
    assert again.former_row_id == OTHER
    assert (one.attempt, one.workload) == (4, "old"), "nothing changes before the attempt is offered"


def test_the_time_since_a_task_is_over_counts_from_the_first_time() -> None:
    one = launch()
    assert [one.mark_task_over(now_s) for now_s in (10.0, 12.5, 130.0)] == [0.0, 2.5, 120.0]


def test_another_process_may_be_ahead() -> None:
    one = catch_up(launch(ADOPTED))
    assert (one.attempt, one.relaunches) == (3, 2)
    request = catch_up(launch(REQUESTED)).request
    assert request is not None
    assert request.attempt == 3


def test_a_reason_is_reported_once_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("podrelay.scheduling.launch_registry.time.monotonic", lambda: now_s)
    one = launch()
    assert one.should_report("ImagePull", 60.0)
    assert one.should_report("ImagePull", 60.0), "a question changes nothing"
    one.mark_reported("ImagePull")
    assert not one.should_report("ImagePull", 60.0)
    assert one.should_report("Unschedulable", 60.0)
    one.mark_reported("Unschedulable")
    now_s += 60.0
    assert one.should_report("ImagePull", 60.0)


@pytest.mark.parametrize(
    ("former_row_id", "in_row", "unknown"),
    [
        (None, OTHER, False),  # Airflow assigned the id
        (OTHER, OTHER, True),
        (OTHER, ME, False),
        ("", None, True),
        ("", "", True),
        ("", OTHER, False),
    ],
)
def test_a_row_that_holds_the_former_id_is_read_as_if_it_held_this_one(
    former_row_id: str | None, in_row: str | None, unknown: bool
) -> None:
    one, row = launch(former_row_id=former_row_id), TaskRow("queued", 1, in_row)
    assert one.is_unknown_to(row) is unknown
    assert one.as_known_to(row) == TaskRow("queued", 1, ME if unknown else in_row)
    assert one.as_known_to(None) is None


# --- registry -----------------------------------------------------------------------------------------------------


def test_the_newest_launch_of_a_key_supersedes_the_one_before() -> None:
    registry, old, new = LaunchRegistry(), launch(), launch(launch_id=OTHER)
    assert registry.add(old) is None
    assert registry.add(old) is None, "adding it again supersedes nothing"
    assert registry.add(new) is old
    assert (registry.of_key("key"), registry.get(ME), len(registry)) == (new, old, 2)
    assert registry.is_newest(new)
    assert not registry.is_newest(old)


def test_only_the_newest_launch_frees_the_slot() -> None:
    registry, old, new, running = LaunchRegistry(), launch(), launch(launch_id=OTHER), {"key"}
    registry.add(old)
    registry.add(new)
    registry.release(old, running)
    assert running == {"key"}
    registry.release(new, running)
    assert (running, len(registry), registry.of_key("key")) == (set(), 0, None)


def test_a_slot_follows_the_task_into_the_pod_of_another_launch() -> None:
    registry, one = LaunchRegistry(), launch()
    registry.add(one)
    registry.hold_slot_for((OTHER, 2), one, OTHER)
    held = registry.of_key("key")
    assert held is not None
    assert (held.launch_id, held.attempt, held.state, held.task) == (OTHER, 2, ADOPTED, "key")


def test_a_slot_is_held_without_reports_for_an_earlier_attempt_of_the_same_launch() -> None:
    registry, one = LaunchRegistry(), launch(attempt=1)
    registry.add(one)
    registry.hold_slot_for((ME, 0), one, None)
    held = registry.of_key("key")
    assert held is not None
    assert (held.state, held.foreign_id) == (SLOT_ONLY, "")
    assert held.launch_id not in (ME, OTHER)


def test_two_slots_of_foreign_launches_have_different_ids() -> None:
    first, second = (slot_only("key", "subject", "task", OTHER) for _ in range(2))
    assert first.foreign_id == second.foreign_id == OTHER
    assert first.launch_id != second.launch_id


def test_a_round_reaches_every_launch_in_bounded_batches() -> None:
    registry = LaunchRegistry()
    launches = [launch(launch_id=f"{ME[:-1]}{number}", key=str(number)) for number in range(5)]
    for one in launches:
        registry.add(one)
    assert registry.round_is_over
    assert registry.next_to_check(2) == launches[:2]
    registry.forget(launches[2])
    assert registry.next_to_check(2) == launches[3:4], "one that was forgotten is passed over"
    assert not registry.round_is_over
    assert registry.next_to_check(2) == launches[4:]
    assert registry.round_is_over


def test_a_round_can_begin_again() -> None:
    registry = LaunchRegistry()
    for number in range(3):
        registry.add(launch(launch_id=f"{ME[:-1]}{number}", key=str(number)))
    registry.next_to_check(2)
    registry.restart_round()
    assert len(registry.next_to_check(10)) == 3
