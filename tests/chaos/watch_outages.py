"""Outages of the watching side at full length, with the watcher's default settings: `python -m tests.chaos.watch_outages`.

Two watcher processes follow 120 pods; while the outage lasts, 100 of them end and 20 are removed by force. After healing all
outcomes must be published within 30 s, each once. Prints one row per outage; ends with 1 if one does not hold. The test suite
asks the same at reduced length (tests/integration/watch).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.harness.redis_server import RedisServer
from tests.harness.waiting import until
from tests.harness.watcher_rig import WatcherRig, start_cluster

ENDS, VANISHED = 100, 20
HEALED_MOST_S = 30.0

Break = Callable[[WatcherRig], Awaitable[None]]


async def no_packets(rig: WatcherRig) -> None:
    rig.cluster.faults(
        {"verbs": ["list", "watch", "get"], "hang": True},
        {"verbs": ["watch"], "silence": True, "also_new_streams": True},
    )


async def gone(rig: WatcherRig) -> None:
    rig.cluster.faults({"verbs": ["watch"], "gone": True})
    rig.cluster.control("compact")
    rig.cluster.control("drop-streams")


async def truncated(rig: WatcherRig) -> None:
    rig.cluster.faults({"verbs": ["watch"], "truncate_stream": True})


async def killed(rig: WatcherRig) -> None:
    rig.processes[0].kill()


async def paused(rig: WatcherRig) -> None:
    rig.processes[0].send_signal(signal.SIGSTOP)


# Name -> what breaks it, seconds that it lasts at scale 1.
OUTAGES: dict[str, tuple[Break, float]] = {
    "no packets": (no_packets, 300.0),
    "410": (gone, 60.0),
    "truncated stream": (truncated, 60.0),
    "SIGKILL of the leader": (killed, 10.0),
    "SIGSTOP of the leader": (paused, 60.0),
}


async def outage(rig: WatcherRig, name: str, scale: float) -> tuple[float, list[str]]:
    """Seconds from healing until all is known, and what did not hold."""
    broken, nominal_s = OUTAGES[name]
    rig.start()
    await until(lambda: rig.watch().get("t_listed"), 90, "a first list")
    rig.start()
    await until(lambda: "Standing by" in rig.log_of(1), 90, "a standby")
    launches = [rig.launch(created_s=time.time() - 30) for _ in range(ENDS + VANISHED)]
    await until(lambda: rig.said("started") == len(launches), 60, "all pods to run")
    before = int(rig.watch()["fence"])
    await broken(rig)
    began_s, nominal_s = time.monotonic(), nominal_s * scale
    for number, launch in enumerate(launches):
        due_s = began_s + nominal_s * number / len(launches)
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        rig.end(launch) if number % 6 else rig.vanish(launch)
    await asyncio.sleep(max(0.0, began_s + nominal_s - time.monotonic()))
    healed_s = time.monotonic()
    rig.cluster.faults()
    if name.startswith("SIGSTOP"):
        rig.processes[0].send_signal(signal.SIGCONT)
    wrong = []
    try:
        await until(lambda: len(rig.ends()) == len(launches), HEALED_MOST_S, "all outcomes")
    except AssertionError:
        wrong.append(f"{len(launches) - len(rig.ends())} outcomes are not known {HEALED_MOST_S:g} s after healing")
    took_s = time.monotonic() - healed_s
    await asyncio.sleep(3.0)  # whatever wakes up now has nothing stale to say
    if twice := [launch for launch, times in rig.ends().items() if times > 1]:
        wrong.append(f"{len(twice)} outcomes were published twice")
    if name.startswith("SIG") and int(rig.watch()["fence"]) <= before:
        wrong.append("the standby never led")
    return took_s, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", nargs="+", default=list(OUTAGES), choices=list(OUTAGES), metavar="NAME")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for how long they last (default 1)")
    options = parser.parse_args(argv)
    print("| outage | seconds | verdict | all known after (s) |\n|---|---|---|---|", flush=True)
    bad = False
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        for name in options.outage:
            took_s, wrong = _round(server, Path(folder), name, options.scale)
            bad = bad or bool(wrong)
            verdict = "; ".join(wrong) or "holds"
            print(f"| {name} | {OUTAGES[name][1] * options.scale:g} | {verdict} | {took_s:.1f} |", flush=True)
    return 1 if bad else 0


def _round(server: Any, folder: Path, name: str, scale: float) -> tuple[float, list[str]]:
    here = folder / name.replace(" ", "-")
    here.mkdir()
    cluster = start_cluster(here)
    rig = WatcherRig(server.url, cluster, here, "default")
    defaults = replace(rig.settings, watch_silence_s=75.0, watch_lease_s=5.0)
    rig.settings = defaults
    try:
        return asyncio.run(outage(rig, name, scale))
    finally:
        rig.close()
        cluster.close()


if __name__ == "__main__":
    sys.exit(main())
