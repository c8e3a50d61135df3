from __future__ import annotations

import asyncio

from tests.integration.launch.conftest import Bench, until


def test_launches_become_pods(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.launcher():
            requests = bench.offer_many(100)
            await until(lambda: bench.states(requests) == {"created": 100}, what="100 created")

    asyncio.run(scenario())
    assert len(bench.api.pods) == 100
    assert bench.api.calls["create"] == 100
    assert bench.in_hand() == 0
