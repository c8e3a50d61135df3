"""Pure: what the watcher remembers of each live pod, so that each state is published once. A few short texts per pod.

Time comes in as an argument: `clock_s` is monotonic and measures waits, `now_s` is the wall clock of reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from podrelay.protocol import identifiers
from podrelay.protocol.messages import PodReport
from podrelay_workers.watcher.ledger_fields import restore_fields
from podrelay_workers.watcher.pod_state import (
    IDLE,
    TERMINATING,
    UNKNOWN,
    DeferredReport,
    PodState,
    Rules,
    interpret,
    vanished,
)
from podrelay_workers.watcher.pod_view import PodView, names_of

Key = tuple[str, str]

# The same wait with another message ("0/10 nodes" becomes "0/11 nodes") is published at most this often.
SAME_WAIT_S = 60.0
SKIPPED_MAX = 10_000
# An end is remembered for this long after its pod is gone: by then the ledger holds it too.
ENDED_KEPT_S = 300.0

# The rules look at a pod with one of these labels, whatever was published of it.
_READ_ALWAYS = frozenset({identifiers.LABEL_REVOKED, identifiers.LABEL_WARM, identifiers.LABEL_IDLE})


@dataclass(frozen=True)
class Publication:
    """Something for the ledger and the stream. `restore` are ledger fields for a launch that Redis may have lost.

    Without a report it only restores.
    """

    launch_id: str
    attempt: int
    report: PodReport | None = None
    fields: dict[str, str] = field(default_factory=dict)
    restore: dict[str, str] | None = None

    @property
    def key(self) -> tuple[str, int, str]:
        """What it is about: launch, attempt and pod. An attempt may have a second pod after a warm one that it gave up."""
        pod = self.report.pod if self.report is not None else (self.restore or self.fields).get("pod", "")
        return self.launch_id, self.attempt, pod


class Observation(NamedTuple):
    """What came of one event. `doubtful` is a pod that may be gone; `skipped` is worth one log line."""

    publication: Publication | None = None
    doubtful: PodEntry | None = None
    skipped: str = ""


@dataclass(slots=True)
class PodEntry:
    """One live pod."""

    namespace: str
    name: str
    launch_id: str
    attempt: int
    uid: str = ""
    published: str = ""  # the furthest outcome published: "", pending, started, or over
    published_wait: str = ""
    published_reason: str = ""
    published_at: float = 0.0
    wait: str = ""
    waiting_since: float = 0.0
    deferred: tuple[DeferredReport, ...] = ()
    report_if_gone: PodReport | None = None

    @property
    def key(self) -> Key:
        return self.namespace, self.name


class PodTable:
    """The live pods of one cluster, for one term of the leader."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._entries: dict[Key, PodEntry] = {}
        # Name -> namespace: there is one pod of a name, wherever it is.
        self._namespaces: dict[str, str] = {}
        # Launch and attempt -> the pod that came last.
        self._of_attempts: dict[tuple[str, int], Key] = {}
        self._waiting: dict[Key, PodEntry] = {}
        self._skipped: set[str] = set()
        # Launch, attempt and name.
        self._ended: dict[tuple[str, int, str], float] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[PodEntry]:
        return iter(self._entries.values())

    def holds(self, namespace: str, name: str, launch_id: str) -> bool:
        """Is there a live pod of this name, and is it of this launch?"""
        entry = self._entries.get((namespace, name))
        return entry is not None and entry.launch_id == launch_id

    def namespace_of(self, entry: PodEntry) -> str | None:
        """The namespace of the live pod of this launch and attempt, or else of this name, whatever the ledger holds; None
        where there is none. The name of a warm pod does not say whose it is.
        """
        key = self._of_attempts.get((entry.launch_id, entry.attempt))
        return key[0] if key else self._namespaces.get(entry.name)

    def observe(self, event: str, pod: Any, now_s: float, clock_s: float) -> Observation:
        """Update the table from an event. `event` is the watch's type, or LISTED for a pod of a list."""
        settled = self._settled(event, pod)
        if settled is not None:
            if event == "DELETED":
                self.forget(settled.key)
            return Observation()
        state = interpret(event, pod, self._rules, now_s)
        view, key = state.view, (state.view.namespace, state.view.name)
        if state.skipped:
            return self._skip(key, state)
        if self._is_given_up(view):
            self.forget(key)
            return Observation()
        before = self._entries.get(key)
        known = before is not None and before.launch_id == view.launch_id and before.uid == view.uid
        entry = before if before is not None and known else self._add(key, view)
        found = event == "LISTED" and not known
        publication = self._update(entry, state, now_s, clock_s, found)
        if event == "DELETED" and entry.report_if_gone is None:
            self.forget(key)
        if found:
            publication = publication or Publication(view.launch_id, view.attempt)
            publication = replace(publication, restore=restore_fields(view, self._rules.cluster))
        if before is not None and before.launch_id != entry.launch_id and before.published != "over":
            return Observation(publication, before)  # another launch's pod has its name now
        return Observation(publication, entry if entry.report_if_gone and entry.published != "over" else None)

    def fatal_waits(self) -> list[PodEntry]:
        """The pods whose wait may become their end."""
        return [entry for entry in self._waiting.values() if _may_end(entry.deferred)]

    def continue_wait(self, entry: PodEntry, ledger: Mapping[str, str], now_s: float, clock_s: float) -> None:
        """Count a wait from when a former leader saw it begin, which the ledger holds: its grace period goes on."""
        if ledger.get("attempt") != str(entry.attempt) or ledger.get("wait") != entry.wait:
            return
        try:
            waited_s = now_s - float(ledger.get("t_wait", ""))
        except ValueError:
            return
        entry.waiting_since = min(entry.waiting_since, clock_s - max(0.0, waited_s))

    def pop_due(self, clock_s: float) -> list[tuple[PodEntry, DeferredReport]]:
        """What falls due by the clock alone: a fatal reason that lasted, a start that takes long. Pass it to `record`."""
        found = []
        for entry in list(self._waiting.values()):
            due = [item for item in entry.deferred if clock_s - entry.waiting_since >= item.after_s]
            entry.deferred = tuple(item for item in entry.deferred if item not in due)
            found += [(entry, item) for item in due]
            self._track_wait(entry)
        return found

    def record(self, entry: PodEntry, report: PodReport, now_s: float, clock_s: float) -> Publication | None:
        """A report that no event brought, to be published; None where the pod has left the table or nothing is new."""
        if self._entries.get(entry.key) is not entry:
            return None
        return self._publish_once(entry, report.replaced(seen_at_s=now_s), clock_s)

    def record_gone(self, entry: PodEntry, now_s: float, clock_s: float) -> Publication | None:
        """The end of a pod that the API server no longer has; None where its end was published before."""
        if self.holds(entry.namespace, entry.name, entry.launch_id):
            self.forget(entry.key)
        report = entry.report_if_gone or vanished(
            entry.launch_id, entry.attempt, entry.namespace, entry.name, self._rules, now_s
        )
        return self._publish_once(entry, report.replaced(uid=entry.uid), clock_s)

    def missing(self, namespace: str | None, listed: frozenset[Key]) -> list[PodEntry]:
        """Known pods that a complete list of this namespace (None: of all) does not contain."""
        return [
            entry
            for key, entry in self._entries.items()
            if key not in listed and (namespace is None or entry.namespace == namespace)
        ]

    def forget(self, key: Key) -> None:
        """Drop a pod from the table. If it ended, that is remembered for ENDED_KEPT_S."""
        entry = self._entries.pop(key, None)
        self._waiting.pop(key, None)
        if entry is not None and self._of_attempts.get((entry.launch_id, entry.attempt)) == key:
            del self._of_attempts[entry.launch_id, entry.attempt]
        if self._namespaces.get(key[1]) == key[0]:
            del self._namespaces[key[1]]

    # --- one event ------------------------------------------------------------------------------------------------

    def _settled(self, event: str, pod: Any) -> PodEntry | None:
        """The pod's entry if its end was published: what follows, almost half of a pod's events, is not read any more."""
        namespace, name, uid, labels = names_of(pod)
        if event == "LISTED" or not isinstance(namespace, str) or not isinstance(name, str):
            return None
        entry = self._entries.get((namespace, name))
        if entry is None or entry.published != "over" or entry.uid != uid:
            return None
        launch = labels.get(identifiers.LABEL_LAUNCH_ID), labels.get(identifiers.LABEL_ATTEMPT)
        if launch != (entry.launch_id, str(entry.attempt)):
            return None
        return None if labels.keys() & _READ_ALWAYS else entry

    def _is_given_up(self, view: PodView) -> bool:
        """Is this a warm pod of an attempt that has a pod under its own name? A launcher creates that one only once the warm
        one will never get the workload.
        """
        other = self._of_attempts.get((view.launch_id, view.attempt))
        return (
            view.is_warm
            and other is not None
            and other[1] != view.name
            and identifiers.attempt_of_pod(other[1], view.launch_id) == view.attempt
        )

    def _add(self, key: Key, view: PodView) -> PodEntry:
        self.forget(key)
        entry = PodEntry(*key, view.launch_id, view.attempt, view.uid)
        self._entries[key] = entry
        self._namespaces[entry.name] = entry.namespace
        self._of_attempts[entry.launch_id, entry.attempt] = key
        return entry

    def _update(
        self, entry: PodEntry, state: PodState, now_s: float, clock_s: float, found: bool
    ) -> Publication | None:
        """:param found: the pod was found in a list, so that its wait began earlier."""
        entry.report_if_gone = state.report_if_gone
        if state.repeats and state.repeats == entry.wait:
            state = state._replace(wait=entry.wait, deferred=())
        if state.wait != entry.wait:
            entry.wait, entry.waiting_since, entry.deferred = state.wait, clock_s, state.deferred
        elif entry.deferred:  # the wait goes on; only its message may have changed
            after_s = {item.name: item.after_s for item in entry.deferred}
            entry.deferred = tuple(
                item._replace(after_s=after_s[item.name]) for item in state.deferred if item.name in after_s
            )
        self._track_wait(entry)
        if state.report is None or not self._note_published(entry, state.report, clock_s):
            return None
        fields = state.fields
        if _may_end(state.deferred):  # for the next leader
            # The time that an earlier leader wrote for this wait counts (`publish.lua`).
            name = "t_wait?" if found else "t_wait"
            fields = {**fields, "wait": entry.wait, name: f"{now_s - (clock_s - entry.waiting_since):.3f}"}
        return Publication(entry.launch_id, entry.attempt, state.report, fields)

    def _skip(self, key: Key, state: PodState) -> Observation:
        self.forget(key)
        if state.view.launch_id or state.skipped == IDLE:  # podrelay's own, and there is nothing to report
            return Observation()
        label = f"{key[0] or '?'}/{key[1] or '?'}"
        if label in self._skipped:
            return Observation()
        if len(self._skipped) >= SKIPPED_MAX:
            self._skipped.clear()
        self._skipped.add(label)
        return Observation(skipped=f"{label}: {state.skipped}")

    def _track_wait(self, entry: PodEntry) -> None:
        if entry.deferred:
            self._waiting[entry.key] = entry
        else:
            self._waiting.pop(entry.key, None)

    # --- each state once ------------------------------------------------------------------------------------------

    def _publish_once(self, entry: PodEntry, report: PodReport, clock_s: float) -> Publication | None:
        """The publication of a report that no event brought; None where nothing in it is new."""
        if not self._note_published(entry, report, clock_s):
            return None
        return Publication(entry.launch_id, entry.attempt, report, _location(entry))

    def _note_published(self, entry: PodEntry, report: PodReport, clock_s: float) -> bool:
        """Is there anything new in the report? Then it counts as published."""
        if entry.published == "over" or _identity(entry) in self._ended:
            return False
        if report.terminal:
            entry.published, entry.deferred = "over", ()
            self._remember_end(entry, clock_s)
        elif report.outcome == "started":
            if entry.published == "started":
                return False
            entry.published = "started"
        elif not _is_new_wait(entry, report, clock_s):
            return False
        else:
            entry.published = entry.published or "pending"
            entry.published_reason = _reason_text(report)
            entry.published_wait, entry.published_at = entry.wait, clock_s
        return True

    def _remember_end(self, entry: PodEntry, clock_s: float) -> None:
        self._ended[_identity(entry)] = clock_s
        while self._ended:  # oldest first
            first = next(iter(self._ended))
            if clock_s - self._ended[first] <= ENDED_KEPT_S:
                return
            del self._ended[first]


def _identity(entry: PodEntry) -> tuple[str, int, str]:
    return entry.launch_id, entry.attempt, entry.name


def _is_new_wait(entry: PodEntry, report: PodReport, clock_s: float) -> bool:
    if entry.published == "started" and entry.wait not in (TERMINATING, UNKNOWN):
        return False
    if _reason_text(report) == entry.published_reason:
        return False
    return entry.published_wait != entry.wait or clock_s - entry.published_at >= SAME_WAIT_S


def _reason_text(report: PodReport) -> str:
    return f"{report.reason}: {report.message}"


def _may_end(deferred: tuple[DeferredReport, ...]) -> bool:
    return any(item.report.terminal for item in deferred)


def _location(entry: PodEntry) -> dict[str, str]:
    found = {"pod": entry.name, "namespace": entry.namespace, "uid": entry.uid}
    return {name: value for name, value in found.items() if value}
