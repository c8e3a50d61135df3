"""One builder per Lua script: named arguments in, a `ScriptCall` out. Nothing else knows the order of KEYS and ARGV.

KEYS are keys that a script writes: Redis asks for every right to them (`podrelay.protocol.access`). Those that it only reads
or computes stand in ARGV.

The builders are pure; `CircuitBreaker` (blocking) and `AsyncScripts` (asyncio) run what they return. The header of each
script under `podrelay/protocol/lua` documents the reply.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from podrelay.protocol import redis_keys
from podrelay.protocol.jobs import rq_time
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import FAILURE_TTL_S, FINISHED_MAX, RESULT_TTL_S, RETRIES_LEFT
from podrelay.store.script_table import ScriptCall

ThrottleEvent = Literal[
    "pause", "cleanup_pause", "stumble", "remind", "recover", "refused", "passed", "cleanup_refused", "cleanup_worked"
]


class OfferedLaunch(NamedTuple):
    """One launch of `offer`. `queue` is the level's queue, `data` the job's data, `key` JSON."""

    launch_id: str
    attempt: int
    job_id: str
    subject: str
    queue: str
    data: str
    description: str
    key: str
    kind: str
    namespace: str
    relaunches: int


class AcknowledgedLaunch(NamedTuple):
    """One launch of `acknowledge`. `over` is "1", "0" where another attempt follows, or "revoked". Then its CleanupJob."""

    launch_id: str
    attempt: int
    subject: str
    over: str
    cleanup_id: str = ""
    cleanup_data: str = ""
    cleanup_description: str = ""


class HeldJob(NamedTuple):
    """One leased job of `renew`."""

    job_id: str
    execution_id: str
    queue: str
    kind: str


class Fence(NamedTuple):
    """Proves a leader's term: a former leader's writes are rejected. A launcher, which holds a lease, writes unfenced."""

    leader: str = ""
    number: str = ""


UNFENCED = Fence()


def _new_jobs(keys: RedisKeys, cluster: str, now_s: float) -> tuple[str | int | float, ...]:
    """What every script that makes RQ jobs begins its arguments with."""
    queues = (redis_keys.RQ_JOB_PREFIX, redis_keys.rq_queue(""), keys.wake(cluster))
    return (keys.launch_prefix, *queues, f"{now_s:.3f}", rq_time(now_s), RESULT_TTL_S, FAILURE_TTL_S, RETRIES_LEFT)


# --- executor -----------------------------------------------------------------------------------------------------
def offer(
    keys: RedisKeys,
    *,
    cluster: str,
    owner: str,
    now_s: float,
    ledger_ttl_s: float,
    launches: Iterable[OfferedLaunch],
    wake: bool = True,
) -> ScriptCall:
    """Offer launches of one owner.

    :param wake: whether to wake the launchers; False where another call follows at once.
    """
    args: list[str | int | float] = [
        *_new_jobs(keys, cluster, now_s), cluster, owner, int(ledger_ttl_s), redis_keys.rq_scheduled(""),
        redis_keys.fair_queue_mark(owner), int(wake),
    ]  # fmt: skip
    for launch in launches:
        args += launch
    return ScriptCall(
        "offer", [keys.current, redis_keys.RQ_QUEUES, keys.unacknowledged, keys.fair_queues(cluster)], args
    )


def acknowledge(
    keys: RedisKeys, *, cluster: str, now_s: float, ledger_ttl_s: float, launches: Iterable[AcknowledgedLaunch]
) -> ScriptCall:
    """Close launches in the ledger and queue the clean-up of their pods."""
    args: list[str | int | float] = [
        *_new_jobs(keys, cluster, now_s),
        keys.cleanup_queue(cluster),
        int(ledger_ttl_s),
    ]
    for launch in launches:
        args += launch
    return ScriptCall("acknowledge", [keys.current, redis_keys.RQ_QUEUES, keys.unacknowledged], args)


def withdraw(keys: RedisKeys, *, launch_id: str, subject: str, now_s: float, ledger_ttl_s: float) -> ScriptCall:
    """Withdraw one launch."""
    return ScriptCall(
        "withdraw",
        [keys.launch(launch_id), keys.current, keys.unacknowledged],
        [launch_id, subject, redis_keys.RQ_JOB_PREFIX, redis_keys.rq_scheduled(""), f"{now_s:.3f}", int(ledger_ttl_s)],
    )


def survey(keys: RedisKeys, *, fresh_epoch: str, launches: Iterable[tuple[str, int]]) -> ScriptCall:
    """Compare launches (id, attempt) with the ledger."""
    queues = (redis_keys.rq_queue(""), redis_keys.rq_scheduled(""), redis_keys.rq_started(""))
    args: list[str | int | float] = [keys.launch_prefix, redis_keys.RQ_JOB_PREFIX, fresh_epoch, *queues]
    for launch in launches:
        args += launch
    return ScriptCall("survey", [keys.epoch, keys.quarantine, keys.unacknowledged, keys.current], args)


def announce_scheduler(
    keys: RedisKeys, *, cluster: str, owner: str, cursor: str, launches: int, version: str
) -> ScriptCall:
    """Announce a scheduler for `status`. `cursor` is the last report that it has read, `launches` the number of its own."""
    fields = (f"{cluster} {owner}", cursor, f"{launches} {version}", keys.results)
    return ScriptCall("announce_scheduler", [keys.schedulers], fields)


# --- launcher -----------------------------------------------------------------------------------------------------
def claim(
    keys: RedisKeys,
    *,
    cluster: str,
    kind: str,
    queues: Sequence[str],
    most: int,
    low: int,
    lease_s: float,
    worker: str,
    execution_id: str,
    patience_s: float,
    probe_s: float,
    report_every_s: float,
) -> ScriptCall:
    """Lease jobs of these queues, the most urgent queue first; `low` of them from the lowest queue that has any."""
    return ScriptCall(
        "claim",
        [
            keys.throttle(cluster),
            keys.quarantine,
            keys.fair_queues(cluster),
            redis_keys.RQ_QUEUES,
        ],
        [
            most,
            low,
            lease_s,
            worker,
            execution_id,
            rq_time(time.time()),
            kind,
            keys.launch_prefix,
            redis_keys.RQ_JOB_PREFIX,
            redis_keys.rq_queue(""),
            redis_keys.rq_started(""),
            redis_keys.rq_scheduled(""),
            patience_s,
            probe_s,
            report_every_s,
            keys.current,
            redis_keys.RQ_SUSPENDED,
            *queues,
        ],
    )


def renew(keys: RedisKeys, *, lease_s: float, jobs: Iterable[HeldJob]) -> ScriptCall:
    """Renew leases."""
    args: list[str | int | float] = [lease_s, keys.launch_prefix, redis_keys.rq_started(""), keys.current]
    for job in jobs:
        args += job
    return ScriptCall("renew", [keys.quarantine], args)


def reap(
    keys: RedisKeys,
    *,
    cluster: str,
    queues: Sequence[str],
    worker: str,
    execution_id: str,
    lease_s: float,
    losses_max: int,
    most_per_queue: int,
) -> ScriptCall:
    """Requeue the jobs of expired leases."""
    return ScriptCall(
        "reap",
        [keys.quarantine, redis_keys.RQ_QUEUES, keys.fair_queues(cluster)],
        [
            worker,
            execution_id,
            lease_s,
            losses_max,
            most_per_queue,
            keys.launch_prefix,
            redis_keys.RQ_JOB_PREFIX,
            redis_keys.rq_queue(""),
            redis_keys.rq_started(""),
            keys.wake(cluster),
            redis_keys.FAIR_QUEUE_MARK,
            *queues,
        ],
    )


def finish(
    keys: RedisKeys,
    *,
    cluster: str,
    worker: str,
    spent_data: str,
    results_max: int,
    items: Sequence[Sequence[str | int]],
    finished_max: int = FINISHED_MAX,
) -> ScriptCall:
    """Write what became of jobs. An item is (what, job id, execution id, queue) and the arguments of that disposition."""
    return ScriptCall(
        "finish",
        [keys.results, redis_keys.RQ_QUEUES, keys.live(cluster)],
        [
            worker,
            rq_time(time.time()),
            keys.launch_prefix,
            redis_keys.RQ_JOB_PREFIX,
            redis_keys.rq_queue(""),
            redis_keys.rq_started(""),
            redis_keys.rq_scheduled(""),
            redis_keys.rq_finished(""),
            redis_keys.rq_failed(""),
            redis_keys.RQ_RESULTS_PREFIX,
            RESULT_TTL_S,
            FAILURE_TTL_S,
            finished_max,
            spent_data,
            results_max,
            keys.wake(cluster),
            # One argument for all items: redis-py packs arguments one by one, which would cost as much as the script.
            # An API server's texts may hold half of a surrogate pair. Lua's cjson refuses that, and with it all items.
            json.dumps(items, ensure_ascii=False).encode("utf-8", "replace").decode(),
        ],
    )


def throttle(
    keys: RedisKeys,
    *,
    cluster: str,
    event: ThrottleEvent,
    namespace: str = "",
    x: float = 0.0,
    y: float = 0.0,
    reason: str = "",
    message: str = "",
) -> ScriptCall:
    """Share an answer of the API server with all launchers of the cluster. The script's header explains x and y per event."""
    return ScriptCall(
        "throttle", [keys.throttle(cluster)], [keys.wake(cluster), event, namespace, x, y, reason, message]
    )


