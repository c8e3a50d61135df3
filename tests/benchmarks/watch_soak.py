"""The watcher's memory while pods come and go: `python -m tests.benchmarks.watch_soak --pods 10000 --minutes 30`.

A watcher process follows so many live pods of a local cluster, of which `--rate` a second end, are deleted and are replaced
by new ones. Its resident memory is read every few seconds; the last line is the result: the highest memory, its slope over
the second half of the run, and how long it took from asking for an end until it stood in the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.harness.redis_server import RedisServer
from tests.harness.watcher_rig import Launch, WatcherRig, start_cluster

SAMPLE_S = 5.0
THREADS = 8


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slope(points: list[tuple[float, float]]) -> float:
    """Least squares: change of the second value for each unit of the first."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Churn:
    """Ends pods, replaces them, and forgets them as an executor and a launcher would."""

    def __init__(self, rig: WatcherRig, count: int) -> None:
        self._bench = rig
        self._pool = ThreadPoolExecutor(THREADS)
        self._live: list[Launch] = list(self._pool.map(lambda _: rig.launch(lasts_s=1e6), range(count)))
        self.ended: dict[str, float] = {}
        self.done = 0

    def turn(self, count: int) -> None:
        random.shuffle(self._live)
        going, self._live = self._live[:count], self._live[count:]
        list(self._pool.map(self._bench.end, going))
        self.ended |= {launch.launch_id: time.time() for launch in going}
        self._live += self._pool.map(lambda _: self._bench.launch(lasts_s=1e6), going)
        list(self._pool.map(self._bench.delete, going))
        self.done += count

    def lags_s(self) -> list[float]:
        """From asking for an end until it stood in the ledger, for those that have come since the last call."""
        redis, found = self._bench.redis, []
        for launch_id, at_s in list(self.ended.items()):
            reported = redis.hget(self._bench.names.launch(launch_id), "t_reported")
            if reported:
                found.append(float(reported) - at_s)
                redis.zrem(self._bench.names.unacknowledged, launch_id)
                redis.delete(self._bench.names.launch(launch_id))
                del self.ended[launch_id]
        return found


def run(pods: int, minutes: float, rate: float, folder: Path, url: str) -> None:
    cluster = start_cluster(folder)
    os.environ["AIRFLOW_HOME"] = str(folder / "airflow")
    rig = WatcherRig(url, cluster, folder, "default")
    try:
        watcher = rig.start()
        while not rig.watch().get("t_listed"):
            assert watcher.poll() is None, rig.log_of(0)
            time.sleep(0.1)
        print(json.dumps({"what": "without pods", "rss_mb": round(resident_mb(watcher.pid), 1)}), flush=True)
        churn = Churn(rig, pods)
        while int(rig.watch().get("pods", 0)) < pods:
            time.sleep(0.2)
        print(json.dumps({"what": f"{pods} live", "rss_mb": round(resident_mb(watcher.pid), 1)}), flush=True)
        points: list[tuple[float, float]] = []
        lags: list[float] = []
        began, used = time.monotonic(), processor_s(watcher.pid)
        due, sample = began, began
        while time.monotonic() - began < minutes * 60:
            assert watcher.poll() is None, rig.log_of(0)
            due += 1.0
            churn.turn(max(1, round(rate)))
            lags += churn.lags_s()
            if time.monotonic() >= sample:
                sample = time.monotonic() + SAMPLE_S
                points.append((time.monotonic() - began, resident_mb(watcher.pid)))
                print(json.dumps({"s": round(points[-1][0], 1), "rss_mb": round(points[-1][1], 1), "ended": churn.done,
                                  "open": len(churn.ended)}), flush=True)  # fmt: skip
            time.sleep(max(0.0, due - time.monotonic()))
        seconds = time.monotonic() - began
        end = time.monotonic() + 30
        while churn.ended and time.monotonic() < end:
            lags += churn.lags_s()
            time.sleep(0.1)
        second_half = [point for point in points if point[0] >= seconds / 2] or points
        lags.sort()
        print(json.dumps({
            "what": "result", "pods": pods, "minutes": round(seconds / 60, 2), "ended": churn.done,
            "never_published": len(churn.ended), "rss_max_mb": round(max(mb for _, mb in points), 1),
            "slope_mb_per_hour": round(slope(second_half) * 3600, 2),
            "processor_share": round((processor_s(watcher.pid) - used) / seconds, 3),
            "lag_p99_s": round(lags[int(len(lags) * 0.99)], 3) if lags else None,
        }), flush=True)  # fmt: skip
    finally:
        rig.close()
        cluster.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=20.0, help="pods that end and are replaced, a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as server:
        run(options.pods, options.minutes, options.rate, Path(name), server.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
