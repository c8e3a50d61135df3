"""Every Redis key: podrelay's own, and those of RQ that it uses. Pure. No other module spells a key.

Each entry documents type, contents, writers, readers, and what bounds it. docs/architecture.md has them in one table.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

# priority_weight -> queue, by powers of two: launch.p8 holds weights 8 to 15. A launcher takes from the highest queue first,
# so a higher weight overtakes a backlog; within a queue the order of the offers stays. While launches of one scheduler wait
# in a level's queue, those of another wait in a fair queue of their own: launchers serve them round robin.
PRIORITY_LEVELS = 8
FAIR_QUEUE_MARK = ".by-"

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,40}")


def priority_level(priority_weight: int) -> int:
    """The launch queue of a weight: 0 (weights up to 1) to PRIORITY_LEVELS - 1."""
    return min(PRIORITY_LEVELS - 1, max(0, priority_weight.bit_length() - 1)) if priority_weight > 0 else 0


def fair_queue_mark(owner: str) -> str:
    """The suffix that turns the name of a level's queue into an owner's fair queue, whatever text the owner is. A fair queue
    only lists ids of waiting launches: registries, and the origin of its jobs, are those of the level's queue.
    """
    return FAIR_QUEUE_MARK + (owner if _PLAIN.fullmatch(owner) else uuid.uuid5(uuid.NAMESPACE_OID, owner).hex)


@dataclass(frozen=True)
class RedisKeys:
    """The Redis keys of one deployment: several deployments can share one Redis."""

    deployment: str = "default"

    def key(self, name: str) -> str:
        return f"podrelay:{self.deployment}:{name}"

    # --- podrelay's ---------------------------------------------------------------------------------------------------
    @property
    def launch_prefix(self) -> str:
        """+ launch id = the ledger, one hash per launch.

        Written by scripts only, for every process; read by everyone. Bounded: `[podrelay] ledger_ttl_s` after the
        acknowledgement or withdrawal.

        Fields: state, attempt, relaunches (attempts after a pod that died before its task began), cluster, owner (job id
        of the scheduler), subject, key (JSON of the workload key), kind, namespace, queue (RQ queue), pod, uid, node,
        launcher and lease (of the last claim), reason, message, outcome, failure_class and result (of the end; the result is
        encrypted), result_key (fingerprint of the key that encrypted it), started (1 once a container ran), wait and t_wait
        (a wait that may become the end, and its start), t_pending (when a wait was last reported), and the wall-clock times
        t_offered, t_claimed, t_created, t_scheduled, t_started, t_finished, t_reported, t_acknowledged in seconds since the
        epoch. By Redis' clock, t_attempt is when this attempt was offered; clock_skew is how far that clock was ahead of the
        owner's then.
        With warm pods: start (warm, or why the launch is cold), warm_pod and warm_id (the pod that the launch has),
        warm_record (that pod, encrypted), delivered (1: the workload is or was in its mailbox), condemned (a pod that the
        launch had, and that will never get the workload), warm_attempt (the attempt that these are about).
        """
        return self.key("launch:")

    def launch(self, launch_id: str) -> str:
        return self.launch_prefix + launch_id

    def live(self, cluster: str) -> str:
        """Sorted set: launch id -> creation time of its pod.

        Written by launchers (`finish`) and the leading watcher (`restore`); read by the leading watcher, which compares it
        with the pods, and by executors, which collect orphans. Bounded: the watcher removes launches that are over.
        """
        return self.key(f"live:{cluster}")

    @property
    def current(self) -> str:
        """Hash: subject (id of a task instance, callback or connection test) -> launch id.

        Written by executors; read by the launchers' fence. Bounded: removed with the acknowledgement or withdrawal.
        """
        return self.key("current")

    @property
    def results(self) -> str:
        """Stream of pod reports: launch, attempt, outcome, result (encrypted), failure_class of a failure, and first_run in
        the first report that says that a container ran.

        Written by the leading watcher and by launchers; read by every scheduler, with its own cursor. Bounded: trimmed to
        about `[podrelay] results_max_length` entries.
        """
        return self.key("results")

    @property
    def unacknowledged(self) -> str:
        """Sorted set: launch id -> time of its result, or of its withdrawal if its pod waits.

        Written with the result, by a withdrawal, and by the watcher for a withdrawn pod; read by executors, which process
        what dead schedulers and launchers left behind. Bounded: removed with the acknowledgement.
        """
        return self.key("unacknowledged")

    @property
    def quarantine(self) -> str:
        """Stream of what could not be trusted or read: job, launch or stream_entry, and why.

        Written by every process (`store.quarantine`, prelude.lua); read by operators. Bounded: about 10,000 entries.
        """
        return self.key("quarantine")

    @property
    def epoch(self) -> str:
        """String: a random id, set once per life of Redis' data (SET NX).

        Written by the first executor or watcher; read by both, which detect a loss of data by its change. Deleted by any
        script that deletes a key of another type (prelude.lua), which is such a loss.
        """
        return self.key("epoch")

    @property
    def check(self) -> str:
        """String, written and read by `airflow podrelay check` to test write access. Bounded: expires within seconds."""
        return self.key("check")

    @property
    def key_rings(self) -> str:
        """Hash: process -> fingerprints of its Fernet keys and the time of the announcement. Never a key.

        Written by every process every few seconds (`announce`); read by every process, `status` and `check`. Bounded:
        an announcement is removed after 30 s, the whole key expires after an hour.
        """
        return self.key("key_rings")

    @property
    def schedulers(self) -> str:
        """Hash: cluster and job id of a scheduler -> time of the announcement, unread reports, launches, version.

        Written by every scheduler every few seconds (`announce_scheduler`); read by the leading watcher, `status`. Bounded:
        an announcement is removed after two minutes, the whole key expires after an hour.
        """
        return self.key("schedulers")

    def watch(self, cluster: str) -> str:
        """Hash: leader, fence (a number that grows with each change of leader), expires (by Redis' clock), version, t_listed,
        t_event, pods (number of known pods), unsent (reports that wait for Redis), trouble (why it does not observe pods),
        podrelay (JSON of `snapshots.WatcherSnapshot`).

        Written by the leading watcher; read by standbys and `status`. One per cluster, with a fixed set of fields.
        """
        return self.key(f"watch:{cluster}")

    def rollups(self, cluster: str) -> str:
        """Hash: start of five minutes, in seconds since the epoch -> counts of what happened to launches then
        (`podrelay.protocol.rollups`); and cursor, the last entry of the results stream that is counted.

        Written by the leading watcher; read by the next one and by the page in Airflow's UI. Bounded: 24 hours, at most
        1.2 MB.
        """
        return self.key(f"rollups:{cluster}")

    def log_requests(self, cluster: str) -> str:
        """List of encrypted pod reports: pods that ended well, whose log a scheduler wants to see.

        Written by executors; taken by the leading watcher. Bounded: 200 entries, expires 30 s after the last one.
        """
        return self.key(f"log_requests:{cluster}")

    def throttle(self, cluster: str) -> str:
        """Hash: `until`, `reason` and `failures` (in a row) for the whole cluster; per namespace with an exhausted quota
        `until:<namespace>`, `reason:`, `message:`, `allow:` (how many may try), `probing:`, `window:` (the present wait) and
        `passed:` (since the last refusal); per namespace with refused clean-ups `cleanup:<namespace>` (the message) and
        `cleanup_at:`.

        Written and read by launchers; read by `status`. Bounded: expires an hour after the last write.
        """
        return self.key(f"throttle:{cluster}")

    def fair_queues(self, cluster: str) -> str:
        """Hash: fair queue -> its level's queue; and level's queue -> the place in its rotation that was served last.

        Written by executors (new fair queues) and launchers (rotation, removal of empty fair queues, and recovery from
        `rq:queues`); read by launchers and `status`. Bounded: claims remove empty fair queues.
        """
        return self.key(f"fair_queues:{cluster}")

    def warm_pods(self, cluster: str) -> str:
        """Hash: warm id -> shape, mailbox, time of the addition, pod name, and the pod (`messages.WarmPod`), encrypted. These
        are the pods that no launch has.

        Written and read by launchers. Bounded: 12,000 pods; expires a day after the last keeper's lease.
        """
        return self.key(f"warm_pods:{cluster}")

    def warm_idle(self, cluster: str, shape: str) -> str:
        """Sorted set: warm id -> when it was first seen ready. The pods of the pool that a launch can get; those that
        a launch found without a sign of life have a negative time.

        Written and read by launchers. Bounded: as the pool; expires a day after the last pod became ready.
        """
        return self.key(f"warm_idle:{cluster}:{shape}")

    def warm_shapes(self, cluster: str) -> str:
        """Hash: shape -> the pod that its launches have in common (`messages.WarmShape`), encrypted.

        Written and read by launchers. Bounded: 64 shapes; expires as the pool.
        """
        return self.key(f"warm_shapes:{cluster}")

    def warm_arrivals(self, cluster: str) -> str:
        """Sorted set: `<shape>:<job id>` -> when a launch of this shape looked for a pod.

        Written and read by launchers. Bounded: five minutes, 10,000 launches.
        """
        return self.key(f"warm_arrivals:{cluster}")

    def warm_state(self, cluster: str) -> str:
        """Hash: keeper, expires (its lease), most (how many pods it keeps at most), and per shape `<shape> hits`, `misses`,
        `idle`, `starting`, `ready_s` (until a pod is ready), `seen` (the last launch), `off_until` and `off_why`.

        Written by launchers; read by launchers and `status`. Bounded: by the shapes; expires as the pool.
        """
        return self.key(f"warm_state:{cluster}")

    def mailbox_alive(self, mailbox: str) -> str:
        """String: exists while a warm pod waits. Written by the pod, read by launchers. Bounded: expires after 4 s."""
        return self.key(f"mailbox:{mailbox}:alive")

    def mailbox_waiting(self, mailbox: str) -> str:
        """String: gone while the warm pod waits: Redis lost its data. Of the pod alone. Bounded: expires after 10 minutes."""
        return self.key(f"mailbox:{mailbox}:waiting")

    def mailbox_in(self, mailbox: str) -> str:
        """List: the workload for a warm pod, encrypted with the pod's own key. Written by launchers; the pod moves it to
        `mailbox_taken`, and so has it. Bounded: one, expires after 10 minutes.
        """
        return self.key(f"mailbox:{mailbox}:in")

    def mailbox_taken(self, mailbox: str) -> str:
        """List: what a warm pod has taken. Written by the pod, read by launchers. Bounded: one, expires after 10 minutes."""
        return self.key(f"mailbox:{mailbox}:taken")

    @property
    def mailbox_prefix(self) -> str:
        """What the keys of all mailboxes begin with."""
        return self.key("mailbox:")

    def wake(self, cluster: str) -> str:
        """Pub/sub channel: a message means that a queue of this cluster has work. Executors and scripts publish, launchers
        subscribe. Stores nothing.
        """
        return self.key(f"wake:{cluster}")

    def drain(self, cluster: str, launcher: str) -> str:
        """String: what `airflow podrelay drain` orders one launcher to do (`protocol.orders`).

        Written by operators; read by that launcher. Bounded: expires after a minute, and names of launchers are unique.
        """
        return self.key(f"drain:{cluster}:{launcher}")

    @property
    def never_written(self) -> str:
        """+ nothing: pattern of the keys that scripts delete although they never exist (`run_when_full` in prelude.lua)."""
        return self.key("*:none")

    # --- RQ's, as rq-dashboard shows them -----------------------------------------------------------------------------
    @property
    def queue_prefix(self) -> str:
        """What the names of this deployment's RQ queues and workers begin with. No other deployment's begin with it."""
        return f"podrelay.{self.deployment}."

    def launch_queue(self, cluster: str, level: int = 0) -> str:
        """RQ queue of launches: `podrelay.<deployment>.<cluster>.launch`, and `.p<lowest weight>` for higher levels.

        Written by executors, and by launchers that requeue; read by launchers. Bounded: by the launches that wait.
        """
        name = f"{self.queue_prefix}{cluster}.launch"
        return name if level == 0 else f"{name}.p{1 << level}"

    def launch_queues(self, cluster: str) -> list[str]:
        """All launch queues of a cluster, the most urgent first: the order in which launchers serve them."""
        return [self.launch_queue(cluster, level) for level in reversed(range(PRIORITY_LEVELS))]

    def cleanup_queue(self, cluster: str) -> str:
        """RQ queue of clean-up jobs.

        Written by the executor's acknowledgement, and by launchers for a pod that is not wanted any more; read by launchers.
        Bounded: one job per pod and action.
        """
        return f"{self.queue_prefix}{cluster}.cleanup"

    def worker(self, cluster: str, launcher: str) -> str:
        """Hash: a launcher's registration as an RQ worker; its field podrelay is JSON of `snapshots.LauncherSnapshot`.

        Written by the launcher; read by executors, `status` and rq-dashboard. Bounded: expires 60 s after its last renewal.
        """
        return RQ_WORKER_PREFIX + self.worker_name(cluster, launcher)

    def worker_name(self, cluster: str, launcher: str) -> str:
        """The name of a launcher among all RQ workers of a Redis."""
        return f"{self.queue_prefix}{cluster}.{launcher}"


# Set: the keys of all RQ queues. Executors and launchers add; launchers remove empty fair queues; rq-dashboard reads.
RQ_QUEUES = "rq:queues"
# + job id: hash, one RQ job. Executors write, launchers write and read, rq-dashboard reads. Bounded: expires 10 minutes
# after success, or a day after a failure; at most 10,000 finished, and 10,000 failed, jobs per queue.
RQ_JOB_PREFIX = "rq:job:"
# Set: worker keys, each RQ_WORKER_PREFIX + name. Launchers register; rq-dashboard reads. RQ removes expired ones.
RQ_WORKERS = "rq:workers"
# + name: hash, the registration of an RQ worker (`RedisKeys.worker`), and its set of executions, which stays empty.
RQ_WORKER_PREFIX = "rq:worker:"
# + a random id: list, RQ's copy of a queue while rq-dashboard compacts it.
RQ_COMPACTED_PREFIX = "rq:queue:_compact:"
# + job id: a sorted set of the executions of one job; + job id and execution id: a hash. podrelay never uses them; RQ deletes
# them with the job.
RQ_EXECUTIONS_PREFIX = "rq:executions:"
RQ_EXECUTION_PREFIX = "rq:execution:"
# String: exists while an operator has suspended all workers (`rq suspend`). Claims read it.
RQ_SUSPENDED = "rq:suspended"
# + job id: RQ's stream of a job's results. Launchers write a job's error; rq-dashboard reads. Expires with the job.
RQ_RESULTS_PREFIX = "rq:results:"


def rq_queue(name: str) -> str:
    """List: the ids of waiting jobs."""
    return f"rq:queue:{name}"


def rq_workers(name: str) -> str:
    """Set: the keys of the workers of one queue. Launchers register; executors and `status` read."""
    return f"{RQ_WORKERS}:{name}"


def rq_started(name: str) -> str:
    """StartedJobRegistry, a sorted set: `<job id>:<execution id>` -> end of the lease."""
    return f"rq:wip:{name}"


def rq_scheduled(name: str) -> str:
    """ScheduledJobRegistry, a sorted set: launches that wait for quota or for the API server -> time of the next try."""
    return f"rq:scheduled:{name}"


def rq_finished(name: str) -> str:
    """FinishedJobRegistry, a sorted set: job id -> expiry. Trimmed to 10,000 entries."""
    return f"rq:finished:{name}"


def rq_failed(name: str) -> str:
    """FailedJobRegistry, a sorted set: job id -> expiry. Trimmed to 10,000 entries."""
    return f"rq:failed:{name}"


def rq_deferred(name: str) -> str:
    """DeferredJobRegistry, a sorted set that podrelay never uses; rq-dashboard counts it."""
    return f"rq:deferred:{name}"


def rq_canceled(name: str) -> str:
    """CanceledJobRegistry, a sorted set that podrelay never uses; rq-dashboard counts it."""
    return f"rq:canceled:{name}"
