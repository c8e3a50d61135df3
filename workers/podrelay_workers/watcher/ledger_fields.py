"""Pure: the ledger fields that can be read off a pod. Used by `pod_state` and `pod_table`."""

from __future__ import annotations

import json

from podrelay.protocol import identifiers
from podrelay_workers.watcher.pod_reasons import NEVER_RAN
from podrelay_workers.watcher.pod_view import ContainerView, PodView, epoch_s


def ledger_fields(view: PodView, base: ContainerView) -> dict[str, str]:
    """What the ledger holds of a pod whatever becomes of it: where it is, and the times of its steps. Those of a warm pod
    that came before its launch are left out; its start is in the ledger from the delivery of the workload.
    """
    running, ended = base.running, base.terminated
    started_s = (running.started_s if running else 0.0) or (ended.started_s if ended else 0.0)
    found = {"pod": view.name, "namespace": view.namespace}
    if view.uid:
        found["uid"] = view.uid
    if view.node:
        found["node"] = view.node
    if view.scheduled and view.scheduled.at_s and not view.is_warm:
        found["t_scheduled"] = f"{view.scheduled.at_s:.3f}"
    if started_s and not view.is_warm:
        found["t_started"] = f"{started_s:.3f}"
    if ended and ended.finished_s:
        found["t_finished"] = f"{ended.finished_s:.3f}"
    if running or (ended and ended.reason not in NEVER_RAN and started_s):
        found["started"] = "1"
    return found


def restore_fields(view: PodView, cluster: str) -> dict[str, str]:
    """The entry of a launch that Redis may have lost, as far as its pod holds it."""
    created_s = 0.0 if view.is_warm else epoch_s(view.created)
    found = {
        # Not created: the launch is then offered again, and a launcher completes it.
        "state": "claimed" if _may_lack_secret(view) else "",
        "pod": view.name,
        "namespace": view.namespace,
        "uid": view.uid,
        "cluster": cluster,
        "owner": view.label(identifiers.LABEL_WORKER),
        "subject": view.annotation(identifiers.ANNOTATION_SUBJECT),
        "t_created": f"{created_s:.3f}" if created_s else "",
        **_task_key(view),
    }
    return {name: value for name, value in found.items() if value}


def _may_lack_secret(view: PodView) -> bool:
    """Did a launcher perhaps create this pod and not yet the Secret that it waits for?"""
    return view.phase == "Pending" and bool(view.annotation(identifiers.ANNOTATION_WORKLOAD_SECRET))


def _task_key(view: PodView) -> dict[str, str]:
    """The task's key, from the stock executor's annotations."""
    annotations = view.annotations
    try:
        key = [annotations[name] for name in ("dag_id", "task_id", "run_id")]
        numbers = [int(annotations["try_number"]), int(annotations.get("map_index", -1))]
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    if not all(isinstance(part, str) for part in key):
        return {}
    return {"kind": "task", "key": json.dumps([*key, *numbers])}
