"""Pure: one launch for a terminal, and for `--json`. Used by `airflow podrelay status --launch` and `--task`.

Every text may come from Redis, where anybody may have written it: what a terminal would act on is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from msgspec import structs

from podrelay.cli.launch import KnownLaunch
from podrelay.cli.plain_text import age, moment, printable
from podrelay.cli.task_launch import TaskTry
from podrelay.protocol.lifecycle import STEPS, durations_s
from podrelay.protocol.messages import Json, PodReport
from podrelay.protocol.redis_values import number_of
from podrelay.protocol.starts import start_text
from podrelay.scheduling.decisions import describe_failure

# The fields of a ledger entry in the order of their use; fields that are not named here follow by name.
_FIELDS = (
    "state", "attempt", "relaunches", "reason", "message", "start", "pod", "condemned", "namespace", "node", "launcher",
    "owner", "cluster", "subject", "uid",
)  # fmt: skip
_SHOWN_AS_TASK = ("kind", "key")
# What programs need: `--json` has them. `started` is a flag, and the name of a step as well.
_NOT_SHOWN = ("started", "clock_skew", "result_key", "warm_pod", "warm_id", "delivered")
# In these states nothing more happens to a launch.
_OVER = ("acknowledged", "withdrawn")


def render_launch(launch: KnownLaunch, now_s: float, tries: Sequence[TaskTry] = ()) -> str:
    """What it is for, where it is and what it waits for; each step with its time; reports; the end of its log; events."""
    sections = [
        [*_headline(launch)], [*_steps(launch, now_s)], [*_reports(launch)], [*_log(launch)], [*_tries(tries, launch)],
    ]  # fmt: skip
    return "\n\n".join("\n".join(section) for section in sections if section)


def launch_as_json(launch: KnownLaunch, tries: Sequence[TaskTry] = ()) -> Json:
    """For `--json`: the ledger entry as it is, with the task's key as a list, and all that is shown besides."""
    key, took_s, tail = _key(launch.entry), dict(durations_s(launch.entry)), launch.log_report
    times = {step: number_of(launch.entry.get(f"t_{step}")) for step in STEPS}
    return {
        **launch.entry,
        **({"key": key} if key else {}),
        "launch": launch.launch_id,
        "waits_for": launch.waits_for,
        "steps": [{"step": step, "at_s": at_s, "took_s": took_s.get(step)} for step, at_s in times.items() if at_s],
        "reports": [_report_as_json(report) for report in launch.reports],
        "reports_unreadable": launch.unreadable,
        "log_tail": list(tail.log_tail) if tail else [],
        **({"tries": [asdict(one) for one in tries]} if tries else {}),
    }


def _report_as_json(report: PodReport) -> Json:
    left_out = ("launch_id", "log_tail", "cluster")
    values = structs.asdict(report)
    return {name: value for name, value in values.items() if name not in left_out and value not in ("", None)}


# --- sections -----------------------------------------------------------------------------------------------------
def _headline(launch: KnownLaunch) -> Iterator[str]:
    entry = launch.entry
    for name, value in _subject(entry):
        yield _field(name, value)
    yield _field("launch", launch.launch_id)
    if not entry:
        yield _field(
            "state", "unknown: the ledger no longer holds it; an entry expires [podrelay] ledger_ttl_s after its end"
        )
    shown = {*_FIELDS, *_SHOWN_AS_TASK, *_NOT_SHOWN}
    others = sorted(name for name in entry if name not in shown and name[:2] != "t_")
    for name in (*_FIELDS, *others):
        if entry.get(name) and not (name == "relaunches" and entry[name] == "0"):
            yield _field(name, start_text(entry[name]) or entry[name] if name == "start" else entry[name])
    if launch.waits_for:
        yield _field("waits for", launch.waits_for)
    attempt = int(number_of(entry.get("attempt")))
    if launch.asked_attempt is not None and entry and launch.asked_attempt != attempt:
        yield _field("note", f"you asked for attempt {launch.asked_attempt}; these fields are of attempt {attempt}")


