"""Warm pods in Redis without a cluster: launches, leases, pods that only know their mailbox, and any number of launchers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import redis
from cryptography.fernet import Fernet

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.mailbox import ALIVE_TTL_S, Delivery, MailboxKey
from podrelay.protocol.messages import WarmPod
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import connect_async
from podrelay.store.scripts import Fence, HeldJob, OfferedLaunch
from podrelay.store.warm_pool import Assignment, PoolState, WarmPool
from tests.harness.lua import evaluate

KEYS = RedisKeys("default")
CLUSTER = "default"
QUEUE = KEYS.launch_queue(CLUSTER)
LEASES = redis_keys.rq_started(QUEUE)
SHAPE, OTHER_SHAPE = "a" * 16, "b" * 16
WATCHER = Fence("watcher", "7")
FERNET_KEY = Fernet.generate_key().decode()

_Result = TypeVar("_Result")


class WarmRig:
    """One Redis, in which warm pods live. Everything blocks."""

    def __init__(self, url: str, *, as_user: str = "", cipher: PayloadCipher | None = None) -> None:
        """:param as_user: the URL for the launchers, if they are another user than the one of `url`."""
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self.cipher = cipher or PayloadCipher(FERNET_KEY, KEYS.deployment)
        self._loop = asyncio.new_event_loop()
        self._client = connect_async(Settings(redis_url=as_user or url, fernet_key=FERNET_KEY))
        self.pool = self.launcher("a")
        self.redis.hset(KEYS.watch(CLUSTER), mapping={"leader": WATCHER.leader, "fence": WATCHER.number})

    def close(self) -> None:
        self.call(self._client.aclose())
        self._loop.close()
        self.redis.close()

    def call(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._loop.run_until_complete(coroutine)

    def launcher(self, name: str, cluster: str = CLUSTER, cipher: PayloadCipher | None = None) -> WarmPool:
        return WarmPool(AsyncScripts(self._client), KEYS, cipher or self.cipher, cluster, name)

    # --- launches -----------------------------------------------------------------------------------------------------
    def offer(self, launch_id: str = "", attempt: int = 0) -> str:
        """Offer a launch, or another attempt of it, and return its id."""
        launch_id = launch_id or identifiers.new_launch_id()
        job_id = identifiers.job_id(launch_id, attempt)
        item = OfferedLaunch(launch_id, attempt, job_id, f"s-{launch_id}", QUEUE, "data", "text", "[]", "task", "n", 0)
        call = scripts.offer(KEYS, cluster=CLUSTER, owner="o", now_s=time.time(), ledger_ttl_s=60.0, launches=[item])
        evaluate(self.redis, call)
        return launch_id

    def claim(self) -> HeldJob:
        """Lease the next launch."""
        execution = uuid.uuid4().hex
        job_id, queue, *_ = self.claim_row(execution)
        return HeldJob(job_id, execution, queue, "launch")

    def claim_row(self, execution: str) -> list[str]:
        """Lease the next launch: what `claim` answers of it."""
        call = scripts.claim(
            KEYS, cluster=CLUSTER, kind="launch", queues=[QUEUE], most=1, low=0, lease_s=60.0, worker="w",
            execution_id=execution, patience_s=0.0, probe_s=1.0, report_every_s=60.0,
        )  # fmt: skip
        jobs: list[str] = evaluate(self.redis, call)[5]
        assert len(jobs) == 12, "one job can be claimed"
        return jobs

    def offered_job(self) -> HeldJob:
        """A new launch that is leased."""
        self.offer()
        return self.claim()

    def lose(self, job: HeldJob) -> HeldJob:
        """The launcher of this job stops; another one leases the job."""
        assert self.reap(job)[0] == 1
        return self.claim()

    def reap(self, job: HeldJob, losses_max: int = 10) -> tuple[int, list[str]]:
        """The lease of this job ends: how many jobs are requeued, and those that lost too many launchers."""
        self.redis.zadd(LEASES, {f"{job.job_id}:{job.execution_id}": 1.0})
        call = scripts.reap(
            KEYS, cluster=CLUSTER, queues=[QUEUE], worker="w", execution_id="e", lease_s=6.0, losses_max=losses_max,
            most_per_queue=10,
        )  # fmt: skip
        requeued, crashed = evaluate(self.redis, call)
        return requeued, crashed

    def withdraw(self, job: HeldJob) -> None:
        launch_id = launch_of(job)
        call = scripts.withdraw(
            KEYS, launch_id=launch_id, subject=f"s-{launch_id}", now_s=time.time(), ledger_ttl_s=60.0
        )
        evaluate(self.redis, call)

    def created(self, job: HeldJob, pod: str) -> str:
        """The job's launch has this pod: what `finish` answers."""
        return self._finish("created", job, pod, "n", "uid", f"{time.time():.6f}")

    def give_up(self, job: HeldJob) -> str:
        """The launcher stopped during a request, whose effect is unknown."""
        return self._finish("wait", job, "0", "Interrupted", "", "", 1)

    def _finish(self, what: str, job: HeldJob, *args: str | int) -> str:
        items = [[what, job.job_id, job.execution_id, job.queue, *args]]
        call = scripts.finish(KEYS, cluster=CLUSTER, worker="w", spent_data="", results_max=100, items=items)
        return str(evaluate(self.redis, call)[0])

    def publish(self, job: HeldJob, outcome: str, pod: str, *, fence: Fence = WATCHER, attempt: int = 0) -> Any:
        """What the watcher, or unfenced a launcher, reports about a pod."""
        call = scripts.publish(
            KEYS, cluster=CLUSTER, fence=fence, launch_id=launch_of(job), attempt=attempt, outcome=outcome,
            result=f"report of {pod}", now=f"{time.time():.3f}", results_max=100,
            fields={"pod": pod, "namespace": "n", "result_key": "k"},
        )  # fmt: skip
        return evaluate(self.redis, call)

    def restore(self, job: HeldJob, pod: str) -> Any:
        call = scripts.restore(
            KEYS,
            cluster=CLUSTER,
            fence=WATCHER,
            launch_id=launch_of(job),
            attempt=0,
            created="1.0",
            fields={"pod": pod},
        )
        return evaluate(self.redis, call)

    def ledger(self, job: HeldJob) -> dict[str, str]:
        return dict(self.redis.hgetall(KEYS.launch(launch_of(job))))

    def state(self, job: HeldJob) -> str:
        return self.ledger(job).get("state", "")

    def lose_all_data(self) -> None:
        """FLUSHALL; the watcher leads on."""
        self.redis.flushall()
        self.redis.hset(KEYS.watch(CLUSTER), mapping={"leader": WATCHER.leader, "fence": WATCHER.number})

    # --- the pool -----------------------------------------------------------------------------------------------------
    def keep(self, launcher: WarmPool | None = None) -> PoolState:
        found = self.call((launcher or self.pool).keep(60.0, 10))
        assert found is not None
        return found

    def save_shape(self, shape: str = SHAPE) -> None:
        assert self.call(self.pool.save_shape(shape, {"spec": {}}))

    def starting_pod(self, shape: str = SHAPE, **changes: Any) -> WarmPod:
        """A pod in the pool that is not ready yet."""
        pod = new_pod(shape, **changes)
        assert self.call(self.pool.add(pod))
        return pod

    def idle_pod(self, shape: str = SHAPE) -> WarmPod:
        """A pod that a launch can get."""
        self.save_shape(shape)
        pod = self.starting_pod(shape)
        self.renew(pod)
        self.keep()
        return pod

    def assign(self, job: HeldJob, shape: str = SHAPE, *, why: str = "", idle_s: float = 300.0) -> Assignment:
        return self.call(self.pool.assign(job, shape, idle_s=idle_s, why=why))

    def assigned(self) -> tuple[HeldJob, WarmPod]:
        """A launch, and the warm pod that it has."""
        pod, job = self.idle_pod(), self.offered_job()
        found = self.assign(job)
        assert (found.word, found.pod) == ("assigned", pod)
        return job, pod

    def delivered(self) -> tuple[HeldJob, WarmPod]:
        job, pod = self.assigned()
        assert self.deliver(job, pod) == "delivered"
        return job, pod

    def deliver(self, job: HeldJob, pod: WarmPod) -> str:
        delivery = Delivery(launch_of(job), 0, '{"token": "t"}')
        return self.call(self.pool.deliver(job, pod, MailboxKey.from_text(pod.key).seal(delivery)))

    def take_back(self, job: HeldJob, pod: WarmPod) -> str:
        return self.call(self.pool.take_back(job, pod))

    def taken(self, *pods: WarmPod) -> list[bool]:
        return self.call(self.pool.taken(pods))

    # --- pods, which have plain commands and their own mailbox --------------------------------------------------------
    def renew(self, pod: WarmPod) -> None:
        self.redis.set(KEYS.mailbox_alive(mailbox(pod)), "1", ex=int(ALIVE_TTL_S))

    def stop(self, pod: WarmPod) -> None:
        """The pod gives no sign of life any more."""
        self.redis.delete(KEYS.mailbox_alive(mailbox(pod)))

    def take(self, pod: WarmPod) -> Delivery | None:
        """The pod looks into its mailbox, and takes what is there."""
        name = mailbox(pod)
        item = self.redis.lmove(KEYS.mailbox_in(name), KEYS.mailbox_taken(name), "LEFT", "RIGHT")
        return MailboxKey.from_text(pod.key).open(item) if item else None

    def takers(self, pods: Sequence[WarmPod], job: HeldJob) -> list[str]:
        """Which pods get the workload of this launch if all of them look now, or have it already."""
        for pod in pods:
            self.take(pod)
        found = []
        for pod in pods:
            for item in self.redis.lrange(KEYS.mailbox_taken(mailbox(pod)), 0, -1):
                if MailboxKey.from_text(pod.key).open(item).launch_id == launch_of(job):
                    found.append(pod.pod)
        return found


def new_pod(shape: str = SHAPE, **changes: Any) -> WarmPod:
    warm_id = identifiers.new_warm_id()
    values: dict[str, Any] = {
        "warm_id": warm_id, "shape": shape, "namespace": "n", "pod": identifiers.warm_pod_name("etl", warm_id),
        "uid": str(uuid.uuid4()), "key": MailboxKey.generate().text, "created_s": time.time(), "cluster": CLUSTER,
    }  # fmt: skip
    return WarmPod(**{**values, **changes})


def launch_of(job: HeldJob) -> str:
    return identifiers.launch_of_job(job.job_id)


def mailbox(pod: WarmPod) -> str:
    return MailboxKey.from_text(pod.key).name
