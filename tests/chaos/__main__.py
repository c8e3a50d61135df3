"""Break things on a seeded schedule and judge what became of the tasks. Prints one row per fault and seed."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from tests.chaos import results
from tests.chaos.faults import FAULTS, Turn
from tests.chaos.judge import Judgement, busy_slots, judge, leftovers, refused, samples, unfinished
from tests.chaos.results import Round
from tests.chaos.rig import Rig

_FEED_EVERY_S = 0.25


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`, which end what was started
    names = list(FAULTS) if options.fault == ["all"] else options.fault
    if not options.warm_pods:
        names = [name for name in names if not FAULTS[name].warm]
    verdicts: list[Judgement] = []
    done = results.read(options.json) if options.json else []
    todo = [Round(name, seed, max(options.tasks, FAULTS[name].tasks), options.scale, options.warm_pods)
            for seed in range(options.seed, options.seed + options.seeds) for name in names]  # fmt: skip
    todo = results.missing(_part(todo, options.part), done)
    print(results.HEAD, flush=True)
    # The rounds that one deployment can serve, one after another.
    for shape in sorted({_shape(item) for item in todo}):
        verdicts += _run_all([item for item in todo if _shape(item) == shape], *shape, options)
    bad = [verdict for verdict in verdicts if verdict.wrong]
    for verdict in bad:
        print(f"\n{verdict.fault} seed {verdict.seed}: {'; '.join(verdict.wrong)}", file=sys.stderr)
        print(
            f"replay: python -m tests.chaos --fault {verdict.fault} --seed {verdict.seed} --tasks {verdict.tasks} "
            f"--scale {options.scale:g} --warm-pods {options.warm_pods}\n" + "\n".join(verdict.notes[-60:]),
            file=sys.stderr,
        )
    return 1 if bad else 0


def _shape(item: Round) -> tuple[int, int]:
    return FAULTS[item.fault].drivers, FAULTS[item.fault].slots


def _part(todo: list[Round], part: str) -> list[Round]:
    """A share of the rounds, so that several calls, one beside the other, take about as long each."""
    number, _, of = part.partition("/")
    ordered = sorted(todo, key=lambda item: (-FAULTS[item.fault].seconds, item.fault, item.seed))
    mine = set(ordered[int(number) - 1 :: int(of)])
    return [item for item in todo if item in mine]


def _run_all(todo: list[Round], drivers: int, slots: int, options: argparse.Namespace) -> list[Judgement]:
    """All rounds that need such a deployment, on one; after a bad round on a new one."""
    verdicts: list[Judgement] = []
    rig: Rig | None = None
    try:
        for item in todo:
            if rig is None:
                rig = Rig(drivers, slots=slots, sqlite=options.sqlite, warm_pods=options.warm_pods)
                rig.start()
            verdict = _round(rig, item, options)
            verdicts.append(verdict)
            print(results.line(verdict), flush=True)
            if options.json:
                results.write(options.json, verdict, item)
            if verdict.wrong:
                rig.stop(keep=True)
                rig = None
    finally:
        if rig is not None:
            rig.stop()
    return verdicts


def _round(rig: Rig, item: Round, options: argparse.Namespace) -> Judgement:
    name, seed = item.fault, item.seed
    fault = FAULTS[name]
    verdict = Judgement(name, seed, item.tasks)
    rng = random.Random(f"{name} {seed}")
    tasks = rig.make_tasks(item.tasks, f"chaos_{name.replace('-', '_')}_{seed}_{random.randrange(1 << 30)}")
    before = rig.cluster.audit()
    mark = before[-1]["number"] if before else 0
    refused_before, since_s = len(rig.task_api.refused), time.time()
    seconds = max(3.0, fault.seconds * options.scale)
    feeder = threading.Thread(target=_feed, args=(rig, tasks, seconds))
    feeder.start()
    turn = Turn(rig, rng, seconds, verdict.notes)
    try:
        fault.inject(turn)
    except Exception:  # noqa: BLE001 - the round is judged as failed, and the next one runs
        verdict.wrong.append("the fault could not be injected: " + traceback.format_exc(limit=3))
    verdict.wrong += turn.wrong
    healed_s = turn.healed_s or time.monotonic()
    feeder.join()
    turn.note("healed")
    if ended := rig.revive():
        verdict.wrong.append(f"ended by themselves: {', '.join(ended)}")
    left = ["?"]
    try:
        rig.until(lambda: not unfinished(rig, tasks), options.recover, "the last task")
        ended_s = time.monotonic()
        rig.until(lambda: not busy_slots(rig), options.recover, "the last slot")
        verdict.slots_s = time.monotonic() - ended_s
        rig.until(
            lambda: not _refresh(left, leftovers(rig, tasks)),
            max(1.0, healed_s + options.recover - time.monotonic()),
            "the end",
        )
    except TimeoutError:
        _refresh(left, leftovers(rig, tasks))
        verdict.wrong.append(f"not over {options.recover:g} s after healing: {'; '.join(left)}")
        verdict.notes += samples(rig)
    verdict.recovered_s = time.monotonic() - healed_s
    judge(rig, tasks, rig.cluster.audit(mark), since_s, verdict, options.heartbeat, turn.windows, turn.killed)
    verdict.wrong += refused(rig, refused_before)
    return verdict


def _refresh(left: list[str], found: list[str]) -> list[str]:
    left[:] = found
    return found


def _feed(rig: Rig, tasks: list[str], seconds: float) -> None:
    """Tasks become ready evenly while the fault lasts."""
    began_s, given = time.monotonic(), 0
    while given < len(tasks):
        due = min(len(tasks), 1 + int(len(tasks) * (time.monotonic() - began_s) / seconds))
        if due > given:
            rig.rows.schedule(tasks[given:due])
            given = due
        time.sleep(_FEED_EVERY_S)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    listing = "\n".join(f"  {fault.name:<22}{fault.about} ({fault.seconds:g} s)" for fault in FAULTS.values())
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, epilog=f"faults:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--fault", nargs="+", default=["all"], choices=["all", *FAULTS], metavar="NAME", help="default: all"
    )
    parser.add_argument("--seeds", type=int, default=1, help="rounds per fault, each with the next seed (default 1)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--tasks", type=int, default=300, help="tasks per round (default 300)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for how long faults last (default 1)")
    parser.add_argument(
        "--recover", type=float, default=60.0, help="seconds after healing when all must be over (default 60)"
    )
    parser.add_argument(
        "--heartbeat", type=float, default=1.5, help="longest heartbeat allowed, in seconds (default 1.5)"
    )
    parser.add_argument(
        "--json", type=Path, default=None, metavar="FILE",
        help="add each result to this file, and leave out rounds that it has already: a campaign may take several calls",
    )  # fmt: skip
    parser.add_argument(
        "--part", default="1/1", metavar="N/OF", help="only a share of the rounds, as 1/2 (default 1/1)"
    )
    parser.add_argument(
        "--warm-pods", type=int, default=0, metavar="N",
        help="with so many warm pods; some faults need them, and are left out without (default 0)",
    )  # fmt: skip
    parser.add_argument(
        "--sqlite", action="store_true", help="SQLite even where PostgreSQL is installed; one scheduler only"
    )
    options = parser.parse_args(argv)
    if not options.warm_pods and (warm := [name for name in options.fault if name != "all" and FAULTS[name].warm]):
        parser.error(f"{', '.join(warm)}: only with --warm-pods")
    return options


if __name__ == "__main__":
    sys.exit(main())
