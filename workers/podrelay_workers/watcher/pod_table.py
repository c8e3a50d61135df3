"""Pure: what the watcher remembers of each live pod, so that only news is published. A few short texts per pod.

Time comes in as an argument: `clock_s` is monotonic and measures waits, `now_s` is the wall clock of results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.messages import PodReport
from podrelay_workers.watcher.pod_state import (
    TERMINATING,
    UNKNOWN,
    DeferredReport,
    PodState,
    Rules,
    epoch_s,
    identity,
    interpret,
    vanished,
)

Json = dict[str, Any]
Key = tuple[str, str]

# The same wait in other words ("0/10 nodes" becomes "0/11 nodes") is news at most this often.
SAME_WAIT_S = 60.0
SKIPPED_MAX = 10_000
# An end stays known for so long after its pod is gone: by then the ledger knows it too.
OVER_KEPT_S = 300.0


@dataclass(frozen=True)
class PodNews:
    """Something for the ledger and the stream. `restore` are ledger fields for a launch that Redis may have forgotten.

    A PodNews without a result only restores.
    """

    launch_id: str
    attempt: int
    result: PodReport | None = None
    fields: dict[str, str] = field(default_factory=dict)
    restore: dict[str, str] | None = None


@dataclass(frozen=True)
class Taken:
    """What came of one event: news or not; `confirm` is a pod that may be gone; `skipped` is worth one log line."""

    news: PodNews | None = None
    confirm: PodEntry | None = None
    skipped: str = ""


@dataclass
class PodEntry:
    """One live pod."""

    __slots__ = (
        "attempt", "doubt", "later", "launch_id", "name", "namespace", "news_at", "reason", "said", "since", "told_wait",
        "uid", "wait",
    )  # fmt: skip

    namespace: str
    name: str
    uid: str
    launch_id: str
    attempt: int
    said: str  # the furthest outcome published: "", pending, started, or over
    wait: str
    since: float
    reason: str
    told_wait: str
    news_at: float
    later: tuple[DeferredReport, ...]
    doubt: PodReport | None  # what became of it if it is gone


class PodTable:
    """The live pods of one cluster. Forgets everything with its term of leadership."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._rows: dict[Key, PodEntry] = {}
        # Name -> namespace: there is one pod of a name, wherever it is.
        self._places: dict[str, str] = {}
        self._waiting: dict[Key, PodEntry] = {}
        self._skipped: set[str] = set()
        self._over: dict[tuple[str, int], float] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def holds(self, namespace: str, name: str, launch_id: str) -> bool:
        """Is there a live pod of this name, and is it of this launch?"""
        row = self._rows.get((namespace, name))
        return row is not None and row.launch_id == launch_id

    def place_of(self, name: str) -> str | None:
        """The namespace in which the live pod of this name is, whatever the ledger says."""
        return self._places.get(name)

    def take(self, event: str, pod: Any, now_s: float, clock_s: float) -> Taken:
        """Learn from an event."""
        verdict = interpret(event, pod, self._rules, now_s)
        if verdict.skipped:
            return self._skip(pod, verdict)
        key = (verdict.fields.get("namespace", ""), verdict.fields.get("pod", ""))
        row = before = self._rows.get(key)
        restore = None
        if row is None or row.launch_id != verdict.launch_id or row.uid != verdict.fields.get("uid", ""):
            row = row_of(*key, verdict.launch_id, verdict.attempt, verdict.fields.get("uid", ""))
            self.forget(key)
            self._rows[key] = row
            self._places[row.name] = row.namespace
            restore = _restorable(pod, verdict, self._rules.cluster) if event == "LISTED" else None
        news = self._news(row, verdict, now_s, clock_s, seen_first=event == "LISTED" and row is not before)
        row.doubt = verdict.confirm
        if event == "DELETED" and row.doubt is None:
            self.forget(key)
        if news is None and restore is not None:
            news = PodNews(verdict.launch_id, verdict.attempt)
        if news is not None and restore is not None:
            news = replace(news, restore=restore)
        if before is not None and before.launch_id != row.launch_id and before.said != "over":
            return Taken(news, before)  # another pod has its name now
        return Taken(news, row if row.doubt is not None and row.said != "over" else None)

    def waiting(self) -> list[PodEntry]:
        """The pods whose wait may become their end."""
        return [row for row in self._waiting.values() if any(item.result.terminal for item in row.later)]

    def recall(self, row: PodEntry, ledger: Mapping[str, str], now_s: float, clock_s: float) -> None:
        """A former leader has seen this wait begin: its grace does not begin anew."""
        if ledger.get("attempt") != str(row.attempt) or ledger.get("wait") != row.wait:
            return
        try:
            waited_s = now_s - float(ledger.get("t_wait", ""))
        except ValueError:
            return
        row.since = min(row.since, clock_s - max(0.0, waited_s))

    def due(self, clock_s: float) -> list[tuple[PodEntry, DeferredReport]]:
        """What falls due by the clock alone: a fatal reason that lasted, a start that takes long. Told by `tell`."""
        found = []
        for row in list(self._waiting.values()):
            ripe = [item for item in row.later if clock_s - row.since >= item.after_s]
            row.later = tuple(item for item in row.later if item not in ripe)
            found += [(row, item) for item in ripe]
            self._keep_time(row)
        return found

    def tell(self, row: PodEntry, result: PodReport, now_s: float, clock_s: float) -> PodNews | None:
        """PodNews about a pod that no event brought; None where it is none any more."""
        if self._rows.get((row.namespace, row.name)) is not row:
            return None
        return self._say(row, replace(result, seen_at_s=now_s), _whereabouts(row), clock_s)

    def missing(self, namespace: str | None, listed: frozenset[Key]) -> list[PodEntry]:
        """Pods that were known and are not in a complete list of this namespace (None: of all)."""
        return [
            row
            for key, row in self._rows.items()
            if key not in listed and (namespace is None or row.namespace == namespace)
        ]

    def gone(self, row: PodEntry, now_s: float, clock_s: float) -> PodNews | None:
        """A pod that the API server no longer knows: None where its end was published before."""
        if self.holds(row.namespace, row.name, row.launch_id):
            self.forget((row.namespace, row.name))
        result = row.doubt or vanished(row.launch_id, row.attempt, row.namespace, row.name, self._rules, now_s)
        return self._say(row, replace(result, uid=row.uid), _whereabouts(row), clock_s)

    def forget(self, key: Key) -> None:
        self._rows.pop(key, None)
        self._waiting.pop(key, None)
        if self._places.get(key[1]) == key[0]:
            del self._places[key[1]]

    # --- what is news ---------------------------------------------------------------------------------------------

    def _news(self, row: PodEntry, verdict: PodState, now_s: float, clock_s: float, seen_first: bool) -> PodNews | None:
        if verdict.wait != row.wait:
            row.wait, row.since, row.later = verdict.wait, clock_s, verdict.later
        elif row.later:  # the wait goes on; only its words may have changed
            due_s = {item.name: item.after_s for item in row.later}
            row.later = tuple(replace(item, after_s=due_s[item.name]) for item in verdict.later if item.name in due_s)
        self._keep_time(row)
        if verdict.result is None:
            return None
        fields = verdict.fields
        if any(item.result.terminal for item in verdict.later):  # for a leader to come
            # Who comes upon the wait does not know when it began: an earlier leader may (`publish.lua`).
            at = "t_wait?" if seen_first else "t_wait"
            fields = {**fields, "wait": row.wait, at: f"{now_s - (clock_s - row.since):.3f}"}
        return self._say(row, verdict.result, fields, clock_s)

    def _say(self, row: PodEntry, result: PodReport, fields: dict[str, str], clock_s: float) -> PodNews | None:
        if row.said == "over" or (row.launch_id, row.attempt) in self._over:
            return None
        if result.terminal:
            row.said, row.later = "over", ()
            self._remember_end(row, clock_s)
        elif result.outcome == "started":
            if row.said == "started":
                return None
            row.said = "started"
        else:
            text = f"{result.reason}: {result.message}"
            if text == row.reason or (row.said == "started" and row.wait not in (TERMINATING, UNKNOWN)):
                return None
            if row.told_wait == row.wait and clock_s - row.news_at < SAME_WAIT_S:
                return None
            row.said = row.said or "pending"
            row.reason, row.told_wait, row.news_at = text, row.wait, clock_s
        return PodNews(row.launch_id, row.attempt, result, fields)

    def _remember_end(self, row: PodEntry, clock_s: float) -> None:
        self._over[(row.launch_id, row.attempt)] = clock_s
        while self._over:  # in the order of time
            first = next(iter(self._over))
            if clock_s - self._over[first] <= OVER_KEPT_S:
                return
            del self._over[first]

    def _keep_time(self, row: PodEntry) -> None:
        if row.later:
            self._waiting[(row.namespace, row.name)] = row
        else:
            self._waiting.pop((row.namespace, row.name), None)

    def _skip(self, pod: Any, verdict: PodState) -> Taken:
        metadata = _map(_map(pod).get("metadata"))
        key = (str(metadata.get("namespace"))[:253], str(metadata.get("name"))[:253])
        self.forget(key)
        if verdict.launch_id:  # ours, and nothing to say about it
            return Taken()
        label = f"{key[0]}/{key[1]}"
        if label in self._skipped:
            return Taken()
        if len(self._skipped) >= SKIPPED_MAX:
            self._skipped.clear()
        self._skipped.add(label)
        return Taken(skipped=f"{label}: {verdict.skipped}")


