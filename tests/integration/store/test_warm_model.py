"""Random orders of what two launchers, three warm pods, the watcher, an operator and a loss of data do to one launch.

The launchers follow the protocol of warm pods step by step, and each of their steps may be the last before anything else: the
end of their lease, which they do not notice, included. The cluster is a dictionary. Whatever the order: at most one pod ever
gets the workload of the attempt, and a pod that the keeper may delete has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.messages import WarmPod
from podrelay.store.scripts import UNFENCED, HeldJob
from tests.harness.warm_rig import KEYS, LEASES, QUEUE, SHAPE, WarmRig, launch_of

Step = Iterator[None]


@dataclass
class ClusterPod:
    """A pod in Kubernetes. `launch`: it has the labels of the launch."""

    warm: WarmPod | None
    launch: bool = False
    exists: bool = True
    ended: bool = False
    revoked: bool = False


@dataclass
class World:
    """One launch, and all that can happen to it."""

    rig: WarmRig
    pods: dict[str, ClusterPod] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)  # who had the workload
    repeated: bool = False  # offered again after a loss of data
    withdrawn: bool = False
    interrupted: bool = False
    over: bool = False  # the end of the attempt was published
    ran_in_time: int = 0
    launch_id: str = ""

    def begin(self) -> None:
        self.launch_id = self.rig.offer()
        for _ in range(3):
            pod = self.rig.idle_pod()
            self.pods[pod.pod] = ClusterPod(pod)

    @property
    def cold_name(self) -> str:
        return identifiers.pod_name("etl", self.launch_id, 0)

    # --- a launcher ---------------------------------------------------------------------------------------------------
    def launcher(self, on: bool) -> Step:
        """Claims the job and brings it to its end, again and again; a yield is where anything else may happen.

        :param on: whether its warm pods are on.
        """
        while True:
            yield
            if not self.rig.redis.exists(redis_keys.rq_queue(QUEUE), redis_keys.rq_scheduled(QUEUE)):
                continue
            job = self.claim()
            if job is not None:
                yield from self.launch(job, on)

    def claim(self) -> HeldJob | None:
        try:
            return self.rig.claim()
        except AssertionError:  # it was dropped
            return None

    def launch(self, job: HeldJob, on: bool) -> Step:
        warm = self.rig.ledger(job).get("warm_pod")
        if self.repeated:  # before anything else: Redis forgot what was done
            yield
            found = [name for name, pod in self.pods.items() if pod.launch and pod.exists and not pod.revoked]
            yield
            if found:
                self.finish(job, found[0])
                return
            answer = self.rig.assign(job, "", why="not_eligible")
        elif on or warm:
            yield
            answer = self.rig.assign(job, SHAPE if on else "", why="" if on else "pool_off")
        else:
            yield from self.create_cold(job)
            return
        if answer.word in ("assigned", "again") and answer.pod is not None:
            yield from self.use(job, answer.pod)
        elif answer.word == "condemned":
            yield from self.retire(job, answer.pod)
        elif answer.word == "cold":
            yield from self.create_cold(job)

    def use(self, job: HeldJob, warm: WarmPod) -> Step:
        pod = self.pods[warm.pod]
        if not self.holds(job):  # the guard before each request
            return
        yield  # the request is on its way
        if not pod.exists or pod.revoked:
            yield from self.take_back(job, warm)
            return
        pod.launch = True
        yield
        answer = self.rig.deliver(job, warm)
        if answer == "delivered":
            for _ in range(2):
                yield
                if self.rig.taken(warm) == [True]:
                    self.finish(job, warm.pod)
                    return
        if answer in ("delivered", "unwanted"):
            yield
            yield from self.take_back(job, warm)
        elif answer == "condemned":
            yield from self.retire(job, warm)

    def take_back(self, job: HeldJob, warm: WarmPod) -> Step:
        answer = self.rig.take_back(job, warm)
        yield
        if answer == "taken_back":
            yield from self.retire(job, warm)
        elif answer in ("taken", "unknown"):
            self.finish(job, warm.pod)

    def retire(self, job: HeldJob, warm: WarmPod | None) -> Step:
        """Delete the condemned pod first; the label keeps its end from being reported."""
        assert warm is not None
        if not self.holds(job):
            return
        yield
        pod = self.pods[warm.pod]
        pod.revoked = True
        pod.exists = False
        pod.ended = True
        assert warm.pod not in self.ran, "a pod that has the workload is deleted"
        yield
        if not self.withdrawn:
            yield from self.create_cold(job)

    def create_cold(self, job: HeldJob) -> Step:
        if not self.holds(job):
            return
        yield  # the request is on its way
        if self.cold_name not in self.pods:
            self.pods[self.cold_name] = ClusterPod(None, launch=True)
            self.ran.add(self.cold_name)
        yield
        self.finish(job, self.cold_name)

    def finish(self, job: HeldJob, name: str) -> None:
        if self.interrupted:  # Redis failed, and the pod exists
            self.interrupted = False
            self.rig.give_up(job)
            return
        if self.pods[name].warm is not None and not self.repeated:
            self.rig.publish(job, "started", name, fence=UNFENCED)
        self.rig.created(job, name)

    def holds(self, job: HeldJob) -> bool:
        return self.rig.redis.zscore(LEASES, f"{job.job_id}:{job.execution_id}") is not None

    # --- the others ---------------------------------------------------------------------------------------------------
    def take(self, number: int) -> None:
        """A pod looks into its mailbox."""
        name, pod = [*self.pods.items()][number]
        if pod.warm is None or pod.ended or name in self.ran:
            return
        delivery = self.rig.take(pod.warm)
        if delivery is not None:
            assert delivery.launch_id == self.launch_id
            self.ran.add(name)
            self.rig.stop(pod.warm)

    def end(self, number: int) -> None:
        """A pod ends, with a workload or without."""
        pod = [*self.pods.values()][-1 - number]
        pod.ended = True
        if pod.warm is not None:
            self.rig.stop(pod.warm)

    def watch(self) -> None:
        """The watcher reports every pod that has the launch's labels, as a new one would."""
        named = self.cold_name in self.pods  # then no warm pod counts any more
        for name, pod in self.pods.items():
            if pod.launch and not pod.revoked and (pod.warm is None or not named):
                job = HeldJob(f"{self.launch_id}_0", "", QUEUE, "launch")
                self.rig.restore(job, name)
                self.rig.publish(job, "failed" if pod.ended or not pod.exists else "started", name)

    def disturb(self, what: str, number: int) -> None:
        if what in ("take", "end"):
            getattr(self, what)(number)
        elif what != "nothing":
            getattr(self, what)()

    def check(self) -> None:
        assert len(self.ran) <= 1, self.ran
        if not self.over and self.rig.redis.hget(KEYS.launch(self.launch_id), "state") == "finished":
            # The executor may make another attempt now.
            self.over = True
            assert all(self.pods[name].ended for name in self.ran), "the attempt is over, and its pod runs"
            self.ran_in_time = len(self.ran)
        assert not self.over or len(self.ran) == self.ran_in_time, "the attempt was over before a pod got the workload"

    def expire(self) -> None:
        """Every lease ends."""
        for member in self.rig.redis.zrange(LEASES, 0, -1):
            job_id, _, execution = member.partition(":")
            self.rig.reap(HeldJob(job_id, execution, QUEUE, "launch"))

    def withdraw(self) -> None:
        self.withdrawn = True
        self.rig.withdraw(HeldJob(f"{self.launch_id}_0", "", QUEUE, "launch"))

    def lose_all_data(self) -> None:
        self.rig.lose_all_data()
        self.offer_again()

    def offer_again(self) -> None:
        """The executor misses the launch, or its job, and offers the same attempt again."""
        if not self.withdrawn:
            self.repeated = True
            self.rig.offer(self.launch_id)

    def lose_job(self) -> None:
        self.rig.redis.delete(f"rq:job:{self.launch_id}_0")
        self.offer_again()

    def lose_ledger(self) -> None:
        self.rig.redis.delete(KEYS.launch(self.launch_id))
        self.offer_again()

    def remove(self) -> None:
        """The keeper thinks that it has too many pods."""
        warm = [pod.warm.warm_id for pod in self.pods.values() if pod.warm is not None]
        for found in self.rig.call(self.rig.pool.remove(warm[:2])):
            if found is not None:
                pod = self.pods[found.pod]
                assert not pod.launch, "the keeper deletes the pod of a launch"
                pod.exists, pod.ended = False, True

    def interrupt(self) -> None:
        self.interrupted = True

    def silence(self) -> None:
        """No pod gives a sign of life for a moment."""
        for pod in self.pods.values():
            if pod.warm is not None:
                self.rig.stop(pod.warm)

    def keep(self) -> None:
        for pod in self.pods.values():
            if pod.warm is not None and not pod.ended and pod.warm.pod not in self.ran:
                self.rig.renew(pod.warm)
        self.rig.keep()


