"""Pure: the steps of a launch, and how long each took. Told as metrics by the watcher, and by `airflow podrelay status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# In the order in which they come; the ledger holds the wall-clock time of each as t_<step>.
STEPS = ("offered", "claimed", "created", "scheduled", "started", "finished", "reported", "acknowledged")
FIELDS = tuple(f"t_{step}" for step in STEPS)
# + step: a timer in milliseconds, from the step before that is known.
METRIC = "podrelay.lifecycle."


def durations_s(entry: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """(step, seconds since the known step before it) for every step that the ledger's entry has a time of.

    Kubernetes counts whole seconds, and clocks differ a little: what would be less than nothing is nothing.
    """
    before: float | None = None
    for step, field in zip(STEPS, FIELDS, strict=True):
        try:
            at = float(entry.get(field) or "")
        except ValueError:
            continue
        if before is not None:
            yield step, max(0.0, at - before)
        before = at
