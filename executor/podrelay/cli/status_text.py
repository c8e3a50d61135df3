"""Pure: what `status` read from Redis, for a terminal. Used by `airflow podrelay status` without `--json`.

Every text may come from Redis, where anybody may have written it: what a terminal would act on is removed.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from podrelay.cli.plain_text import age, printable
from podrelay.cli.status_problems import problems, team_option
from podrelay.protocol.messages import Json

# Wider than any line: what is not written to a terminal is not wrapped, so that it can be searched.
_UNWRAPPED = 100_000


def plain(view: RenderableType) -> str:
    """A view as text, without colours and line breaks of a terminal."""
    console = Console(file=io.StringIO(), width=_UNWRAPPED, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(view)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


# --- overview -----------------------------------------------------------------------------------------------------
def overview_view(found: Json) -> RenderableType:
    """What `read_overview` returned: what is wrong, what waits and why, then queues and processes."""
    sections = [
        [*_verdict(found)], [*_waits(found)], [*_queues(found)], [*_launchers(found)], [*_watcher(found)],
        [*_schedulers(found)], [*_warm_pods(found)], [*_pauses(found)], [*_totals(found)],
    ]  # fmt: skip
    parts: list[RenderableType] = []
    for section in filter(None, sections):
        parts += [*section, ""]
    return Group(*parts[:-1])


def render_overview(found: Json) -> str:
    """The same as plain text."""
    return plain(overview_view(found))


def _verdict(found: Json) -> Iterable[RenderableType]:
    wrong = problems(found)
    where = f"deployment {found['deployment']}, cluster {found['cluster']}: "
    yield _line(where, ("degraded", "bold red") if wrong else ("ok", "bold green"))
    for sentence in wrong:
        yield _line(("  ! ", "red"), sentence)


def _waits(found: Json) -> Iterable[RenderableType]:
    if not found["waits"]:
        yield _line("nothing waits")
        return
    table = _table("waits for", "count>", "longest>", "launch that waits longest", "message")
    for wait in found["waits"]:
        _row(table, wait["reason"], wait["count"], age(wait["oldest_s"]), wait["example"], wait["message"])
    yield table
    waiting = sum(queue["waiting"] for queue in found["queues"].values())
    if found["waits_read"] < waiting:
        yield _line(f"estimated from {found['waits_read']} of {waiting} waiting launches")


def _queues(found: Json) -> Iterable[RenderableType]:
    table = _table("queue", "queued>", "started>", "waiting>", "failed>", "first>")
    for name, queue in found["queues"].items():
        counts = (queue[count] for count in ("queued", "started", "waiting", "failed"))
        _row(table, name, *counts, "" if queue["oldest_s"] is None else age(queue["oldest_s"]))
    yield table
    pods = found["pods"]
    if pods["running"] is not None:
        yield _line(f"pods: {pods['starting']} starting, {pods['running']} running, {pods['ending']} ending")
    elif found["watcher"]["leader"]:
        yield _line(f"pods: {found['watcher']['pods']}, their phases unknown (the version of the watcher is older)")


def _launchers(found: Json) -> Iterable[RenderableType]:
    """The number of live launchers, then every registered one: a dead one stays registered for a minute."""
    alive = sum(launcher["alive"] for launcher in found["launchers"])
    start = f"  <- start one: airflow podrelay launcher{team_option(found)}"
    yield _line(f"launchers: {alive or 'none'}" + ("" if alive else start))
    if found["launchers"]:
        table = _table("  name", "state", "in flight>", "pods/s>", "median>", "version", "paused")
        for launcher in found["launchers"]:
            _row(table, f"  {launcher['name']}", _state(launcher), *_figures(launcher))
        yield table


def _state(launcher: Json) -> str:
    last = f"last update {age(launcher['last_update_s_ago'])} ago"
    if not launcher["alive"]:
        return f"not responding: {last}"
    return f"{'draining' if launcher['draining'] else launcher['state']}, {last}"


def _figures(launcher: Json) -> Iterable[Any]:
    """Unknown ones, of a launcher of another version, are left out."""
    known = launcher["in_flight"] is not None and launcher["limit"] is not None
    yield f"{launcher['in_flight']} of {launcher['limit']}" if known else ""
    yield "" if launcher["created_per_s"] is None else f"{launcher['created_per_s']:.1f}"
    yield "" if launcher["creation_p50_s"] is None else f"{launcher['creation_p50_s'] * 1000:.0f} ms"
    yield launcher["version"] or "unknown"
    why = f": {launcher['throttled_why']}" if launcher["throttled_why"] else ""
    yield f"{age(launcher['throttled_s'])}{why}" if launcher["throttled_s"] else ""


def _watcher(found: Json) -> Iterable[RenderableType]:
    watcher = found["watcher"]
    seen = "never listed" if watcher["listed_s_ago"] is None else f"listed {age(watcher['listed_s_ago'])} ago"
    if watcher["event_s_ago"] is not None:
        seen += f", last event {age(watcher['event_s_ago'])} ago"
    if not watcher["leader"]:
        yield _line(f"watcher: none  <- start one: airflow podrelay watcher{team_option(found)} ({seen})")
        return
    if watcher["bookmark_s_ago"] is not None:
        seen += f", bookmark {age(watcher['bookmark_s_ago'])} ago"
    if watcher["lag_s"] is not None:
        seen += f", lag {watcher['lag_s']:.1f} s"
    version = f", version {watcher['version']}" if watcher["version"] else ""
    pods = "1 pod" if watcher["pods"] == 1 else f"{watcher['pods']} pods"
    yield _line(f"watcher: {watcher['leader']} ({pods}, {seen}{version})")
    if watcher["trouble"]:
        yield _line(f"  not ready: {watcher['trouble']}")


def _schedulers(found: Json) -> Iterable[RenderableType]:
    if not found["schedulers"]:
        yield _line("schedulers: unknown (none is running, or its version is older)")
        return
    yield _line(f"schedulers: {len(found['schedulers'])}")
    table = _table("  job id", "state", "launches>", "unread reports>", "version")
    for scheduler in found["schedulers"]:
        last = f"last update {age(scheduler['last_update_s_ago'])} ago"
        _row(table, f"  {scheduler['name']}", last, scheduler["launches"], scheduler["unread"], scheduler["version"])
    yield table


def _warm_pods(found: Json) -> Iterable[RenderableType]:
    warm = found.get("warm")
    if not warm:
        return
    rate = "" if warm["hit_rate"] is None else f", hit rate {_percent(warm)}"
    idle = f"{warm['idle']} idle, {warm['starting']} starting, at most {warm['most']}{rate}"
    yield _line(f"warm pods: {idle}, kept by {warm['keeper'] or 'no launcher'}")
    table = _table(
        "  shape", "idle>", "starting>", "hits>", "misses>", "hit rate>", "ready after>", "last launch>", "off"
    )
    for shape in warm["shapes"]:
        counts = (shape[what] for what in ("idle", "starting", "hits", "misses"))
        ready = "" if shape["ready_s"] is None else f"{shape['ready_s']:.1f} s"
        off = f"for {age(shape['off_s'])}: {shape['off_why']}" if shape["off_s"] else ""
        _row(table, f"  {shape['shape']}", *counts, _percent(shape), ready, f"{age(shape['seen_s_ago'])} ago", off)
    if warm["shapes"]:
        yield table


def _percent(counts: Json) -> str:
    return "" if counts["hit_rate"] is None else f"{counts['hit_rate'] * 100:.0f} %"


def _pauses(found: Json) -> Iterable[RenderableType]:
    if found["suspended"]:
        yield _line("suspended: launchers take nothing  <- go on with: rq resume --url REDIS_URL")
    for sentence in found["key_mismatches"]:
        yield _line(f"Fernet keys differ: {sentence}")
    for throttle in found["throttle"]:
        yield _line(f"throttled: {throttle}")
    for refusal in found["refused_cleanups"]:
        yield _line(f"clean-ups refused: cannot {refusal}")


def _totals(found: Json) -> Iterable[RenderableType]:
    last = "" if found["quarantine_s_ago"] is None else f", the last one {age(found['quarantine_s_ago'])} ago"
    yield _line(f"unacknowledged results: {found['unacknowledged']}, quarantined entries: {found['quarantine']}{last}")
    clamped = {clamp["why"]: age(clamp["last_s_ago"]) for clamp in found["clamps"]}
    for reason, count in found["quarantine_reasons"].items():
        yield _line(f"  {count:5} {reason}" + (f" (a clamp, {clamped[reason]} ago)" if reason in clamped else ""))


# --- parts --------------------------------------------------------------------------------------------------------
def _table(*titles: str) -> Table:
    """A table with these columns; one whose title ends in `>` holds numbers. On a narrow terminal, the last one is folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in titles:
        justify: Literal["left", "right"] = "right" if title.endswith(">") else "left"
        table.add_column(title.rstrip(">"), justify=justify, no_wrap=title is not titles[-1], overflow="fold")
    return table


def _row(table: Table, *values: Any) -> None:
    table.add_row(*(Text(printable("" if value is None else str(value))) for value in values))


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line of texts, or (text, style)."""
    styled = [part if isinstance(part, tuple) else (part, "") for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in styled), overflow="fold")
