"""The same world with warm pods: keepers start pods before they are needed, launchers assign them and deliver workloads.

`WarmPool`, its scripts and the mailboxes' keys are the real ones. A launcher's assignment is one effect per step, so that
anything may happen between two: the death of the launcher or of the pod, another launcher, a withdrawal, a loss of data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from podrelay.protocol import identifiers
from podrelay.protocol.mailbox import EXIT_UNUSED, MAILBOX_TTL_S, Delivery, MailboxKey
from podrelay.protocol.messages import CleanupRequest, LaunchRequest, PodReport
from podrelay.protocol.messages import WarmPod as Record
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.scripts import HeldJob
from podrelay.store.warm_pool import WarmPool
from podrelay_workers.launcher.leased_job import created, done
from tests.integration.model.world import Hands, Held, Pod, World

SHAPE = "0123456789abcdef"
IDLE_S = 300.0
# How many pods a keeper wants to have that no launch has.
_WANTED = 2


@dataclass
class WarmPod(Pod):
    """`phase` is that of its task: Pending until the task begins."""

    record: Record | None = None
    # By its labels.
    idle: bool = True
    revoked: bool = False
    # Its process waits for a workload, or has one.
    up: bool = False
    exit_code: int = 0
    delivery: Delivery | None = None

    @property
    def host(self) -> str:
        return identifiers.warm_host(self.name, self.launch_id, self.attempt)

    @property
    def started(self) -> bool:
        return self.up or super().started

    def manifest(self) -> dict[str, Any]:
        body = super().manifest()
        assert self.record is not None
        labels = body["metadata"]["labels"]
        labels[identifiers.LABEL_WARM] = self.record.warm_id
        if self.idle:
            labels[identifiers.LABEL_IDLE] = SHAPE
            del labels[identifiers.LABEL_LAUNCH_ID], labels[identifiers.LABEL_ATTEMPT]
            body["metadata"]["annotations"] = {identifiers.ANNOTATION_SUBJECT: ""}
        if self.revoked:
            labels[identifiers.LABEL_REVOKED] = "True"
        if self.up and self.phase == "Pending":
            body["status"]["phase"] = "Running"
            body["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": "2026-11-20T09:00:00Z"}}
        if self.exit_code:
            body["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = self.exit_code
        return body


@dataclass
class WarmHands(Hands):
    """With its way to the pool."""

    pool: WarmPool = None  # type: ignore[assignment]


@dataclass
class WarmHeld(Held):
    """`step`: what the launcher does next. own: create a pod as usual."""

    step: str = "assign"
    record: Record | None = None
    unwanted: bool = False
    # Another launcher may have delivered the workload, and Redis may have forgotten that it was taken.
    again: bool = False

    @property
    def pod(self) -> Record:
        assert self.record is not None
        return self.record


class WarmWorld(World):
    """Launchers that use warm pods, and that keep the pool in turns."""

    # --- launchers ----------------------------------------------------------------------------------------------------
    def _new_hands(self) -> Hands:
        hands = super()._new_hands()
        pool = WarmPool(AsyncScripts(self._client), self.names, self._cipher, "default", hands.worker)
        return WarmHands(hands.worker, hands.launches, hands.cleanups, pool=pool)

    def _hold(self, job: Any) -> Held:
        return WarmHeld(job)

    def make(self, hands: Hands, held: Held) -> None:
        """One effect of the assignment."""
        assert isinstance(held, WarmHeld) and isinstance(hands, WarmHands)
        if held.outcome is not None:
            return
        if held.step in ("assign", "patch", "own") and not held.certain:
            if self._run(hands.launches.renew([held.job]))[0] != 1:
                hands.held.remove(held)
                return
            held.certain = True
        request = hands.launches.open_launch(held.job)
        getattr(self, f"step_{held.step}")(hands, held, request)

    def step_assign(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        if request.repeated:
            self.step_look(hands, held, request)
            return
        answer = self._run(hands.pool.assign(_job(held), SHAPE, idle_s=IDLE_S))
        held.record = answer.pod
        if answer.word == "cold" and answer.why == "new_shape":
            self._run(hands.pool.save_shape(SHAPE, {"spec": {}}))
        held.again = answer.word == "again"
        again = "poll" if answer.delivered else "patch"
        steps = {"assigned": "patch", "again": again, "condemned": "retire", "cold": "own", "unreadable": "look"}
        self._go_on(hands, held, answer.word, steps)

    def _go_on(self, hands: WarmHands, held: WarmHeld, word: str, steps: dict[str, str]) -> None:
        """The next step, by the answer of a script; with every other word the launch is somebody else's, or nobody's."""
        if word in steps:
            held.step = steps[word]
        elif word == "over":
            held.outcome = done(held.job)
        elif word in ("lost", "unwanted"):
            hands.held.remove(held)
        else:
            raise AssertionError(f"{held.step} was answered {word}")

    def step_patch(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        """What the API server does with the patch: the pod must be this one, and idle."""
        pod = self._pod_of(held)
        if pod is None or pod.revoked:
            held.step = "take_back"
            return
        if pod.idle:
            pod.idle = False
            pod.launch_id, pod.attempt = request.launch_id, request.attempt
            pod.subject, pod.key = request.subject, request.key
        assert (pod.launch_id, pod.attempt) == (request.launch_id, request.attempt), (
            "a pod was assigned to two launches"
        )
        held.step = "take_back" if pod.phase == "Failed" else "deliver"

    def step_deliver(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        key = MailboxKey.from_text(held.pod.key)
        sealed = key.seal(Delivery(request.launch_id, request.attempt, request.subject))
        word = self._run(hands.pool.deliver(_job(held), held.pod, sealed))
        held.unwanted = word == "unwanted"
        self._go_on(hands, held, word, {"delivered": "poll", "condemned": "retire", "unwanted": "take_back"})

    def step_poll(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        """Has the pod taken it? If not, the time for that is over before the next step."""
        if self._run(hands.pool.taken([held.pod])) == [True]:
            self._taken(hands, held, request)
        elif held.again:
            self._created(held)
        else:
            held.step = "take_back"

    def _taken(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        record = self._created(held)
        started = PodReport(
            request.launch_id,
            request.attempt,
            "started",
            pod=record.pod,
            namespace="default",
            uid=record.uid,
            phase="Running",
        )
        self._run(hands.launches.publish(started))

    def _created(self, held: WarmHeld) -> Record:
        held.outcome = created(held.job, held.pod.pod, "default", held.pod.uid)
        return held.pod

    def step_take_back(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        word = self._run(hands.pool.take_back(_job(held), held.pod))
        if word == "taken" and not held.unwanted:
            self._taken(hands, held, request)
        elif word in ("taken", "unknown"):
            self._created(held)
        else:
            self._go_on(hands, held, word, {"taken_back": "retire"})

    def step_retire(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        """First the pod that will never get the workload goes, then the launch gets one of its own."""
        pod = self._pod_of(held)
        if pod is not None:
            assert pod.delivery is None, f"{pod} has its workload and is removed"
            self.remove(pod)
        held.step = "own"
        if held.unwanted:
            hands.held.remove(held)

    def step_look(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        """Which pod the launch has is not readable: by its labels."""
        held.step = "own"
        self._find(held, request)

    def _find(self, held: WarmHeld, request: LaunchRequest) -> None:
        """The pod that has this launch's labels already, if there is one."""
        for pod in self.pods.values():
            if (pod.launch_id, pod.attempt) == (request.launch_id, request.attempt) and not getattr(
                pod, "revoked", False
            ):
                held.outcome = created(held.job, pod.name, "default", pod.uid)

    def step_own(self, hands: WarmHands, held: WarmHeld, request: LaunchRequest) -> None:
        self._make_pod(held, request)

    def _pod_of(self, held: WarmHeld) -> WarmPod | None:
        pod = self.pods.get(held.pod.pod)
        return pod if isinstance(pod, WarmPod) and pod.uid == held.pod.uid else None

    def begin(self) -> None:
        """The shape of all launches is known, and pods of it wait."""
        hands = self.hands[0]
        assert isinstance(hands, WarmHands)
        self._run(hands.pool.save_shape(SHAPE, {"spec": {}}))
        self.keep(hands, die=False)
        for pod in self.pods.values():
            self.start_pod(pod)
        self.keep(hands, die=False)

    # --- keepers ------------------------------------------------------------------------------------------------------
    def keep(self, hands: Hands, die: bool) -> None:
        """One turn. `die`: between the creation of a pod and its addition to the pool, or between removal and deletion."""
        assert isinstance(hands, WarmHands)
        listed = [pod for pod in self.pods.values() if isinstance(pod, WarmPod) and pod.idle]
        state = self._run(hands.pool.keep(3600.0, 8))
        if state is None:
            return
        known = {pod.warm_id for pod in state.pods}
        if state.acquired:
            for pod in listed:
                if _id(pod) not in known and pod.idle:  # the resource version is a condition of the deletion
                    self.remove(pod)
        waiting = {_id(pod) for pod in self.pods.values() if isinstance(pod, WarmPod) and pod.phase == "Pending"}
        gone = [
            pod.warm_id
            for pod in state.pods
            if not pod.alive and (pod.idle_s is not None or pod.warm_id not in waiting)
        ]
        for record in self._run(hands.pool.remove(gone)) if gone else []:
            removed = self.pods.get(record.pod) if record is not None else None
            if isinstance(removed, WarmPod) and not die:
                assert removed.idle, f"{removed} is removed by its keeper and a launch has it"
                self.remove(removed)
        if SHAPE in state.shapes:
            for _ in range(_WANTED - len(known) + len(gone)):
                self._start(hands, die)

    def _start(self, hands: WarmHands, die: bool) -> None:
        warm_id = identifiers.new_warm_id()
        name, uid = identifiers.warm_pod_name("pod", warm_id), self.new_uid()
        record = Record(warm_id, SHAPE, "default", name, uid, MailboxKey.generate().text, time.time())
        self.pods[name] = WarmPod(name, "", -1, "", ("",) * 5, uid, record=record)
        if not die:
            self._run(hands.pool.add(record))

    # --- pods ---------------------------------------------------------------------------------------------------------
    def start_pod(self, pod: Pod) -> None:
        """One step of a warm pod: it comes up, or looks into its mailbox, or begins its task."""
        if not isinstance(pod, WarmPod) or pod.delivery is not None:
            super().start_pod(pod)
        elif pod.phase == "Pending" and not pod.stuck:
            if pod.up:
                self._wait(pod)
            else:
                pod.up = True
                self.redis.set(self.names.mailbox_alive(_key(pod).name), "1")

    def _wait(self, pod: WarmPod) -> None:
        """As `podrelay_workers.warm_pod` does: renew the sign of life, look for what was taken, take."""
        box = _key(pod).name
        incoming, taken = self.names.mailbox_in(box), self.names.mailbox_taken(box)
        if not self.redis.set(self.names.mailbox_alive(box), "1", xx=True):
            self.idle_over(pod)
            return
        item = self.redis.lindex(taken, -1) or self.redis.lmove(incoming, taken, "LEFT", "RIGHT")
        if item is None:
            return
        pod.delivery = _key(pod).open(item)
        self.give(pod.delivery.launch_id, pod.delivery.attempt, pod.name)
        of_labels = (pod.launch_id, pod.attempt, pod.subject)
        assert of_labels == (pod.delivery.launch_id, pod.delivery.attempt, pod.delivery.workload), (
            f"{pod} has other labels"
        )

    def idle_over(self, pod: Pod) -> None:
        """A pod that waited for too long, or that finds that Redis lost its data, ends."""
        if isinstance(pod, WarmPod) and pod.up and pod.delivery is None and pod.phase == "Pending":
            pod.phase, pod.exit_code = "Failed", EXIT_UNUSED

    def _make_room(self, pod: Pod) -> None:
        if isinstance(pod, WarmPod) and pod.idle:
            pod.stuck = False
        else:
            super()._make_room(pod)

    def signs_end(self) -> None:
        """Time passes: nobody renews the signs of life of pods that have ended."""
        alive = {
            self.names.mailbox_alive(_key(pod).name)
            for pod in self.pods.values()
            if isinstance(pod, WarmPod) and pod.up and pod.phase == "Pending"
        }
        for key in self.redis.keys(self.names.mailbox_alive("*")):
            if key not in alive:
                self.redis.delete(key)

    def _is_meant(self, pod: Pod, request: CleanupRequest) -> bool:
        """A launcher also reads the labels of a warm pod."""
        return super()._is_meant(pod, request) and pod.launch_id == request.launch_id

    # --- the end ------------------------------------------------------------------------------------------------------
    def make_all(self, hands: Hands, held: Held) -> None:
        while held in hands.held and held.outcome is None:
            pod = self._pod_of(held) if isinstance(held, WarmHeld) and held.record else None
            if pod is not None:
                self.start_pod(pod)
            self.make(hands, held)

    def time_passes(self, turn: int) -> None:
        self.signs_end()
        for hands in self.hands:
            self.keep(hands, die=False)
        for pod in list(self.pods.values()):
            if isinstance(pod, WarmPod) and not pod.idle:
                self.idle_over(pod)

    def may_stay(self, pod: Pod) -> bool:
        """An idle pod that the pool knows."""
        return isinstance(pod, WarmPod) and pod.idle and self.redis.hexists(self.names.warm_pods("default"), _id(pod))

    def left(self) -> list[str]:
        """Nor a workload in a mailbox for long; nor a pod in the pool that is not idle."""
        found = super().left()
        found += [f"workload in {key}" for key in self.redis.keys(self.names.mailbox_in("*")) if not self._expires(key)]
        idle = {_id(pod) for pod in self.pods.values() if isinstance(pod, WarmPod) and pod.idle}
        return found + [
            f"{one} in the pool" for one in self.redis.hkeys(self.names.warm_pods("default")) if one not in idle
        ]

    def _expires(self, key: str) -> bool:
        return 0 < self.redis.ttl(key) <= MAILBOX_TTL_S


def _id(pod: WarmPod) -> str:
    assert pod.record is not None
    return pod.record.warm_id


def _key(pod: WarmPod) -> MailboxKey:
    assert pod.record is not None
    return MailboxKey.from_text(pod.record.key)


def _job(held: Held) -> HeldJob:
    job = held.job
    return HeldJob(job.id, job.execution, job.queue, "launch")
