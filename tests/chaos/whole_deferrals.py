"""Many deferrable tasks whose triggers fire at once, in a whole Airflow whose watcher sees events late and at random.

`python -m tests.chaos.whole_deferrals --tasks 20`. Each task has two launches under one key, and often the second is
under way before the end of the first is reported: nothing of that may fail a task or make Airflow see a "state mismatch".
Pods speak the execution API by themselves; `--real-pods` makes each Airflow's task runner, which takes seconds of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
import urllib.parse
from collections import Counter
from pathlib import Path

import redis

from demo.stack import Shape, Stack
from podrelay.protocol.redis_keys import RedisKeys
from tests.chaos.links import Link, Links
from tests.chaos.postgres import Postgres, find_binaries
from tests.end_to_end.stack_rig import Run, StackRig

SQLITE_MOST = 60
_HERE = Path(__file__).resolve().parent
_TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {{name: template}}
spec:
  restartPolicy: Never
  containers:
    - name: base
      image: a-name
      command: ["python", "-S", "-E", "{pod}"]
"""


class LateLink(Link):
    """A way to the API server on which the events of a watch arrive up to `most_s` seconds late. Other answers are prompt."""

    def __init__(self, to_port: int, most_s: float, rng: random.Random) -> None:
        super().__init__(to_port)
        self._most_s = most_s
        self._rng = rng

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        except OSError:
            writer.transport.abort()
            return
        watching = asyncio.Event()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._ask(reader, to_writer, watching)),
            asyncio.create_task(self._read(to_reader, late, watching)),
            asyncio.create_task(self._write(late, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, to_writer):
                end.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, watching: asyncio.Event) -> None:
        while data := await reader.read(1 << 16):
            (watching.set if b"watch=" in data.split(b"\r\n", 1)[0] else watching.clear)()
            server.write(data)
            await server.drain()

    async def _read(
        self, server: asyncio.StreamReader, late: asyncio.Queue[tuple[float, bytes]], watching: asyncio.Event
    ) -> None:
        due_s = 0.0
        while data := await server.read(1 << 16):
            wait_s = self._rng.uniform(0.0, self._most_s) if watching.is_set() else 0.0
            due_s = max(due_s, time.monotonic() + wait_s)  # a stream keeps its order
            late.put_nowait((due_s, data))

    async def _write(self, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due_s, data = await late.get()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            writer.write(data)
            await writer.drain()


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    with tempfile.TemporaryDirectory(prefix="podrelay-chaos-deferrals-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user
        home = Path(folder) / "home"
        home.mkdir()
        postgres = _database(Path(folder), options.tasks)
        stack = Stack(home, Shape(dags=_HERE / "dags", watchers=0, options=_options(home, options, postgres)))
        links = Links()
        try:
            stack.start()
            _start_late_watcher(stack, links, options)
            wrong, summary = _round(StackRig(stack), options)
        finally:
            stack.stop()
            links.stop()
            if postgres is not None:
                postgres.stop()
    print(f"{options.tasks} tasks, outcomes up to {options.late_s:g} s late: {summary}")
    print("BROKEN: " + "; ".join(wrong) if wrong else "holds")
    return 1 if wrong else 0


def _start_late_watcher(stack: Stack, links: Links, options: argparse.Namespace) -> None:
    link = links.open(stack.cluster_port, lambda port: LateLink(port, options.late_s, random.Random(options.seed)))
    late = stack.home / "kubeconfig-late"
    late.touch(mode=0o600)
    late.write_text(stack.kubeconfig.read_text().replace(f":{stack.cluster_port}", f":{link.port}"))
    command = [sys.executable, "-m", "airflow", "podrelay", "watcher"]
    stack.processes.start("watcher.1", command, {"AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(late)})


def _round(rig: StackRig, options: argparse.Namespace) -> tuple[list[str], str]:
    limit_s = 300.0 + options.tasks * (15.0 if options.real_pods else 2.0)
    run = rig.trigger("deferrals")
    began = time.monotonic()
    state = run.finish(limit_s)
    over_s = time.monotonic() - began
    rig.until(
        "every slot is free and every pod gone", lambda: not run.living_pods() and _all_acknowledged(rig), limit_s
    )
    overtaken, late_s = _lateness(rig, run)
    summary = f"over after {over_s:.0f} s, {overtaken} resumed before the first report, at most {late_s:.1f} s late"
    return _judge(rig, run, state, overtaken, options.tasks), summary


def _judge(rig: StackRig, run: Run, state: str, overtaken: int, tasks: int) -> list[str]:
    wrong = [] if state == "success" else [f"the run is {state}"]
    rows = run.tasks()
    if len(rows) != tasks:
        wrong.append(f"{len(rows)} task instances")
    ended = Counter(f"{row.state} in try {row.try_number}" for row in rows)
    if bad := {how: count for how, count in ended.items() if how != "success in try 1"}:
        wrong.append(f"tasks are {bad}")
    if (begun := _logged(rig, "running")) < 2 * tasks:  # each begins twice: else the log would prove nothing
        wrong.append(f"the event log has {begun} beginnings")
    if mismatches := _logged(rig, "state mismatch"):
        wrong.append(f"{mismatches} rows say state mismatch")
    if odd := Counter(made for made in run.pods_made().values() if made != 2):
        wrong.append(f"not two pods per task: {dict(odd)}")
    if not overtaken:
        wrong.append("no outcome was late enough to mean anything")
    return wrong


def _logged(rig: StackRig, event: str) -> int:
    return int(rig.api.get(f"/api/v2/eventLogs?event={urllib.parse.quote(event)}")["total_entries"])


def _ledger(rig: StackRig) -> list[dict[str, str]]:
    with redis.Redis.from_url(rig.stack.redis_url, decode_responses=True) as client:
        keys = list(client.scan_iter(RedisKeys().launch_prefix + "*", count=1000))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        found: list[dict[str, str]] = pipeline.execute()
        return found


def _all_acknowledged(rig: StackRig) -> bool:
    return all(entry.get("t_acknowledged") for entry in _ledger(rig))


def _lateness(rig: StackRig, run: Run) -> tuple[int, float]:
    """How many tasks were resumed before their first outcome was reported, and the longest time from end to report."""
    per_task: dict[str, list[dict[str, str]]] = {}
    for entry in _ledger(rig):
        per_task.setdefault(entry["subject"], []).append(entry)
    late_s = max(
        float(entry["t_reported"]) - float(entry["t_finished"])
        for entries in per_task.values()
        for entry in entries
        if entry.get("t_reported") and entry.get("t_finished")
    )
    overtaken = 0
    for entries in per_task.values():
        first, *later = sorted(entries, key=lambda entry: float(entry["t_created"]))
        overtaken += any(float(entry["t_created"]) < float(first["t_reported"]) for entry in later)
    return overtaken, late_s


def _database(folder: Path, tasks: int) -> Postgres | None:
    """PostgreSQL for many tasks: SQLite lets one at a time write, and Airflow's API answers 500 where that takes too long."""
    binaries = find_binaries() if tasks > SQLITE_MOST else None
    if binaries is None:
        return None
    postgres = Postgres(folder, binaries)
    postgres.start()
    return postgres


def _options(home: Path, options: argparse.Namespace, postgres: Postgres | None) -> dict[str, str]:
    variables = {
        "PODRELAY_DEFERRALS": str(options.tasks),
        "AIRFLOW__CORE__PARALLELISM": str(2 * options.tasks + 8),
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(2 * options.tasks + 8),
        "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "512",
        "AIRFLOW__API__MAXIMUM_PAGE_LIMIT": "1000",
    }
    if postgres is not None:
        variables["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = postgres.url
    if not options.real_pods:
        template = home / "template.yaml"
        template.write_text(_TEMPLATE.format(pod=_HERE / "api_pod.py"))
        variables["AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE"] = str(template)
    return variables


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.whole_deferrals", description=__doc__)
    parser.add_argument(
        "--tasks", type=int, default=20, help="deferrable tasks side by side (default 20, at most 1000)"
    )
    parser.add_argument("--late-s", type=float, default=30.0, help="outcomes arrive up to so late (default 30)")
    parser.add_argument("--real-pods", action="store_true", help="each pod is Airflow's task runner")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
