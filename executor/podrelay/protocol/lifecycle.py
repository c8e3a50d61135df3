"""Pure: the steps of a launch and their durations. Used for the watcher's metrics and by `airflow podrelay status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from podrelay.protocol.redis_values import number_of

# In chronological order; the ledger holds the wall-clock time of each as t_<step>.
STEPS = ("offered", "claimed", "created", "scheduled", "started", "finished", "reported", "acknowledged")
FIELDS = tuple(f"t_{step}" for step in STEPS)


def durations_s(entry: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """(step, seconds since the previous known step) for each step whose time is in the ledger entry.

    Kubernetes rounds to whole seconds, and clocks differ slightly: a negative duration becomes zero.
    """
    before: float | None = None
    for step, field in zip(STEPS, FIELDS, strict=True):
        at = number_of(entry.get(field))
        if not at:
            continue
        if before is not None:
            yield step, max(0.0, at - before)
        before = at
