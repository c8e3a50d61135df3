"""How much faster than the provider's `construct_pod` the launcher renders a plain pod: CPU time of both, in turn."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import yaml

from tests.unit.test_manifest import PLAIN, manifests, request, stock_pod, written


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        made, launch = manifests(written(Path(folder), PLAIN)), request()
        made.render(launch)  # the template is read and proved once
        for _ in range(3):
            short_s, long_s = (
                cost_s(lambda: made.render(launch), 2000),
                cost_s(lambda: stock_pod(PLAIN, launch, None), 50),
            )
            print(
                f"{short_s * 1e6:.0f} us a pod, construct_pod {long_s * 1e6:.0f} us: {long_s / short_s:.0f} times faster"
            )


def cost_s(work: object, times: int) -> float:
    assert callable(work)
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


if __name__ == "__main__":
    print(yaml.safe_dump(PLAIN))
    main()
