"""Pure: podrelay's rows in Airflow's event log of a task. Each one ends with the launch and the pod that it is about.

The executor writes them; `task_log` shows them in the task's log.
"""

from __future__ import annotations

from collections.abc import Iterable

# What Airflow's user interface shows as the user of a row. The scheduler's own rows have none, or the owner of the task.
OWNER = "podrelay"
REFUSED = "launch refused"
NOT_WATCHED = "namespace not watched"
STARTED = "pod started"
PENDING = "pod pending"
NOT_ENDED = "pod not ended"
NOT_FOLLOWED = "pod not followed"
UNREADABLE = "report unreadable"
REPLACED = "pod replaced"
FAILED = "pod failed"
EVENTS = (REFUSED, NOT_WATCHED, STARTED, PENDING, NOT_ENDED, NOT_FOLLOWED, UNREADABLE, REPLACED, FAILED)
# After these, the task does not wait any longer.
ERRORS = frozenset({REFUSED, FAILED})
# Above the last lines of the pod's log, which are indented.
TAIL_TITLE = "Last log lines:"
TAIL_INDENT = "    "
# MySQL stores 65,535 bytes, and a character may need four. One row that cannot be stored would cost all rows that the
# scheduler saves with it.
_TEXT_MAX, _ROW_MAX = 4000, 16_000


def row_text(
    text: str, launch_id: str, attempt: int, *, namespace: str = "", pod: str = "", tail: Iterable[str] = ()
) -> str:
    """The text of a row: what happened; which launch, attempt and pod it happened to; how the log of the pod ends."""
    where = f"pod {namespace}/{pod}" if pod else "no pod"
    lines = [text[:_TEXT_MAX], f"Launch {launch_id}, attempt {attempt}, {where}"]
    shown = [TAIL_INDENT + line for line in tail]
    return _storable("\n".join([*lines, TAIL_TITLE, *shown] if shown else lines))


def _storable(text: str) -> str:
    """Without what PostgreSQL refuses: a container writes its own message, and may write anything."""
    return text.replace("\0", "\\x00").encode("utf-8", "replace").decode()[:_ROW_MAX]
