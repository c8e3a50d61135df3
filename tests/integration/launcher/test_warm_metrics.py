"""What a launcher's metrics say of warm pods."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.harness.waiting import until
from tests.harness.warm_pods import Warm


def metrics_of(launcher: Any) -> str:
    return str(launcher._monitor.metrics.render("")[0].decode())


def value(text: str, name: str, **labels: str) -> float | None:
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}{{(.*)}} (\S+)", line)
        if found and all(f'{label}="{wanted}"' in found[1] for label, wanted in labels.items()):
            return float(found[2])
    return None


def test_starts_by_kind_and_the_pool_of_its_keeper(warm: Warm) -> None:
    request, callback = warm.request(1), warm.request(2, kind="callback", key=())

    async def scenario() -> None:
        async with warm.launcher() as launcher:
            await warm.filled()
            warm.rig.offer(request)
            await warm.started(request)
            warm.rig.offer(callback)
            await warm.started(callback, state="created")
            await warm.ready()
            await until(lambda: value(metrics_of(launcher), "podrelay_warm_pods", state="idle") == 2, 5)
            text = metrics_of(launcher)
            for start in ("new_shape", "warm", "not_eligible"):
                assert value(text, "podrelay_starts_total", start=start) == 1
            assert value(text, "podrelay_warm_assignment_seconds_count") == 1
            assert value(text, "podrelay_warm_pods", state="starting") == 0

    asyncio.run(scenario())


def test_a_launcher_without_warm_pods_has_none_of_these_metrics(warm: Warm) -> None:
    request = warm.request(1)

    async def scenario() -> None:
        async with warm.launcher(warm_pods_max=0, warm_pods_min=0) as launcher:
            warm.rig.offer(request)
            await warm.started(request, state="created")
            text = metrics_of(launcher)
            assert "podrelay_pod_creation_answers_total" in text
            assert "podrelay_starts" not in text
            assert "podrelay_warm" not in text

    asyncio.run(scenario())
