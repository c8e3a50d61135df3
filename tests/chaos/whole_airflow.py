"""The same question to a whole Airflow: its real scheduler, or one of two, is killed while a DAG runs.

`python -m tests.chaos.whole_airflow`. Slow: each task is a real worker process that imports Airflow.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import redis

from demo.stack import Shape, Stack
from tests.chaos.postgres import Postgres, find_binaries
from tests.end_to_end.stack_rig import Run, StackRig

_DAGS = Path(__file__).resolve().parents[1] / "end_to_end" / "dags"
_LIMIT_S = 600.0


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    bad = 0
    print("| whole Airflow | seed | tasks | verdict | recovered (s) |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="podrelay-chaos-airflow-") as folder:
        Path(folder).chmod(0o755)
        postgres = _database(Path(folder), options.schedulers)
        stack = Stack(Path(folder) / "home", Shape(dags=_DAGS, watchers=2, options=_options(postgres)))
        try:
            stack.start()
            if options.schedulers == 2:
                _start_scheduler(stack, "scheduler.2")
            for seed in range(options.seed, options.seed + options.seeds):
                wrong, recovered_s = _round(StackRig(stack), seed, options)
                bad += bool(wrong)
                words = "BROKEN: " + "; ".join(wrong) if wrong else "holds"
                name = "kill-scheduler" if options.schedulers == 1 else "kill-one-scheduler"
                print(f"| {name} | {seed} | {options.tasks} | {words} | {recovered_s:.1f} |", flush=True)
                if wrong:
                    print(f"replay: python -m tests.chaos.whole_airflow --schedulers {options.schedulers} --seed {seed} "
                          f"--tasks {options.tasks}", file=sys.stderr)  # fmt: skip
        finally:
            stack.stop()
            if postgres is not None:
                postgres.stop()
    return 1 if bad else 0


def _round(rig: StackRig, seed: int, options: argparse.Namespace) -> tuple[list[str], float]:
    rng = random.Random(seed)
    run = rig.trigger("spread", count=options.tasks, seconds=2.0)
    rig.until("a task has a pod", lambda: any(launch.t_created for launch in run.launches()), _LIMIT_S)
    for _ in range(options.kills):
        time.sleep(rng.uniform(0.0, 8.0))
        victim = rng.choice([name for name in rig.stack.processes.children if name.startswith("scheduler")])
        rig.stack.processes.kill(victim)
        time.sleep(rng.uniform(0.0, 3.0))
        _start_scheduler(rig.stack, victim)
        time.sleep(rng.uniform(5.0, 15.0))
    healed_s = time.monotonic()
    state = run.finish(_LIMIT_S)
    run.settle()
    return _judge(rig, run, state), time.monotonic() - healed_s


def _judge(rig: StackRig, run: Run, state: str) -> list[str]:
    wrong = [] if state == "success" else [f"the run is {state}"]
    if bumped := [task.label for task in run.tasks() if task.try_number != 1]:
        wrong.append(f"try numbers bumped: {bumped}")
    if twice := {task: made for task, made in run.pods_made().items() if made != 1}:
        wrong.append(f"pods per task: {twice}")
    client = redis.Redis.from_url(rig.stack.redis_url, decode_responses=True)
    left: Counter[str] = Counter()
    for key in client.keys("rq:wip:podrelay.*"):
        left["leases"] += client.zcard(key)
    for key in client.keys("rq:queue:podrelay.*"):
        left["jobs"] += client.llen(key)
    left["unacknowledged"] = client.zcard("podrelay:default:unacknowledged")
    return wrong + [f"{count} {what}" for what, count in left.items() if count]


def _start_scheduler(stack: Stack, name: str) -> None:
    stack.processes.start(name, [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"])


def _database(folder: Path, schedulers: int) -> Postgres | None:
    if schedulers == 1:
        return None
    binaries = find_binaries()
    if binaries is None:
        raise SystemExit("two schedulers need PostgreSQL: install Debian's postgresql")
    postgres = Postgres(folder, binaries)
    postgres.start()
    return postgres


def _options(postgres: Postgres | None) -> dict[str, str]:
    options = {
        # Airflow's times for finding out that a scheduler is dead, shorter than in production.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    }
    if postgres is not None:
        options["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = postgres.url
    return options


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.whole_airflow", description=__doc__)
    parser.add_argument("--schedulers", type=int, choices=(1, 2), default=1, help="2 needs PostgreSQL (default 1)")
    parser.add_argument("--tasks", type=int, default=12, help="mapped tasks per run (default 12)")
    parser.add_argument("--kills", type=int, default=2, help="how often a scheduler is killed in a run (default 2)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