DISTURBANCES = ("nothing", "take", "end", "watch", "expire", "withdraw", "lose_all_data", "lose_job", "lose_ledger", "remove",
                "keep", "silence", "interrupt")  # fmt: skip


@pytest.fixture
def rig(redis_url: str) -> Iterator[WarmRig]:
    rig = WarmRig(redis_url)
    yield rig
    rig.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.sampled_from(DISTURBANCES), st.integers(0, 2)),
        min_size=1,
        max_size=14,
    ),
    st.booleans(),
    st.booleans(),
)
# The lease of the first launcher outlives the job, and both the job and the ledger's entry are lost.
@example(
    [("a", 2, "lose_job", 0), ("b", 6, "lose_ledger", 0), ("b", 1, "nothing", 0), ("a", 1, "nothing", 0)], False, True
)
def test_one_pod_at_most_gets_the_workload_of_an_attempt(
    rig: WarmRig, turns: list[tuple[str, int, str, int]], both_on: bool, ready: bool
) -> None:
    rig.lose_all_data()
    world = World(rig)
    world.begin()
    if not ready:
        world.silence()
    launchers = {"a": world.launcher(on=True), "b": world.launcher(on=both_on)}
    for name, steps, disturbance, number in turns:
        for _ in range(steps):
            next(launchers[name])
            world.check()
        world.disturb(disturbance, number)
        world.check()
    for _ in range(30):  # and then nothing disturbs them
        for name in launchers:
            next(launchers[name])
            world.check()
        for number in range(3):
            world.take(number)
            world.check()


def test_the_model_notices_a_second_workload(rig: WarmRig) -> None:
    """The model itself: two pods that have the workload do not go unnoticed."""
    world = World(rig)
    world.begin()
    a = world.launcher(on=True)
    for _ in range(4):
        next(a)
    ((job_id, _, execution),) = [member.partition(":") for member in rig.redis.zrange(LEASES, 0, -1)]
    job = HeldJob(job_id, execution, QUEUE, "launch")
    names = [*world.pods]
    first = rig.ledger(job)["warm_pod"]
    other = world.pods[next(name for name in names if name != first)].warm
    assert other is not None
    rig.redis.hset(KEYS.launch(launch_of(job)), mapping={"warm_id": other.warm_id})
    assert rig.deliver(job, other) == "delivered"
    rig.redis.hdel(KEYS.launch(launch_of(job)), "delivered")
    rig.redis.hset(KEYS.launch(launch_of(job)), mapping={"warm_id": world.pods[first].warm.warm_id})  # type: ignore[union-attr]
    assert rig.deliver(job, world.pods[first].warm) == "delivered"  # type: ignore[arg-type]
    for number in range(3):
        world.take(number)
    assert len(world.ran) == 2
