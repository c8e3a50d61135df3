"""A small world around the real parts: pods as a dict, launchers, watchers and schedulers that Hypothesis moves by steps.

Executor, intake, scripts, leadership, publisher and pod table are the real ones, on a real Redis and database; what is
made here is the order in which they act, the pods, and everybody's death. Time passes only when a step says so.
"""

from __future__ import annotations

import asyncio
import time
import typing
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import redis
from airflow.jobs.job import Job as SchedulerJob
from airflow.jobs.job import JobState
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from podrelay.errors import RedisUnavailable
from podrelay.executor import RedisKubernetesExecutor
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import connect_async
from podrelay_workers.launcher.job_queue import JobQueue
from podrelay_workers.launcher.launch_messages import discard_of
from podrelay_workers.launcher.leased_job import Disposition, Job, Kind, back, created, done, wait
from podrelay_workers.watcher.leader_election import LeaderElection, Term
from podrelay_workers.watcher.outbox import NotLeader, Outbox
from podrelay_workers.watcher.pod_state import Rules
from podrelay_workers.watcher.pod_table import PodTable
from tests.conftest import FERNET_KEY
from tests.harness.task_instances import load, make_task_instances, update, workload_of

_OPEN = ("queued", "running", "restarting", "scheduled", None)


class LossyRelay(CircuitBreaker):
    """The executor's way to Redis, whose next answer may get lost."""

    lose_next = False

    def call(self, command: Any) -> Any:
        answer = super().call(command)
        if LossyRelay.lose_next:
            LossyRelay.lose_next = False
            raise RedisUnavailable("the answer was lost", 0.0)
        return answer


@dataclass
class Pod:
    """One pod of the cluster."""

    name: str
    launch_id: str
    attempt: int
    subject: str
    key: tuple[Any, ...]
    uid: str
    phase: str = "Pending"
    # No node fits: it waits until somebody makes room, which is done only for a task that needs it.
    stuck: bool = False

    @property
    def host(self) -> str:
        """What its task reports as its host name."""
        return self.name

    @property
    def started(self) -> bool:
        """Whether its container has."""
        return self.phase != "Pending"

    def manifest(self) -> dict[str, Any]:
        states: dict[str, Any] = {
            "Pending": {"waiting": {"reason": "ContainerCreating"}},
            "Running": {"running": {"startedAt": "2026-11-20T10:00:00Z"}},
            "Succeeded": {"terminated": {"exitCode": 0, "reason": "Completed"}},
            "Failed": {"terminated": {"exitCode": 1, "reason": "Broken"}},
        }
        annotations = dict(
            zip(("dag_id", "task_id", "run_id", "try_number", "map_index"), map(str, self.key), strict=True)
        )
        return {
            "metadata": {
                "name": self.name, "namespace": "default", "uid": self.uid,
                "labels": {identifiers.LABEL_LAUNCH_ID: self.launch_id, identifiers.LABEL_ATTEMPT: str(self.attempt)},
                "annotations": {**annotations, identifiers.ANNOTATION_SUBJECT: self.subject},
            },
            "spec": {"containers": [{"name": "base", "image": "x"}]},
            "status": {
                "phase": self.phase,
                "containerStatuses": [{"name": "base", "state": states[self.phase]}],
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}] * self.stuck,
            },
        }  # fmt: skip


@dataclass
class Held:
    """A job in a launcher's hand. `certain`: its lease cannot have ended, as far as this launcher knows."""

    job: Job
    certain: bool = True
    outcome: Disposition | None = None


@dataclass
class Hands:
    """A launcher."""

    worker: str
    launches: JobQueue
    cleanups: JobQueue
    held: list[Held] = field(default_factory=list)


@dataclass
class Eyes:
    """A watcher."""

    leadership: LeaderElection
    publisher: Outbox
    table: PodTable
    term: Term | None = None
    epoch: str = ""


@dataclass
class Mind:
    """A scheduler."""

    executor: RedisKubernetesExecutor
    runner: SchedulerJobRunner
    job_id: int