def _steps(launch: KnownLaunch, now_s: float) -> Iterator[str]:
    """Each step with the seconds since the step before; and how long ago the last one was, unless nothing follows."""
    took_s, last_s = dict(durations_s(launch.entry)), 0.0
    for step in STEPS:
        if at := launch.entry.get(f"t_{step}"):
            since = f"  +{took_s[step]:.3f} s" if step in took_s else ""
            last_s = number_of(at) or last_s
            yield f"{step:12} {moment(at)}{since}"
    if last_s and launch.entry.get("state") not in _OVER:
        yield f"{'now':12} {moment(str(now_s))}  {age(max(0.0, now_s - last_s))} later"


def _reports(launch: KnownLaunch) -> Iterator[str]:
    if launch.reports:
        yield "reports"
    for report in launch.reports:
        yield f"  {moment(str(report.seen_at_s))}  attempt {report.attempt}  {printable(_report_text(report))}"
    if launch.unreadable:
        yield printable(f"reports about this launch cannot be read: {launch.unreadable}{_instead(launch)}")


def _report_text(report: PodReport) -> str:
    if report.outcome == "failed":
        return f"failed: {describe_failure(report)}"
    if report.outcome == "log":
        return "log read again"
    return ": ".join(filter(None, (report.outcome, report.reason, report.message)))


def _instead(launch: KnownLaunch) -> str:
    """The command that shows the same facts where Airflow's database can be reached."""
    key = _key(launch.entry)
    if len(key) != 5:
        return ""
    dag_id, task_id, run_id, _, map_index = map(str, key)
    mapped = "" if map_index == "-1" else f" {map_index}"
    return f". Where the scheduler runs, type: airflow podrelay status --task {dag_id} {task_id} {run_id}{mapped}"


def _log(launch: KnownLaunch) -> Iterator[str]:
    report = launch.log_report
    if report is not None:
        container = f", container {report.container}" if report.container else ""
        yield printable(f"last log lines (attempt {report.attempt}{container})")
        for line in report.log_tail:
            yield f"  {printable(line)}"


def _tries(tries: Sequence[TaskTry], launch: KnownLaunch) -> Iterator[str]:
    if len(tries) > 1:
        yield "tries"
        for one in tries:
            mark = "  (shown above)" if one.launch_id == launch.launch_id else ""
            yield printable(f"  {one.try_number:3}  {one.state or 'no state'}  launch {one.launch_id or 'none'}{mark}")
    for one in tries:
        if one.events:
            yield f"events of try {one.try_number}"
        for event in one.events:
            first, *rest = event.text.splitlines() or [""]
            yield f"  {moment(str(event.at_s))}  {printable(event.name)}: {printable(first)}"
            yield from (f"    {printable(line)}" for line in rest)


# --- parts --------------------------------------------------------------------------------------------------------
def _field(name: str, value: str) -> str:
    return f"{printable(name):12} {printable(value)}"


def _subject(entry: dict[str, str]) -> list[tuple[str, str]]:
    """What the launch is for, as (name, value): a task instance in words, anything else by its kind and key."""
    key, kind = _key(entry), entry.get("kind", "")
    if kind != "task" or len(key) != 5:
        found = (("kind", kind), ("key", ", ".join(map(str, key)) or entry.get("key", "")))
        return [(name, value) for name, value in found if value]
    dag_id, task_id, run_id, try_number, map_index = key
    mapped = "" if map_index == -1 else f", map index {map_index}"
    return [("task", f"{dag_id}.{task_id}{mapped}, try {try_number}"), ("run", str(run_id))]


def _key(entry: dict[str, str]) -> Sequence[Any]:
    try:
        key = json.loads(entry.get("key") or "null")
    except (ValueError, RecursionError):
        return []
    return key if isinstance(key, list) else []