def _restorable(pod: Json, verdict: PodState, cluster: str) -> dict[str, str]:
    """Ledger fields of a launch that can be read off its pod."""
    metadata = _map(pod.get("metadata"))
    labels, annotations = _map(metadata.get("labels")), _map(metadata.get("annotations"))
    created_s = epoch_s(metadata.get("creationTimestamp"))
    found = {
        **{name: verdict.fields.get(name, "") for name in ("pod", "namespace", "uid")},
        "cluster": cluster,
        "owner": labels.get(identifiers.LABEL_WORKER),
        "subject": annotations.get(identifiers.ANNOTATION_SUBJECT),
        "t_created": f"{created_s:.3f}" if created_s else "",
        **_task(annotations),
    }
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _task(annotations: Json) -> dict[str, str]:
    """The task's key, from the stock executor's annotations."""
    try:
        key = [annotations[name] for name in ("dag_id", "task_id", "run_id")]
        numbers = [int(annotations["try_number"]), int(annotations.get("map_index", -1))]
    except (KeyError, TypeError, ValueError, OverflowError):
        return {}
    if not all(isinstance(part, str) for part in key):
        return {}
    return {"kind": "task", "key": json.dumps([*key, *numbers])}


def _map(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def row_of(namespace: str, name: str, launch_id: str, attempt: int, uid: str = "") -> PodEntry:
    """A pod of which nothing was said yet."""
    return PodEntry(namespace, name, uid, launch_id, attempt, "", "", 0.0, "", "", 0.0, (), None)


def _whereabouts(row: PodEntry) -> dict[str, str]:
    found = {"pod": row.name, "namespace": row.namespace, "uid": row.uid}
    return {name: value for name, value in found.items() if value}


def same_launch(pod: Any, row: PodEntry) -> bool:
    """Is this pod still the one of that row?"""
    return identity(pod) == (row.launch_id, row.attempt)


def of_others(pod: Any, deployment: str, cluster: str) -> bool:
    """Does this pod say that it is another deployment's, or another cluster's? One that says neither may be ours."""
    labels = _map(_map(_map(pod).get("metadata")).get("labels"))
    ours = deployment, identifiers.cluster_label(cluster)
    return (labels.get(identifiers.LABEL_DEPLOYMENT, ours[0]), labels.get(identifiers.LABEL_CLUSTER, ours[1])) != ours
