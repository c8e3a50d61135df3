"""The judgement from outside: the database, the API server's audit log, the file that tasks write, and what Redis holds."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import MAILBOX_TTL_S
from podrelay.protocol.redis_keys import RedisKeys
from tests.chaos.rig import Rig

_LAUNCH = "podrelay/launch-id"
# Creations that were under way when the server asked for patience.
_UNDER_WAY_S = 1.0


# Two of the executor's default reconcile intervals, and the harness' own look.
SLOTS_FREE_S = 2 * 5.0 + 1.0
STUCK_S = 1.0


# Faults during which all launches may have to be tried again: those get new pods.
_COLD = ("api-", "redis-", "cut-launcher", "no-launcher", "random")


@dataclass
class Judgement:
    """`wrong` is empty when everything held."""

    fault: str
    seed: int
    tasks: int
    wrong: list[str] = field(default_factory=list)
    recovered_s: float = 0.0
    heartbeat_s: float = 0.0
    # From the end of the last task until all slots were free.
    slots_s: float = 0.0
    # For how long all tasks past the queue timeout held the scheduler's loop, by the executor's doing.
    stuck_s: float = 0.0
    # How many tasks ran in warm pods.
    warm: int = 0
    notes: list[str] = field(default_factory=list)


def busy_slots(rig: Rig) -> int:
    return sum(int(rig.status_of(name).get("slots", 1)) for name in rig.of("driver"))


def unfinished(rig: Rig, tasks: list[str]) -> bool:
    return any(state not in ("success", "failed") for state, _ in rig.rows.states(tasks).values())


def leftovers(rig: Rig, tasks: list[str]) -> list[str]:
    """What is not over yet; empty when tasks, slots, Redis and pods are all done."""
    found = []
    states = Counter(state for state, _ in rig.rows.states(tasks).values())
    if open_ := {state: n for state, n in states.items() if state not in ("success", "failed")}:
        found.append(f"tasks {open_}")
    for name in rig.of("driver"):
        status = rig.status_of(name)
        if not status or time.time() - status["at_s"] > 5:
            found.append(f"{name} is silent")
        elif status["slots"] or status["launches"]:
            found.append(f"{name} has {status['slots']} slots and {status['launches']} launches: {status['running']}")
    found += _left_in_redis(rig)
    pods = rig.cluster.pods()
    if rig.warm_pods:
        found += left_of_pool(rig.client(), pods)
        pods = [pod for pod in pods if identifiers.LABEL_IDLE not in pod["metadata"]["labels"]]
    if pods:
        found.append(f"{len(pods)} pods, as {pods[0]['metadata']['name']}")
    return found


def left_of_pool(client: redis.Redis, pods: Sequence[dict[str, Any]]) -> list[str]:
    """What is left beside the idle pods that the pool knows; each of them has its mailbox."""
    keys = RedisKeys()
    idle = {pod["metadata"]["labels"][identifiers.LABEL_WARM] for pod in pods
            if identifiers.LABEL_IDLE in pod["metadata"]["labels"]}  # fmt: skip
    pool = set(client.hkeys(keys.warm_pods("default")))
    found = []
    if unknown := idle - pool:
        found.append(f"{len(unknown)} idle pods that the pool does not know, as {min(unknown)}")
    if gone := pool - idle:
        found.append(f"{len(gone)} pods in the pool that are gone or not idle, as {min(gone)}")
    for key in client.keys(keys.warm_idle("default", "*")):
        if strange := set(client.zrange(key, 0, -1)) - pool:
            found.append(f"{len(strange)} members of {key} that are not in the pool, as {min(strange)}")
    boxes = [*client.keys(keys.mailbox_in("*")), *client.keys(keys.mailbox_taken("*"))]
    if lasting := [key for key in boxes if not 0 < client.ttl(key) <= MAILBOX_TTL_S]:
        found.append(f"{len(lasting)} mailboxes that do not expire, as {min(lasting)}")
    return found


def _left_in_redis(rig: Rig) -> list[str]:
    client = rig.client()
    counts: Counter[str] = Counter()
    for key in client.keys("rq:queue:podrelay.*"):
        counts["queued jobs"] += client.llen(key)
    for key in client.keys("rq:wip:podrelay.*"):
        counts["leases"] += client.zcard(key)
    for key in client.keys("rq:scheduled:podrelay.*"):
        counts["waiting jobs"] += client.zcard(key)
    counts["unacknowledged"] += client.zcard("podrelay:default:unacknowledged")
    counts["current"] += client.hlen("podrelay:default:current")
    return [f"{count} {what}" for what, count in counts.items() if count]


def judge(
    rig: Rig,
    tasks: list[str],
    audit: list[dict[str, Any]],
    since_s: float,
    verdict: Judgement,
    limit_s: float,
    windows: Sequence[tuple[float, float]] = (),
    killed: Collection[str] = (),
) -> None:
    """Add to the judgement what did not hold.

    :param killed: names of pods whose tasks may have failed.
    """
    wrong = verdict.wrong
    rows = rig.rows.states(tasks)
    hosts = _read_runs(rig.runs, tasks)
    states = Counter(
        "success" if state == "failed" and _pod_names(hosts.get(task, ())) & set(killed) else state
        for task, (state, _) in rows.items()
    )
    if states != Counter({"success": len(tasks)}):
        wrong.append(f"tasks {dict(states)}")
    if again := sum(1 for _, number in rows.values() if number != 1):
        wrong.append(f"{again} try numbers bumped")
    wrong += _runs(hosts, tasks)
    wrong += given_twice(_read_runs(rig.given, tasks))
    wrong += _pods(audit)
    if rig.warm_pods:
        verdict.warm = sum(any(identifiers.warm_id_of_pod(name) for name in _pod_names(of)) for of in hosts.values())
        if verdict.warm == 0 and not verdict.fault.startswith(_COLD):
            wrong.append("no task ran in a warm pod")
    for began_s, ended_s in windows:
        entries = [entry for entry in audit if began_s <= entry["time"] <= ended_s]
        wrong += patience(entries, they_know_of_it=verdict.fault != "random")
    if verdict.fault == "drop-stream" and verdict.slots_s > SLOTS_FREE_S:
        wrong.append(f"a slot was free {verdict.slots_s:.1f} s after the last task had ended")
    beats = [took for name in rig.of("driver") for at, took in rig.status_of(name).get("beats", ()) if at >= since_s]
    verdict.heartbeat_s = max(beats, default=0.0)
    verdict.stuck_s = max((rig.status_of(name).get("stuck_s", 0.0) for name in rig.of("driver")), default=0.0)
    if verdict.stuck_s > STUCK_S:
        wrong.append(f"tasks past the queue timeout held the loop for {verdict.stuck_s:.2f} s")
    if verdict.heartbeat_s > limit_s:
        wrong.append(f"a heartbeat took {verdict.heartbeat_s:.2f} s")


def _read_runs(path: Path, tasks: Sequence[str]) -> dict[str, list[str]]:
    """Task -> the host names in its lines of this file."""
    wanted, found = set(tasks), defaultdict(list)
    for line in path.read_text().splitlines() if path.exists() else ():
        task, host = line.split()[:2]
        if task in wanted:
            found[task].append(host)
    return found


def _pod_names(hosts: Iterable[str]) -> set[str]:
    return {host.partition(".")[0] for host in hosts}


def _runs(hosts: Mapping[str, Sequence[str]], tasks: Sequence[str]) -> list[str]:
    wrong = []
    if missing := len(set(tasks)) - len(hosts):
        wrong.append(f"{missing} tasks never ran")
    if twice := [task for task, of in hosts.items() if len(of) > 1]:
        wrong.append(f"{len(twice)} tasks ran twice, as {twice[0]} in {hosts[twice[0]]}")
    return wrong


def given_twice(given: Mapping[str, Sequence[str]]) -> list[str]:
    """Invariant I1: one attempt of a launch is at most one pod that was given its workload."""
    pods: dict[tuple[str, int], set[str]] = defaultdict(set)
    for host in (host for hosts in given.values() for host in hosts):
        launch = identifiers.launch_of_host(host)
        if launch is None:
            return [f"a pod whose host name says no launch: {host}"]
        pods[launch] |= _pod_names([host])
    twice = [names for names in pods.values() if len(names) > 1]
    return [f"{len(twice)} attempts were given to two pods, as {sorted(twice[0])}"] if twice else []


def _pods(audit: list[dict[str, Any]]) -> list[str]:
    made = Counter(
        (entry["labels"] or {}).get(_LAUNCH, entry["name"])
        for entry in audit
        if entry["verb"] == "create" and entry["resource"] == "pods" and entry["uid"]
    )
    twice = [launch for launch, count in made.items() if count > 1]
    return [f"{len(twice)} launches have two pods, as {twice[0]}"] if twice else []


def patience(audit: list[dict[str, Any]], *, they_know_of_it: bool) -> list[str]:
    """Creations of one window that were answered 429: the first one asked for patience until its end.

    :param they_know_of_it: False where a launcher may be cut off from Redis just then, so that it cannot know before it has
        been refused by itself.
    """
    first_s: dict[str, float] = {}
    early = 0
    for entry in audit:
        if entry["verb"] == "create" and entry["status"] == 429:
            who = "" if they_know_of_it else entry["user_agent"]
            early += entry["time"] > first_s.setdefault(who, entry["time"]) + _UNDER_WAY_S
    return [f"{early} creations inside a Retry-After window"] if early else []


def refused(rig: Rig, since: int) -> list[str]:
    """Pods that found their task already begun: each is a pod too many, unless its own first request was answered late."""
    pods = [pod for what, pod in rig.task_api.refused[since:] if what == "run"]
    lines = rig.runs.read_text() if rig.runs.exists() else ""
    strange = [pod for pod in pods if not re.search(rf"\b{re.escape(pod)}\b", lines)]
    return [f"{len(strange)} pods were refused by the task API, as {strange[0]}"] if strange else []


def samples(rig: Rig) -> list[str]:
    """Ledger entries of a few launches that are not over, without their sealed results."""
    client = rig.client()
    found = []
    for launch_id in client.zrange("podrelay:default:unacknowledged", 0, 2):
        entry = client.hgetall(f"podrelay:default:launch:{launch_id}")
        entry.pop("result", "")
        found.append(f"{launch_id}: {entry}")
    return found
