"""One builder per Lua script about warm pods, as `scripts` has them for the others. Used by `warm_pool` only."""

from __future__ import annotations

from typing import Literal

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.mailbox import MAILBOX_TTL_S
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.retention import (
    WARM_ARRIVALS_MOST,
    WARM_ARRIVALS_S,
    WARM_PODS_MOST,
    WARM_POOL_TTL_S,
    WARM_SHAPES_MOST,
)
from podrelay.protocol.sizes import WARM_SHAPE_MAX, encrypted
from podrelay.store.script_table import ScriptCall
from podrelay.store.scripts import HeldJob

PoolChange = Literal["add", "read", "remove", "save", "load", "forget", "off", "leave"]


def assign(keys: RedisKeys, *, cluster: str, job: HeldJob, shape: str, why: str, given_for_s: float) -> ScriptCall:
    """Give the launch of a job a pod that has been ready for at most `given_for_s`; with `why`, none."""
    launch_id, fence = _fence(keys, job)
    return ScriptCall(
        "assign",
        [
            keys.launch(launch_id),
            keys.warm_pods(cluster),
            keys.warm_idle(cluster, shape),
            keys.warm_arrivals(cluster),
            keys.warm_state(cluster),
        ],
        [
            *fence,
            shape,
            why,
            f"{given_for_s:.3f}",
            keys.warm_shapes(cluster),
            keys.mailbox_prefix,
            redis_keys.RQ_JOB_PREFIX + job.job_id,
            WARM_ARRIVALS_S,
            WARM_ARRIVALS_MOST,
        ],
    )


def deliver(keys: RedisKeys, *, job: HeldJob, warm_id: str, mailbox: str, sealed: str) -> ScriptCall:
    """Put the sealed workload of a job's launch into the mailbox of its pod."""
    launch_id, fence = _fence(keys, job)
    written = [keys.launch(launch_id), keys.mailbox_in(mailbox)]
    return ScriptCall("deliver", written, [*fence, warm_id, sealed, MAILBOX_TTL_S])


def take_back(keys: RedisKeys, *, job: HeldJob, warm_id: str, mailbox: str, pod: str, record: str = "") -> ScriptCall:
    """Condemn the pod of a job's launch.

    :param record: what the ledger then holds as the record of the pod; empty: what it held before.
    """
    launch_id, fence = _fence(keys, job)
    written = [keys.launch(launch_id), keys.mailbox_in(mailbox), keys.mailbox_taken(mailbox)]
    return ScriptCall("take_back", written, [*fence, warm_id, pod, record])


def _fence(keys: RedisKeys, job: HeldJob) -> tuple[str, tuple[str | int, ...]]:
    """Launch id, and the arguments by which a script knows whether the caller may go on with the launch."""
    launch_id, attempt = identifiers.parse_job_id(job.job_id) or ("", 0)
    lease = f"{job.job_id}:{job.execution_id}"
    return launch_id, (launch_id, attempt, redis_keys.rq_started(job.queue), lease, keys.current)


def keep_warm(keys: RedisKeys, *, cluster: str, keeper: str, lease_s: float, most: int) -> ScriptCall:
    """Acquire or renew the keeper's lease, and read the pool."""
    written = (keys.warm_state, keys.warm_pods, keys.warm_shapes, keys.warm_arrivals)
    return ScriptCall(
        "keep_warm",
        [key(cluster) for key in written],
        [
            keeper,
            f"{lease_s:.3f}",
            most,
            keys.mailbox_prefix,
            keys.warm_idle(cluster, ""),
            WARM_PODS_MOST,
            WARM_SHAPES_MOST,
            WARM_ARRIVALS_S,
            WARM_ARRIVALS_MOST,
            WARM_POOL_TTL_S,
        ],
    )


def warm_pool(keys: RedisKeys, *, cluster: str, what: PoolChange, args: list[str | int | float]) -> ScriptCall:
    """Change the pool, or read from it. The script's header explains the arguments of each change."""
    limits = (WARM_PODS_MOST, WARM_SHAPES_MOST, encrypted(WARM_SHAPE_MAX))
    return ScriptCall(
        "warm_pool",
        [keys.warm_pods(cluster), keys.warm_shapes(cluster), keys.warm_state(cluster)],
        [what, keys.warm_idle(cluster, ""), *limits, *args],
    )
