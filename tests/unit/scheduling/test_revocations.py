"""Which pods are deleted when their launch is taken back, as a table."""

from __future__ import annotations

import pytest

from podrelay.scheduling.decisions import TaskRow
from podrelay.scheduling.revocations import WithdrawalReason, must_delete_pod
from podrelay.store.launch_queue import Withdrawn

ME, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def known(state: str = "created", pod: str = "p", started: bool = False) -> Withdrawn:
    return Withdrawn(state, "0", pod, "default", "u", started)


def row(state: str, host: tuple[str, int] | None = None) -> TaskRow:
    return TaskRow(state, 1, OTHER, host=host)


@pytest.mark.parametrize(
    ("reason", "ledger", "row_", "goes"),
    [
        ("revoked", known(pod=""), row("queued"), False),
        ("revoked", known(), row("queued"), True),
        ("revoked", known(), None, True),
        ("revoked", known(started=True), row("scheduled"), True),
        ("revoked", known(started=True), row("running"), False),
        ("revoked", known(), row("running"), False),
        ("revoked", known(), row("running", (ME, 0)), False),
        ("revoked", known(), row("running", (OTHER, 0)), True),
        ("unwanted", known(), row("running", (ME, 0)), False),
        ("unwanted", known(), row("running", (ME, 1)), True),  # its task runs in the pod of another attempt
        ("unwanted", known(), row("success"), True),
        ("unwanted", known("withdrawn"), row("success"), True),
        ("unwanted", known("started", started=True), row("success"), False),
        ("superseded", known(), row("queued"), False),
        ("hanging", known("withdrawn"), row("queued"), False),
        ("hanging", known("withdrawn", started=True), row("queued"), True),
        ("hanging", known("withdrawn", started=True), row("running", (ME, 0)), False),
        ("hanging", known("finished", started=True), row("queued"), False),
    ],
)
def test_a_pod_goes_unless_its_task_began(
    reason: WithdrawalReason, ledger: Withdrawn, row_: TaskRow | None, goes: bool
) -> None:
    assert must_delete_pod(ME, reason, ledger, row_) is goes