class World:
    """Every method is one step that a real process could take at any moment."""

    def __init__(self, url: str) -> None:
        self.redis = redis.Redis.from_url(url, decode_responses=True)
        self.redis.flushall()
        self.names = RedisKeys()
        self.settings = Settings(redis_url=url, fernet_key=FERNET_KEY, redis_timeout_s=1.0)
        self._cipher = PayloadCipher(FERNET_KEY, "default")
        self._loop = asyncio.new_event_loop()
        self._client = connect_async(self.settings, timeout_s=5.0)
        self._rules = Rules(frozenset(), 60.0)
        self._bag = DBDagBag()
        self._uids = 0
        LossyRelay.lose_next = False
        self.pods: dict[str, Pod] = {}
        # Launch and attempt to the pods that were given its workload.
        self.given: dict[tuple[str, int], set[str]] = defaultdict(set)
        self.runs: Counter[str] = Counter()
        self.tasks: list[str] = []
        self.broken: Counter[str] = Counter()
        self.withdrawn: set[str] = set()
        self.hands = [self._new_hands(), self._new_hands()]
        self.eyes = [self._new_eyes(), self._new_eyes()]
        self.minds = [self._new_mind(), self._new_mind()]

    def close(self) -> None:
        for mind in self.minds:
            mind.executor.end()
            self._bury(mind)
        with create_session() as session:
            for task in self.tasks:
                ti = session.get(TaskInstance, uuid.UUID(task))
                if ti is not None:
                    ti.state = TaskInstanceState.REMOVED
        self._run(self._client.aclose())
        self._loop.close()
        self.redis.close()

    # --- schedulers ---------------------------------------------------------------------------------------------------
    def _new_mind(self) -> Mind:
        executor = RedisKubernetesExecutor()
        with create_session() as session:
            job = SchedulerJob(state=JobState.RUNNING, latest_heartbeat=datetime.now(timezone.utc) + timedelta(days=1))
            job.job_type = "SchedulerJob"
            session.add(job)
            session.flush()
            job_id = int(job.id)
        executor.job_id = job_id
        executor.start()
        return Mind(executor, SchedulerJobRunner(job=job, executors=[executor]), job_id)

    def _bury(self, mind: Mind) -> None:
        with create_session() as session:
            job = session.get(SchedulerJob, mind.job_id)
            if job is not None:
                job.state = JobState.FAILED

    def task(self, number: int, commit_only: bool = False) -> None:
        """A new task is queued. `commit_only`: the scheduler dies after its commit, before the hand-over."""
        ids = make_task_instances(1, queued_by_job_id=self.minds[number].job_id)
        self.tasks += ids
        if commit_only:
            self.die_mind(number)
        else:
            self._queue(self.minds[number], ids[0])

    def _queue(self, mind: Mind, task: str) -> None:
        workload = workload_of(task, mind.executor.jwt_generator)
        with create_session() as session:
            mind.executor.queue_workload(workload, session)

    def queue_again(self, mind: Mind) -> None:
        """Tasks that were reset or requeued become queued anew, each with a new launch id."""
        for task in self.tasks:
            ti = load(task)
            if ti.state in (None, TaskInstanceState.SCHEDULED):
                update(task, state="queued", queued_by_job_id=mind.job_id, external_executor_id=str(uuid.uuid4()))
                self._queue(mind, task)

    def beat(self, mind: Mind, compare: bool = False, lose: bool = False) -> None:
        """One heartbeat. `compare`: the time of reconciliation has come. `lose`: one answer of Redis gets lost."""
        if compare:
            mind.executor.parts.reconciler.schedule_now()
        LossyRelay.lose_next = lose
        mind.executor.heartbeat()
        LossyRelay.lose_next = False
        for key, (state, _) in mind.executor.event_buffer.items():
            assert str(state) in ("failed", "success", "up_for_retry"), f"{key}: event {state}"
        with create_session() as session:
            mind.runner.process_executor_events(mind.executor, mind.job_id, self._bag, session)

    def adopt(self, mind: Mind) -> None:
        with create_session() as session:
            mind.runner.adopt_or_reset_orphaned_tasks(session=session)

    def die_mind(self, number: int) -> None:
        """SIGKILL of a scheduler, and a new one that adopts."""
        self._bury(self.minds[number])
        self.minds[number].executor._breaker.close()
        self.minds[number] = self._new_mind()
        self.adopt(self.minds[number])

    def requeue(self, mind: Mind, task: str) -> None:
        """As the scheduler does with a task that is stuck in queued: revoke, then schedule again under the same id."""
        ti = load(task)
        if ti.state == TaskInstanceState.QUEUED and ti.queued_by_job_id == mind.job_id:
            mind.executor.revoke_task(ti=ti)
            update(task, state="scheduled", external_executor_id=None)
            self.withdrawn.add(str(ti.external_executor_id))

    # --- launchers ----------------------------------------------------------------------------------------------------
    def _new_hands(self) -> Hands:
        worker = f"launcher-{uuid.uuid4().hex[:8]}"
        launches, cleanups = (
            JobQueue(self._client, self.settings, self._cipher, kind, worker, "default")
            for kind in typing.get_args(Kind)
        )
        return Hands(worker, launches, cleanups)

    def claim(self, hands: Hands, most: int, lose: bool = False) -> None:
        """`lose`: the answer gets lost, or the launcher dies of it."""
        confirmed = {launch_id for launch_id in self.withdrawn if self._is_withdrawn(launch_id)}
        jobs = self._run(hands.launches.claim(most)).jobs
        for job in jobs:
            assert job.launch_id not in confirmed, "a withdrawn launch was claimed"
        if not lose:
            hands.held += [self._hold(job) for job in jobs]

    def _hold(self, job: Job) -> Held:
        return Held(job)

    def _is_withdrawn(self, launch_id: str) -> bool:
        """A launch that was revoked is withdrawn from the next heartbeat on."""
        return self.redis.hget(self.names.launch(launch_id), "state") == "withdrawn"

    def make(self, hands: Hands, held: Held) -> None:
        """The launcher makes the pod, or finds that it must not."""
        if held.outcome is not None:
            return
        if not held.certain and self._run(hands.launches.renew([held.job]))[0] != 1:
            hands.held.remove(held)
            return
        request = hands.launches.open_launch(held.job)
        self._make_pod(held, request)

    def _make_pod(self, held: Held, request: LaunchRequest) -> None:
        """One of its own, which has its workload from the beginning."""
        name = identifiers.pod_name("pod", request.launch_id, request.attempt)
        if name not in self.pods:
            self.give(request.launch_id, request.attempt, name)
            self.pods[name] = Pod(
                name, request.launch_id, request.attempt, request.subject, request.key, self.new_uid()
            )
        held.outcome = created(held.job, name, "default", self.pods[name].uid)

    def new_uid(self) -> str:
        self._uids += 1
        return f"u{self._uids}"

    def give(self, launch_id: str, attempt: int, pod: str) -> None:
        """Invariant I1, docs/architecture.md."""
        pods = self.given[launch_id, attempt]
        pods.add(pod)
        assert len(pods) == 1, f"attempt {attempt} of launch {launch_id} was given to the pods {sorted(pods)}"

    def finish(self, hands: Hands, held: Held, lose: bool = False) -> None:
        """Give the job back. `lose`: Redis did it, and the launcher does not know."""
        if held.outcome is None:
            return
        answer = self._run(hands.launches.finish([held.outcome]))[0]
        if lose:
            return
        if answer == "unwanted":
            cleanup, attempt = discard_of(held.outcome, "default")
            self._run(hands.launches.finish([hands.launches.with_cleanup(held.job, cleanup, attempt, "abandon")]))
        hands.held.remove(held)

    def put_back(self, hands: Hands, held: Held, later: bool) -> None:
        """Nothing was made: to the front of the queue, or to wait (the API server asked for patience)."""
        if held.outcome is None:
            outcome = wait(held.job, 0.0, "Throttled", "too many requests") if later else back(held.job)
            self._run(hands.launches.finish([outcome]))
            hands.held.remove(held)

    def die_hands(self, number: int) -> None:
        self.hands[number] = self._new_hands()

    def leases_end(self) -> None:
        """Time passes: every lease may be taken over, and no launcher is certain of its own any more."""
        for key in self.redis.keys("rq:wip:podrelay.*"):
            for member in self.redis.zrange(key, 0, -1):
                self.redis.zadd(key, {member: 0.0})
        for hands in self.hands:
            for held in hands.held:
                held.certain = False

    def reap(self, hands: Hands) -> None:
        for intake in (hands.launches, hands.cleanups):
            _, crashed = self._run(intake.reap())
            for job in crashed:
                self._run(intake.finish([back(job)]))

    def clean(self, hands: Hands, die: bool = False) -> None:
        """`die`: after the deletion, before it is recorded in Redis."""
        for job in self._run(hands.cleanups.claim(8)).jobs:
            request = hands.cleanups.open_cleanup(job)
            pod = self.pods.get(request.pod)
            left = pod is not None and request.unless_started and pod.started
            if pod is not None and not left and self._is_meant(pod, request):
                assert self._may_go(pod), f"pod {pod} is deleted and was not over"
                self.remove(pod)
            if not die:
                self._run(hands.cleanups.finish([done(job)]))

    def _is_meant(self, pod: Pod, request: CleanupRequest) -> bool:
        return not request.uid or pod.uid == request.uid

    def remove(self, pod: Pod) -> None:
        del self.pods[pod.name]

    def _may_go(self, pod: Pod) -> bool:
        if pod.phase in ("Succeeded", "Failed"):
            return True
        ti = load(pod.subject)
        if ti.state == TaskInstanceState.RUNNING and ti.hostname == pod.host:
            return False
        return ti.external_executor_id != pod.launch_id or ti.state not in ("queued", "running", "restarting")

    # --- pods ---------------------------------------------------------------------------------------------------------
    def start_pod(self, pod: Pod) -> None:
        """The task's process asks whether it may run: only from queued. A withdrawn pod may come first."""
        if pod.phase != "Pending" or pod.stuck:
            return
        ti = load(pod.subject)
        if ti.state == TaskInstanceState.QUEUED:
            older = pod.launch_id in self.withdrawn
            assert older or ti.external_executor_id == pod.launch_id, "a superseded launch began to run"
            update(pod.subject, state="running", hostname=pod.host)
            pod.phase = "Running"
            self.runs[pod.subject] += 1
        else:
            host = identifiers.launch_of_host(ti.hostname or "")
            overtaken = host is not None and host[0] in self.withdrawn
            excused = overtaken or self.broken[pod.subject] or ti.external_executor_id != pod.launch_id
            assert excused, f"{pod}: a pod too many"
            pod.phase = "Failed"

    def stick_pod(self, pod: Pod) -> None:
        pod.stuck = pod.phase == "Pending"

    def _make_room(self, pod: Pod) -> None:
        ti = load(pod.subject)
        if ti.state == TaskInstanceState.QUEUED and ti.external_executor_id == pod.launch_id:
            pod.stuck = False

    def end_pod(self, pod: Pod) -> None:
        if pod.phase == "Running":
            update(pod.subject, state="success")
            pod.phase = "Succeeded"

    def crash_pod(self, pod: Pod) -> None:
        """The task's process is killed: its supervisor ends the pod well and reports nothing."""
        if pod.phase == "Running":
            self.broken[pod.subject] += 1
            pod.phase = "Succeeded"

    def break_pod(self, pod: Pod) -> None:
        """It dies before its task begins: a node is lost, an image is missing."""
        if pod.phase == "Pending":
            self.broken[pod.subject] += 1
            pod.phase = "Failed"

    def vanish_pod(self, pod: Pod) -> None:
        """Removed from outside, before its task begins or after it ended."""
        if pod.phase != "Running":
            if pod.phase == "Pending":
                self.broken[pod.subject] += 1
            self.remove(pod)

    # --- watchers -----------------------------------------------------------------------------------------------------
    def _new_eyes(self) -> Eyes:
        scripts = AsyncScripts(self._client)
        return Eyes(
            LeaderElection(scripts, self.names, "default", 3600.0),
            Outbox(scripts, self.names, self._cipher, "default", 100_000),
            PodTable(self._rules),
        )

    def watch(self, eyes: Eyes, lose: bool = False) -> None:
        """Lead or stand by; the leader lists, compares and publishes. `lose`: it dies before it publishes."""
        term = self._run(eyes.leadership.claim())
        if term is None:
            eyes.publisher.forget()
            eyes.term = None
            return
        if eyes.epoch not in ("", term.epoch):
            eyes.publisher.requeue_recent()
        if term != eyes.term:
            eyes.table = PodTable(self._rules)
        eyes.term, eyes.epoch = term, term.epoch
        self._look(eyes)
        if lose:
            self.eyes[self.eyes.index(eyes)] = self._new_eyes()
            return
        try:
            self._run(eyes.publisher.flush(term))
        except NotLeader:
            eyes.term = None

    def _look(self, eyes: Eyes) -> None:
        now_s, clock_s = time.time(), time.monotonic()
        for pod in self.pods.values():
            observed = eyes.table.observe("LISTED", pod.manifest(), now_s, clock_s).publication
            if observed is not None:
                eyes.publisher.put(observed)
        gone = eyes.table.missing(None, frozenset(("default", name) for name in self.pods))
        gone += [row for row in self._run(self._believed(eyes)) if row.name not in self.pods]
        for row in gone:
            observed = eyes.table.record_gone(row, now_s, clock_s)
            if observed is not None:
                eyes.publisher.put(observed)

    @staticmethod
    async def _believed(eyes: Eyes) -> list[Any]:
        return [row async for row in eyes.publisher.believed_live(time.time() + 60.0)]

    def lead_ends(self) -> None:
        """Time passes: the leader's lease ends, it does not know; so does the wait of others for a former leader whose data
        was lost, which is as long.
        """
        for eyes in self.eyes:
            if eyes.leadership._lost_at is not None:
                eyes.leadership._lost_at = float("-inf")
        key = self.names.watch("default")
        if self.redis.exists(key):
            self.redis.hset(key, "expires", "0")

    # --- Redis --------------------------------------------------------------------------------------------------------
    def lose_data(self) -> None:
        self.redis.flushall()

    def drop(self, key: str) -> None:
        self.redis.delete(key)

    # --- the end ------------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Everybody works, nothing breaks any more, and time passes."""
        for turn in range(40):
            for mind in self.minds:
                self.adopt(mind)
                self.queue_again(mind)
                self.beat(mind, compare=True)
            self.lead_ends()
            for eyes in self.eyes:
                self.watch(eyes)
            self.leases_end()
            for hands in self.hands:
                self.reap(hands)
                self.claim(hands, 16)
                for held in list(hands.held):
                    self.make_all(hands, held)
                    if held in hands.held:
                        self.finish(hands, held)
                self.clean(hands)
            self.time_passes(turn)
            for pod in list(self.pods.values()):
                self.end_pod(pod)
                self._make_room(pod)
                self.start_pod(pod)
            for launch_id in self.redis.zrange(self.names.unacknowledged, 0, -1):
                self.redis.zadd(self.names.unacknowledged, {launch_id: 0.0})
            for launch_id in self.redis.zrange(self.names.live("default"), 0, -1):
                self.redis.zadd(self.names.live("default"), {launch_id: 0.0})
            if not self.left():
                return
            if turn > 10:
                time.sleep(0.05)  # failures are reported again after a while
        raise AssertionError(f"not over: {self.left()}")

    def make_all(self, hands: Hands, held: Held) -> None:
        """All that a launcher does for a launch."""
        self.make(hands, held)

    def time_passes(self, turn: int) -> None:
        """What happens without anybody's doing."""

    def left(self) -> list[str]:
        found = [f"{task} is {load(task).state}" for task in self.tasks if load(task).state in _OPEN]
        for mind in self.minds:
            found += [f"slot of {key}" for key in mind.executor.running]
            found += [f"launch {launch.launch_id}" for launch in mind.executor.launches]
        found += [f"pod {pod}" for pod in self.pods.values() if not self.may_stay(pod)]
        for pattern in ("rq:queue:podrelay.*", "rq:wip:podrelay.*", "rq:scheduled:podrelay.*"):
            found += [f"{key} is not empty" for key in self.redis.keys(pattern) if self._not_empty(key)]
        found += [f"unacknowledged {one}" for one in self.redis.zrange(self.names.unacknowledged, 0, -1)]
        return found + [f"current {one}" for one in self.redis.hkeys(self.names.current)]

    def may_stay(self, pod: Pod) -> bool:
        """Whether it may be there when all is over."""
        return False

    def _not_empty(self, key: str) -> bool:
        if ":queue:" not in key:
            return bool(self.redis.zcard(key))
        ids = self.redis.lrange(key, 0, -1)
        return any(self.redis.hget(redis_keys.RQ_JOB_PREFIX + job, "status") == "queued" for job in ids)

    def lost_jobs(self) -> list[str]:
        """Launches that wait by the ledger, and whose job is in no list: I2 would be broken."""
        lost, known = [], self.redis.smembers(redis_keys.RQ_QUEUES)
        for key in self.redis.keys(self.names.launch_prefix + "*"):
            entry = self.redis.hgetall(key)
            if entry.get("state") not in ("offered", "waiting", "claimed"):
                continue
            job, queue = f"{key[len(self.names.launch_prefix) :]}_{entry['attempt']}", entry["queue"]
            side = redis_keys.rq_queue(queue + redis_keys.FAIR_QUEUE_MARK)
            lists = [one for one in known if one == redis_keys.rq_queue(queue) or one.startswith(side)]
            places = [
                any(job in self.redis.lrange(one, 0, -1) for one in lists),
                any(member.startswith(job + ":") for member in self.redis.zrange(redis_keys.rq_started(queue), 0, -1)),
                self.redis.zscore(redis_keys.rq_scheduled(queue), job) is not None,
            ]
            if not any(places):
                lost.append(job)
        return lost

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)
