"""What the chaos judge makes of an audit log."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.judge import given_twice, patience


def refused(at_s: float, who: str, status: int = 429, verb: str = "create") -> dict[str, Any]:
    return {"time": at_s, "user_agent": who, "status": status, "verb": verb}


@pytest.mark.parametrize(
    ("audit", "of_all", "of_each"),
    [
        ([refused(10.0, "a"), refused(10.5, "b")], 0, 0),  # both were under way
        ([refused(10.0, "a"), refused(12.0, "a")], 1, 1),
        ([refused(10.0, "a"), refused(12.0, "b")], 1, 0),  # the second was not informed
        ([refused(10.0, "a"), refused(12.0, "b"), refused(14.0, "b")], 2, 1),
        ([refused(10.0, "a"), refused(12.0, "a", status=201), refused(12.0, "a", verb="delete")], 0, 0),
    ],
)
def test_creations_inside_a_retry_after_window(audit: list[dict[str, Any]], of_all: int, of_each: int) -> None:
    for early, they_know_of_it in ((of_all, True), (of_each, False)):
        found = patience(audit, they_know_of_it=they_know_of_it)
        assert found == ([f"{early} creations inside a Retry-After window"] if early else [])


LAUNCH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "twice"),
    [
        ({"t": [f"etl-load-{LAUNCH}-0", f"etl-load-{LAUNCH}-1"]}, False),  # another attempt
        ({"t": [f"pod-warm-{LAUNCH}.{LAUNCH}-0", f"pod-warm-{LAUNCH}.{LAUNCH}-0"]}, False),  # the same pod
        ({"t": [f"pod-warm-{LAUNCH}.{LAUNCH}-0", f"etl-load-{LAUNCH}-0"]}, True),
        ({"t": [f"pod-warm-{LAUNCH}.{LAUNCH}-0"], "u": [f"pod-warm-{LAUNCH[::-1]}.{LAUNCH}-0"]}, True),
    ],
)
def test_attempts_that_were_given_to_two_pods(given: dict[str, list[str]], twice: bool) -> None:
    assert bool(given_twice(given)) == twice