# --- watcher, and launchers that publish a failure ------------------------------------------------------------------
def publish(
    keys: RedisKeys,
    *,
    cluster: str,
    fence: Fence,
    launch_id: str,
    attempt: int,
    outcome: str,
    result: str,
    now: str,
    results_max: int,
    fields: Mapping[str, Any],
    not_genuine: str = "",
) -> ScriptCall:
    """Publish an encrypted report and write `fields` to the ledger. `now` is in seconds, as text.

    :param not_genuine: the report in the ledger that this one replaces.
    """
    args: list[str | int | float] = [*fence, launch_id, attempt, outcome, result, now, results_max, not_genuine]
    args += [keys.watch(cluster), *_flat(fields)]
    return ScriptCall("publish", [keys.launch(launch_id), keys.results, keys.unacknowledged], args)


def restore(
    keys: RedisKeys,
    *,
    cluster: str,
    fence: Fence,
    launch_id: str,
    attempt: int,
    created: str,
    fields: Mapping[str, str],
) -> ScriptCall:
    """Restore a ledger entry from its pod. `created` is the time of the pod's creation in seconds, as text."""
    return ScriptCall(
        "restore",
        [keys.launch(launch_id), keys.watch(cluster), keys.live(cluster)],
        [*fence, attempt, launch_id, created, *_flat(fields)],
    )


