"""The watcher's log lines about reports: one for each pod that ends, and one when the reason changes why a pod waits.

Used by `outbox` and `report_metrics`, once Redis has accepted a report.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_values import number_of
from podrelay_workers.runtime.logs import fields, task_fields

log = logging.getLogger(__name__)


def log_progress(report: PodReport) -> None:
    """A change of state that is no end; at debug level for pods that run, as there are many."""
    if report.terminal:
        return  # `log_end` follows, with what the ledger knows
    level, text = (logging.INFO, "Pod waits") if report.outcome == "pending" else (logging.DEBUG, "Pod runs")
    if log.isEnabledFor(level):
        log.log(level, text, extra=fields(**_identity(report), reason=report.reason))


def log_end(report: PodReport, entry: Mapping[str, str]) -> None:
    """:param entry: the ledger's key and times of the launch; empty where they could not be read."""
    if not log.isEnabledFor(logging.INFO):
        return
    offered_s, started_s, finished_s = (
        number_of(entry.get(f"t_{step}")) for step in ("offered", "started", "finished")
    )
    more = {"reason": report.reason, "exit_code": report.exit_code, "node": report.node}
    ran_s, latency_s = _between(started_s, finished_s), _between(offered_s, finished_s)
    task = task_fields(_key(entry.get("key", "")))
    log.info("Pod ended", extra=fields(
        **_identity(report), **task, outcome=report.outcome, **more, ran_s=ran_s, latency_s=latency_s,
    ))  # fmt: skip


def _identity(report: PodReport) -> dict[str, Any]:
    return {"launch_id": report.launch_id, "attempt": report.attempt, "pod": report.pod, "namespace": report.namespace}


def _between(before_s: float, after_s: float) -> float | None:
    """None where one of the times is unknown. Kubernetes rounds to seconds, so that the difference may be negative."""
    return round(max(0.0, after_s - before_s), 3) if before_s and after_s else None


def _key(text: str) -> Any:
    """Anybody with access to Redis may have written it."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
