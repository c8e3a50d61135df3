"""How much faster than the provider's `construct_pod` the launcher renders a plain pod: CPU time of both, in turn."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from tests.unit.launcher.test_pod_manifest import PLAIN, manifests, request, stock_pod, written


def times_faster(rounds: int = 3) -> float:
    """The median over some rounds, each of which measures both."""
    with tempfile.TemporaryDirectory() as folder:
        made, launch = manifests(written(Path(folder), PLAIN)), request()
        made.render(launch)  # the template is read and proved once
        ratios = []
        for _ in range(rounds):
            short_s = cost_s(lambda: made.render(launch), 2000)
            long_s = cost_s(lambda: stock_pod(PLAIN, launch, None), 50)
            print(f"{short_s * 1e6:.0f} us a pod, construct_pod {long_s * 1e6:.0f} us", flush=True)
            ratios.append(long_s / short_s)
        return median(ratios)


def cost_s(work: object, times: int) -> float:
    assert callable(work)
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    print(f"{times_faster():.0f} times faster")
