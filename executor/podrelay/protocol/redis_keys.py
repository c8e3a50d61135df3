"""Every key in Redis: podrelay's own and those of RQ that it reads or writes.

No other module spells a key. Each entry says who writes it and who reads it.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

# priority_weight -> queue, by powers of two: launch.p8 holds weights 8 to 15. A launcher takes from the highest
# queue first, so a higher weight overtakes a backlog; inside one queue the order of hand-over stays. While launches of one
# scheduler wait in a level's queue, those of another wait beside it in a queue of their own: launchers take in turn.
PRIORITY_LEVELS = 8
FAIR_QUEUE_MARK = ".by-"

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,40}")


def priority_level(priority_weight: int) -> int:
    """Which launch queue a weight belongs to: 0 (weights up to 1) to PRIORITY_LEVELS - 1."""
    return min(PRIORITY_LEVELS - 1, max(0, priority_weight.bit_length() - 1)) if priority_weight > 0 else 0


def fair_queue_mark(owner: str) -> str:
    """Behind the name of a level's queue it names one scheduler's fair queue, whatever text the owner is. Only ids of waiting
    launches stand in a fair queue: registries, and the origin of its jobs, are the level's.
    """
    return FAIR_QUEUE_MARK + (owner if _PLAIN.fullmatch(owner) else uuid.uuid5(uuid.NAMESPACE_OID, owner).hex)


@dataclass(frozen=True)
class RedisKeys:
    """The Redis names of one deployment: several deployments share one Redis without meeting."""

    deployment: str = "default"

    def key(self, name: str) -> str:
        return f"podrelay:{self.deployment}:{name}"

    # --- ours -----------------------------------------------------------------------------------------------------
    @property
    def launch_prefix(self) -> str:
        """+ launch id = the ledger: one hash per launch. Everyone writes it, by script only; everyone reads it.

        Fields: state, attempt, relaunches (attempts after a pod that died before its task began), cluster, owner (job id
        of the scheduler), subject, key (JSON of the workload key), kind, namespace, queue (RQ queue), pod, uid, node,
        launcher, reason, message, outcome and result (of the end; the result is sealed), started (1 once a container
        ran), wait and t_wait (what may become its end if it lasts, and since when), t_pending (when its wait was last
        told), and the wall-clock times t_offered, t_claimed, t_created, t_scheduled, t_started, t_finished, t_reported,
        t_acknowledged in seconds since the epoch.
        """
        return self.key("launch:")

    def launch(self, launch_id: str) -> str:
        return self.launch_prefix + launch_id

    def live(self, cluster: str) -> str:
        """Sorted set: launch id -> time of creation of each launch that has a pod. Launchers and the watcher's `restore`
        add; the leading watcher compares it with the pods, and takes out what is over by then. Executors sweep by it.
        """
        return self.key(f"live:{cluster}")

    @property
    def current(self) -> str:
        """Hash: subject (task instance id, callback id, connection test id) -> launch id. Executor writes, fence reads."""
        return self.key("current")

    @property
    def results(self) -> str:
        """Stream, one entry per outcome: launch, attempt, result (sealed). Watcher and launchers append; every scheduler
        reads all of it with a cursor of its own.
        """
        return self.key("results")

    @property
    def unacknowledged(self) -> str:
        """Sorted set: launch id -> time of its terminal result, or since when it is withdrawn with a pod that waits.
        Written with the result, the withdrawal or what the watcher sees; removed by the acknowledgement; read by
        executors for what dead schedulers and launchers left behind.
        """
        return self.key("unacknowledged")

    @property
    def quarantine(self) -> str:
        """Stream: what could not be trusted or read, and why. Everyone appends; operators read."""
        return self.key("quarantine")

    @property
    def epoch(self) -> str:
        """String: a random id set once per life of the data (SETNX). Executors and watchers notice a FLUSHALL by its loss."""
        return self.key("epoch")

    @property
    def check(self) -> str:
        """String that lives for seconds: `airflow podrelay check` tries with it whether Redis can be written to."""
        return self.key("check")

    def watch(self, cluster: str) -> str:
        """Hash: leader, fence (a number that grows with each change of leader), expires (by Redis' clock), version, t_listed,
        t_event, pods (that it knows), unsent (results that wait for Redis), trouble (why it is deaf, empty if it is not).
        The leading watcher writes; standbys and `status` read.
        """
        return self.key(f"watch:{cluster}")

    def throttle(self, cluster: str) -> str:
        """Hash: `until`, `reason` and `failures` (in a row) for the whole cluster; for one namespace's quota
        `until:<namespace>`, `reason:`, `message:`, `allow:` (how many may try), `probing:`, `window:` (the wait now) and
        `passed:` (since the last refusal). Launchers write and read; `status` reads.
        """
        return self.key(f"throttle:{cluster}")

    def fair_queues(self, cluster: str) -> str:
        """Hash: fair queue -> the level's queue beside which it stands; and level's queue -> the place in the row of the
        list that was last served. Executors add fair queues; launchers read them, count the turns, take out what is empty
        and add again what `rq:queues` knows better. `status` reads.
        """
        return self.key(f"fair_queues:{cluster}")

    def wake(self, cluster: str) -> str:
        """Pub/sub channel: a message says that a queue of this cluster has work. Executor publishes, launchers listen."""
        return self.key(f"wake:{cluster}")

    # --- RQ's, as rq-dashboard shows them -------------------------------------------------------------------------
    def launch_queue(self, cluster: str, level: int = 0) -> str:
        """RQ queue of launches: `podrelay.<deployment>.<cluster>.launch`, and `.p<lowest weight>` for higher levels."""
        name = f"podrelay.{self.deployment}.{cluster}.launch"
        return name if level == 0 else f"{name}.p{1 << level}"

    def launch_queues(self, cluster: str) -> list[str]:
        """All launch queues of a cluster, the most urgent first: the order in which launchers take from them."""
        return [self.launch_queue(cluster, level) for level in reversed(range(PRIORITY_LEVELS))]

    def cleanup_queue(self, cluster: str) -> str:
        """RQ queue of clean-up jobs: made by the executor's acknowledgement, served by launchers."""
        return f"podrelay.{self.deployment}.{cluster}.cleanup"


# Set of the keys of all RQ queues. Executors and launchers add; launchers take out fair queues that are empty.
RQ_QUEUES = "rq:queues"
RQ_JOB_PREFIX = "rq:job:"
# Set of worker keys, each RQ_WORKER_PREFIX + name: launchers register there; status and rq-dashboard read.
RQ_WORKERS = "rq:workers"
RQ_WORKER_PREFIX = "rq:worker:"
# Exists while an operator has suspended all workers (`rq suspend`); claims read.
RQ_SUSPENDED = "rq:suspended"
# + job id: RQ's stream of a job's results. Launchers write why a job failed; rq-dashboard reads.
RQ_RESULTS_PREFIX = "rq:results:"


def rq_queue(name: str) -> str:
    """List of job ids."""
    return f"rq:queue:{name}"


def rq_started(name: str) -> str:
    """StartedJobRegistry: sorted set of `<job id>:<execution id>` by the end of the lease."""
    return f"rq:wip:{name}"


def rq_scheduled(name: str) -> str:
    """ScheduledJobRegistry: launches that wait for quota or for the API server, by the time of the next try."""
    return f"rq:scheduled:{name}"


def rq_finished(name: str) -> str:
    return f"rq:finished:{name}"


def rq_failed(name: str) -> str:
    return f"rq:failed:{name}"
