"""The live view without Redis: how it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from podrelay.cli.status_live import watch


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_an_interrupt_that_is_dropped_on_its_way_ends_it_all_the_same(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python does with an exception in a finaliser."""

    def read() -> dict[str, Any]:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            return {"read": True}
        raise AssertionError("no signal arrived")

    watch(read, 0.2, as_json=True)
    assert capsys.readouterr().out == '{"read": true}\n'
