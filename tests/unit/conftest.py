"""A unit test touches no service and no clock, so it has ten seconds, most of them for the generators of Hypothesis."""

from __future__ import annotations

from pathlib import Path

import pytest

LIMIT_S = 10.0
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
