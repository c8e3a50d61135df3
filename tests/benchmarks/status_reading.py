"""How long `airflow podrelay status` takes with a long backlog, and what stays in Redis after as many launches:
`python -m tests.benchmarks.status_reading --launches 100000`.

The scripts of podrelay write all of it, as fast as Redis runs them; no launcher and no watcher runs. Of the backlog, half is
queued, three of ten launches wait for various reasons, and two of ten have a pod. Of the launches that end, one of ten
fails: half of these are refused, the other half's pods fail.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import redis

from podrelay.protocol import identifiers
from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import chunks, text
from podrelay.store import scripts
from podrelay.store.overview import read_overview
from podrelay.store.script_table import ScriptCall, evalsha, queue_loads
from podrelay.store.scripts import AcknowledgedLaunch
from tests.benchmarks import backlog
from tests.benchmarks.rig import FERNET_KEY
from tests.harness.redis_server import RedisServer

KEYS, CLUSTER = RedisKeys(backlog.DEPLOYMENT), identifiers.DEFAULT_CLUSTER
QUEUES, CLEANUPS = KEYS.launch_queues(CLUSTER), KEYS.cleanup_queue(CLUSTER)
REASONS = ("QuotaExceeded", "Throttled", "ServerError", "TokenExpired", "Unreachable")
BATCH = 200
# Long enough for nothing but the launches of the last seconds to be there, short enough to wait for.
LEDGER_TTL_S = 10.0
RESULTS_MAX = 100_000
# About as long as an encrypted report, as the order of a clean-up, and as the message of an API server.
REPORT, ORDER, MESSAGE = "r" * 1300, "d" * 600, "m" * 200
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}_0(-\w+)?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        client: Any = redis.Redis.from_url(server.url)
        queue_loads(client.pipeline(transaction=False), ("claim", "finish", "publish", "acknowledge")).execute()
        make_backlog(server.url, client, options.launches)
        print(f"| with {options.launches} launches in Redis | wall, s | CPU, s |\n|---|---|---|")
        for what, wall_s, cpu_s in measure_status(server.url, client, folder):
            print(f"| {what} | {wall_s:.2f} | {cpu_s:.2f} |", flush=True)
        client.flushall()
        run_through(server.url, client, options.launches)
        print(f"\n| after {options.launches} launches | keys, or entries |\n|---|---|")
        for name, count in what_stays(client):
            print(f"| `{name}` | {count} |")


# --- a backlog ----------------------------------------------------------------------------------------------------
def make_backlog(url: str, client: Any, count: int) -> None:
    for batch in chunks(requests(count), 5000):
        backlog.offer(url, FERNET_KEY, iter(batch))
    left = count // 2
    while left > 0:
        items = []
        for number, (job, queue) in enumerate(claim(client, "launch", QUEUES)):
            held = (job, "e", queue)
            wait = ["wait", *held, "600", REASONS[number % len(REASONS)], MESSAGE, "", 1]
            items.append(["created", *held, f"pod-{job}", "n", "u", f"{time.time():.3f}"] if number % 5 < 2 else wait)
        finish(client, items)
        left -= len(items)


def measure_status(url: str, client: Any, folder: str) -> Iterator[tuple[str, float, float]]:
    """What, and the seconds of the wall clock and of a processor that it takes."""
    readings = []
    for _ in range(7):
        began_s, cpu_s = time.perf_counter(), time.process_time()
        read_overview(client, KEYS, CLUSTER, time.time())
        readings.append((time.perf_counter() - began_s, time.process_time() - cpu_s))
    yield "read_overview", median(wall for wall, _ in readings), median(cpu for _, cpu in readings)
    job = text(client.lindex("rq:queue:" + QUEUES[-1], 0))
    for words in (["podrelay", "status"], ["podrelay", "status", "--launch", job], ["version"]):
        yield f"`airflow {' '.join(words)}`".replace(job, "JOB"), *_typed(url, folder, words)


def _typed(url: str, folder: str, words: list[str]) -> tuple[float, float]:
    environment = os.environ | {"AIRFLOW__PODRELAY__REDIS_URL": url, "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
                                "AIRFLOW_HOME": folder}  # fmt: skip
    runs = []
    for _ in range(4):  # the first one makes AIRFLOW_HOME
        began_s, before = time.perf_counter(), os.times()
        subprocess.run([Path(sys.executable).with_name("airflow"), *words], env=environment, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=False)  # fmt: skip
        after = os.times()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        runs.append((time.perf_counter() - began_s, cpu_s))
    return median(wall for wall, _ in runs[1:]), median(cpu for _, cpu in runs[1:])


# --- launches from their hand-over to their end -------------------------------------------------------------------
def run_through(url: str, client: Any, count: int) -> None:
    for batch in chunks(requests(count), BATCH):
        backlog.offer(url, FERNET_KEY, iter(batch))
        subjects = {launch.launch_id: launch.subject for launch in batch}
        ended = [_end(number, held, subjects) for number, held in enumerate(claim(client, "launch", QUEUES))]
        finish(client, [item for item, _, _ in ended])
        pipeline = client.pipeline(transaction=False)
        for _, reports, _ in ended:
            for report in reports:
                evalsha(pipeline, report)
        pipeline.zrem(KEYS.live(CLUSTER), *(closed.launch_id for _, _, closed in ended))
        pipeline.execute()
        closed = [closed for _, _, closed in ended]
        now_s = time.time()
        evalsha(
            client, scripts.acknowledge(KEYS, cluster=CLUSTER, now_s=now_s, ledger_ttl_s=LEDGER_TTL_S, launches=closed)
        )
        finish(client, [["done", job, "e", queue] for job, queue in claim(client, "cleanup", [CLEANUPS])])


def _end(
    number: int, held: tuple[str, str], subjects: dict[str, str]
) -> tuple[list[Any], list[ScriptCall], AcknowledgedLaunch]:
    """What a launcher writes about a launch, what is reported about it, and how a scheduler closes it."""
    job, queue = held
    launch_id = identifiers.launch_of_job(job)
    subject = subjects[launch_id]
    if number % 20 == 0:
        reports = [_report(launch_id, "failed", {})]
        return ["failed", job, "e", queue, "eJwDAAAAAAE="], reports, AcknowledgedLaunch(launch_id, 0, subject, "1")
    where = {"pod": f"pod-{job}", "namespace": "n", "uid": "u"}
    outcomes = ("started", "failed" if number % 20 == 1 else "succeeded")
    cleanup = (identifiers.cleanup_job_id(launch_id, 0, "delete"), ORDER, "delete the pod")
    return (
        ["created", job, "e", queue, *where.values(), f"{time.time():.3f}"],
        [_report(launch_id, outcome, where) for outcome in outcomes],
        AcknowledgedLaunch(launch_id, 0, subject, "1", *cleanup),
    )


def _report(launch_id: str, outcome: str, fields: dict[str, str]) -> ScriptCall:
    return scripts.publish(
        KEYS, cluster=CLUSTER, fence=scripts.UNFENCED, launch_id=launch_id, attempt=0, outcome=outcome, result=REPORT,
        now=f"{time.time():.3f}", results_max=RESULTS_MAX, fields=fields,
    )  # fmt: skip


def what_stays(client: Any) -> Iterator[tuple[str, int]]:
    """Keys by family at once, and after the ledger's entries have expired; then the lengths of what grows."""
    yield "all keys", client.dbsize()
    time.sleep(LEDGER_TTL_S + 5.0)
    yield "all keys, once the ledger's entries have expired", client.dbsize()
    families = Counter(_ID.sub("<id>", text(key)) for key in client.scan_iter(count=5000))
    yield from ((name, count) for name, count in families.most_common() if count > 1)
    yield KEYS.results, client.xlen(KEYS.results)
    yield KEYS.unacknowledged, client.zcard(KEYS.unacknowledged)
    yield KEYS.live(CLUSTER), client.zcard(KEYS.live(CLUSTER))
    yield KEYS.current, client.hlen(KEYS.current)
    yield "megabytes of memory", round(int(client.info("memory")["used_memory"]) / 1e6)


# --- parts --------------------------------------------------------------------------------------------------------
def requests(count: int) -> Iterator[LaunchRequest]:
    """Launches of four priorities and three schedulers."""
    for number in range(0, count, BATCH):
        size, owner = min(BATCH, count - number), str(number // BATCH % 3)
        yield from backlog.requests("status", size, "n", priority=1 << number // BATCH % 4, owner=owner)


def claim(client: Any, kind: str, queues: list[str]) -> list[tuple[str, str]]:
    """RQ job id and queue of some jobs, leased."""
    call = scripts.claim(
        KEYS, cluster=CLUSTER, kind=kind, queues=queues, most=BATCH, low=1, lease_s=60.0, worker="w", execution_id="e",
        patience_s=0.0, probe_s=1.0, report_every_s=60.0,
    )  # fmt: skip
    flat = evalsha(client, call)[5]
    return [(text(job), text(queue)) for job, queue in zip(flat[::12], flat[1::12], strict=True)]


def finish(client: Any, items: list[list[Any]]) -> None:
    call = scripts.finish(KEYS, cluster=CLUSTER, worker="w", spent_data="", results_max=RESULTS_MAX, items=items)
    evalsha(client, call)


if __name__ == "__main__":
    main()