def live(keys: RedisKeys, *, cluster: str, cursor: str, count: int, before_s: float) -> ScriptCall:
    """Read some of the launches that should have a pod, created before this wall-clock time."""
    return ScriptCall("live", [keys.live(cluster)], [keys.launch_prefix, cursor, count, f"{before_s:.3f}"])


def lead(
    keys: RedisKeys,
    *,
    cluster: str,
    candidate: str,
    lease_s: float,
    fresh_epoch: str,
    known_epoch: str,
    fields: Mapping[str, str],
) -> ScriptCall:
    """Acquire or renew leadership, and write `fields` to the watch hash if this candidate leads."""
    args = [candidate, f"{lease_s:.3f}", fresh_epoch, "", known_epoch, *_flat(fields)]
    return ScriptCall("lead", [keys.watch(cluster), keys.epoch], args)


def resign(keys: RedisKeys, *, cluster: str, candidate: str, fresh_epoch: str) -> ScriptCall:
    """Give up leadership: `lead` with its leave argument."""
    return ScriptCall("lead", [keys.watch(cluster), keys.epoch], [candidate, "0", fresh_epoch, "leave", ""])


# --- every process, at its start ------------------------------------------------------------------------------------
def permissions(calls: Sequence[Sequence[str]]) -> ScriptCall:
    """Ask which of these commands the user may not run."""
    return ScriptCall("permissions", [], [json.dumps(calls)])


def _flat(fields: Mapping[str, Any]) -> list[str]:
    return [part for item in fields.items() for part in item]
