"""Pure: what the end of a pod means whose report this scheduler cannot read: it lacks the key, or does not know the format.

The ledger's fields are not encrypted, so anybody with access to Redis may have written them. Together with the task's row
they suffice to end a launch whose task does not run. They never fail a running task: a readable report, or Airflow's own
heartbeat timeout, does that. Nor do they end a callback or a connection test, which has no row. What they mean beside a
report of another format is unknown: then only the row counts, and ends what is over.

Used by the result processor, the reconciler and the orphan collector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from podrelay.protocol import identifiers
from podrelay.protocol.messages import TERMINAL, PodReport
from podrelay.protocol.redis_values import number_of
from podrelay.scheduling.decisions import WANTED, Decision, TaskRow, superseded

NOTICE = (
    "the report about its end cannot be decrypted: this scheduler lacks the key of the process that wrote it "
    "(airflow podrelay check compares the keys)"
)


FORMAT_NOTICE = (
    "the report about its end has a format that this scheduler does not read: a newer podrelay wrote it; "
    "upgrade the schedulers"
)


def stand_in(launch_id: str, entry: Mapping[str, str], notice: str = NOTICE) -> PodReport | None:
    """A report made of the ledger's unencrypted fields; None if they hold no end."""
    outcome, attempt = entry.get("outcome", ""), int(number_of(entry.get("attempt")))
    if outcome not in TERMINAL:
        return None
    pod = entry.get("pod", "")
    # A pod of something else is never touched. The name of a warm pod proves nothing: the launcher compares its labels.
    if str(identifiers.attempt_of_pod(pod, launch_id)) != str(attempt) and not identifiers.warm_id_of_pod(pod):
        pod = ""
    message = "; ".join(filter(None, (entry.get("message", ""), notice)))
    return PodReport(
        launch_id, attempt, outcome, reason=entry.get("reason") or "UnreadableReport", message=message,  # type: ignore[arg-type]
        pod=pod, namespace=entry.get("namespace", ""), uid=entry.get("uid", ""), node=entry.get("node", ""),
    )  # fmt: skip


def limit(decision: Decision, report: PodReport, try_number: int, row: TaskRow | None) -> Decision | None:
    """What of a decision about a stand-in may be done; None: nothing, as the task runs in this pod.

    Only the pod of a task that is over is deleted or kept as usual; any other is deleted only if it has not started.
    """
    runs = row is not None and row.state in WANTED and row.state != "queued"
    if runs and not superseded(report.launch_id, report.attempt, try_number, row):
        return None
    if decision.cleanup and (row is None or row.state in WANTED):
        return decision._replace(cleanup="revoke")
    return decision


def limit_to_over(decision: Decision, report: PodReport, try_number: int, row: TaskRow | None) -> Decision | None:
    """As `limit`, and nothing at all unless the row says that the task is over."""
    over = row is not None and row.state not in WANTED
    return limit(decision, report, try_number, row) if over else None


class Unread(NamedTuple):
    """Why reports cannot be read, and what of a decision about their stand-ins may be done."""

    notice: str
    limit: Callable[[Decision, PodReport, int, TaskRow | None], Decision | None]


WITHOUT_KEY = Unread(NOTICE, limit)
OF_ANOTHER_FORMAT = Unread(FORMAT_NOTICE, limit_to_over)
