"""The executor: Airflow's calls, translated. It renders nothing and never talks to Kubernetes; what it waits for is one
or two round trips to Redis with a timeout. Whatever goes wrong is kept and tried again, nothing is raised into the
scheduler's loop.
"""

from __future__ import annotations

import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.configuration import conf as airflow_conf
from airflow.executors.base_executor import BaseExecutor
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.common.compat.sdk import Stats
from airflow.utils.helpers import prune_dict
from airflow.utils.state import TaskInstanceState
from sqlalchemy.exc import SQLAlchemyError

from podrelay import compat
from podrelay.errors import RedisUnavailable
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import LaunchRequest
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling import heartbeat_budget
from podrelay.scheduling.attempts import RequestBuilder
from podrelay.scheduling.context import Context
from podrelay.scheduling.decisions import Policy
from podrelay.scheduling.launch_registry import Launch, LaunchRegistry
from podrelay.scheduling.orphans import OrphanCollector
from podrelay.scheduling.reconciler import Reconciler
from podrelay.scheduling.request_builder import InvalidExecutorConfig, watches
from podrelay.scheduling.results import ResultProcessor
from podrelay.scheduling.revocations import Revocations
from podrelay.settings import load_settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import check, connect
from podrelay.store.launch_queue import LaunchQueue
from podrelay.store.ledger import Ledger
from podrelay.store.result_stream import ResultStream
from podrelay.teams import cluster_of

if TYPE_CHECKING:
    from airflow.cli.cli_config import GroupCommand
    from airflow.models.taskinstance import TaskInstance


class RedisKubernetesExecutor(BaseExecutor):
    """Runs each task in a Kubernetes pod, as the stock KubernetesExecutor does, through launchers and a watcher.

    Constructing it opens nothing: the API server constructs executors only to read logs.
    """

    supports_ad_hoc_ti_run: bool = True
    supports_multi_team: bool = True
    supports_callbacks: bool = True
    supports_connection_test: bool = True
    supported_workload_types = compat.workload_types()  # 3.4 asks this instead of the two above
    pre_assigns_external_executor_id: ClassVar[bool] = True
    is_production: bool = True
    # From here on: names of the stock executor that plug-ins read. Ours are written in small letters.
    RUNNING_POD_LOG_LINES = 100
    supports_task_instance_uuid: bool = compat.keys_are_ids(BaseExecutor)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self, "conf") or not hasattr(self.conf, "getint"):  # Airflow before 3.2
            self.conf = airflow_conf  # type: ignore[assignment]
        self.team_name = getattr(self, "team_name", None)
        self.kube_config = KubeConfig(executor_conf=self.conf) if self._teams_known() else KubeConfig()
        self.parallelism = self.kube_config.parallelism
        self.running_pod_log_lines = self.conf.getint("kubernetes_executor", "running_pod_log_lines", fallback=100)
        if self.running_pod_log_lines <= 0:
            raise ValueError(
                "The [kubernetes_executor] running_pod_log_lines configuration must be greater than 0, "
                f"got {self.running_pod_log_lines}."
            )
        self.policy = self._read_policy()
        self.RUNNING_POD_LOG_LINES = self.running_pod_log_lines
        self.task_publish_max_retries = self.conf.getint("kubernetes_executor", "task_publish_max_retries", fallback=0)
        self.pod_launch_failure_max_retries = self.policy.relaunches
        self.pod_launch_failure_excluded_container_reasons = self.policy.excluded_container_reasons
        self.scheduler_job_id: str | None = None
        self.launches = LaunchRegistry()
        self._started = False
        # Airflow 3.3.2 saves event logs from a generator that lets go of each before it is written, and then writes rows
        # of nothing: as long as we hold them too, they arrive.
        self._kept_logs: deque[Any] = deque(maxlen=2000)
        self._complained_s = float("-inf")

    # --- life -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Connect. A Redis that is down is waited for; options that can never work raise.

        :raises ConfigError: names the option and says what to write.
        """
        # Team options have no fall-back to the unprefixed ones, but there is one Redis for all: [podrelay] is global.
        self.settings = load_settings(airflow_conf, airflow_conf.get("core", "fernet_key", fallback=""))
        self.scheduler_job_id = str(self.job_id)
        self.cluster = cluster_of(self.team_name)
        self._keys = RedisKeys(self.settings.deployment)
        self._breaker = CircuitBreaker(self.settings)
        self.beat = heartbeat_budget.HeartbeatBudget(self._breaker)
        self._compose(PayloadCipher(self.settings.fernet_key))
        try:
            with connect(self.settings) as client:
                for warning in check(client):
                    self.log.warning("%s", warning)
            self._breaker.load("offer", "acknowledge", "withdraw", "survey")
            self._results.skip_to_end()
        except RedisUnavailable as error:
            self._complain(error)
        self._started = True
        self.log.info("podrelay: deployment %s, scheduler job %s", self.settings.deployment, self.scheduler_job_id)

    def _compose(self, cipher: PayloadCipher) -> None:
        """The parts, each with its one job; they share the memory of launches and the way to Redis."""
        settings = self.settings
        self._queue = LaunchQueue(
            self._breaker, self._keys, cipher, self.cluster, settings.ledger_ttl_s,
            dict(self.kube_config.delete_option_kwargs or {}),
        )  # fmt: skip
        self._results = ResultStream(self._breaker, self._keys, cipher)
        context = Context(self, self.launches, self._queue, Ledger(self._breaker, self._keys), self._results)
        self._attempts = RequestBuilder(context)
        self.withdrawals = Revocations(context)
        self.endings = ResultProcessor(context, self._attempts)
        sweep = OrphanCollector(context, self.endings, self.withdrawals)
        self.reconciliation = Reconciler(context, self._attempts, self.endings, self.withdrawals, sweep)
        # The parts of `sync`, first what comes next: one for which there was no room is the first of the next heartbeat.
        self._turns = deque(
            (self.withdrawals.tell, self.endings.take, self.reconciliation.turn, self.reconciliation.ask, sweep.turn)
        )
        self._sync_waits = False

    def end(self) -> None:
        """Take the results that are there, and close. Pods go on: another scheduler adopts them."""
        if not self._started:
            return
        self.sync()
        self._breaker.close()
        self._started = False

    def terminate(self) -> None:
        """Nothing to terminate: no process is ours."""

    def heartbeat(self) -> None:
        """Hand over, then `sync`, within one bound of time for both."""
        with self.beat if self._started else nullcontext():
            super().heartbeat()

    # --- handing over -------------------------------------------------------------------------------------------------
    def execute_async(self, key: Any, command: Any, queue: str | None = None, executor_config: Any = None) -> None:
        """Hand one workload over now. `command` is a list that holds it."""
        self._hand_over([(key, command[0], queue, executor_config)])

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        """Hand workloads over in one round trip. What cannot be handed over now stays queued; so does all of it in a
        heartbeat that belongs to results, because a slow Redis left no room for them in the last one.
        """
        for workload in workload_items:
            if compat.kind_of(workload) is None:
                raise RuntimeError(f"{type(self).__name__} cannot handle workloads of type {type(workload)}")
        if self.beat.has_room() and not self._sync_waits:
            self._hand_over(map(self._item, workload_items))

    def _item(self, workload: Any) -> tuple[Any, Any, str | None, Any]:
        ti = getattr(workload, "ti", None)
        queue = ti.queue if ti is not None else getattr(workload, "queue", None)
        key = compat.workload_key(self, workload)
        return key, workload, queue, ti.executor_config if ti is not None else None

    def _hand_over(self, items: Iterable[tuple[Any, Any, str | None, Any]]) -> None:
        """Hand over as many as their share of a heartbeat allows, in order, and at least one."""
        if not self._breaker.available:
            return
        with self._never_raising():
            self._offer(items)

    def _offer(self, items: Iterable[tuple[Any, Any, str | None, Any]]) -> None:
        """:raises RedisUnavailable, SQLAlchemyError: nothing was taken over; all of it stays queued."""
        begun = time.monotonic()
        if self.beat.is_redis_near:  # else `sync` tells it, and what an older launch is in the way of waits for that
            self.withdrawals.tell()
        made: list[Launch] = []
        answers = self._queue.offer(self._made(items, made))
        if not made:
            return
        # What a batch costs the scheduler's loop: a round trip to Redis; the stock executor creates its pods in it.
        Stats.timing("kubernetes_executor.pod_creation_batch_duration", timedelta(seconds=time.monotonic() - begun))
        Stats.gauge("kubernetes_executor.pod_creation_batch_size", len(made))
        for launch, answer in zip(made, answers, strict=True):
            self._take_over(launch)
            self._warn_of_namespace(launch)
            self.log.debug("Launch %s of %s: %s", launch.launch_id, launch.key, answer)

    def _made(
        self, items: Iterable[tuple[Any, Any, str | None, Any]], made: list[Launch]
    ) -> Iterator[tuple[LaunchRequest, int]]:
        """The requests of workloads, made one by one while the share lasts; their launches are put into `made`."""
        share = heartbeat_budget.TimeSlice(heartbeat_budget.HAND_OVER_S)
        # An older launch of the same task instance that Redis still believes in could make its pod beside the newer one.
        late = self.withdrawals.subjects()
        for key, workload, queue, executor_config in items:
            if late and compat.subject_of(workload) in late:
                continue
            named = getattr(getattr(workload, "ti", None), "external_executor_id", None) or ""
            launch_id = named if identifiers.is_assigned(named) else identifiers.new_launch_id()
            try:
                request = self._attempts.first(workload, launch_id, executor_config, queue)
            except InvalidExecutorConfig as error:
                self.log.error("Invalid executor_config for %s: %s", key, error)
                compat.forget_queued(self, key)
                self.fail(key=key, info="Invalid executor_config passed")
            except Exception:  # a fault that one workload meets must not hold up those behind it
                self.log.exception("%s cannot be handed over now, and stays queued", key)
            else:
                launch = Launch(
                    launch_id, key, request.kind, request.subject,
                    task=compat.task_of(workload), request=request, workload=workload,
                    instead_of=None if launch_id == named else named,
                )  # fmt: skip
                made.append(launch)
                yield request, 0
            if share.over:
                return

    def _take_over(self, launch: Launch) -> None:
        """From now on the launch is running in Airflow's sense: it holds a slot until its end is known."""
        before = self.launches.add(launch)
        if before is not None and not before.withdrawn:
            before.withdrawn = True
            self.withdrawals.note(before.launch_id, before.subject, "outrun")
        compat.forget_queued(self, launch.key)
        self.endings.forget_report(launch.key)
        self.running.add(launch.key)
        if launch.instead_of is not None and launch.kind == "task":
            compat.record_event(self, launch.key, TaskInstanceState.QUEUED, launch.launch_id)

    def _warn_of_namespace(self, launch: Launch) -> None:
        request = launch.request
        if request is None or launch.kind != "task" or watches(self.kube_config, request.namespace):
            return
        self.log_task_event(
            event="namespace not watched",
            extra=f"Namespace {request.namespace} is not watched: the end of this task's pod is noticed late, and only "
            "where the watcher may get pods in it. Set [kubernetes_executor] multi_namespace_mode = True and add it to "
            "multi_namespace_mode_namespace_list, for scheduler, launchers and watcher.",
            ti_key=launch.task,
        )

    # --- results ------------------------------------------------------------------------------------------------------
    def sync(self) -> None:
        """Take results, report them, compare with the ledger when it is time, while there is room for it. Never raises."""
        if not self._started or not self._breaker.available:
            return
        self._sync_waits = not self.beat.has_room()
        with self.beat, self._never_raising():
            for _ in range(len(self._turns)):
                if not self.beat.has_room():
                    return
                self._turns.rotate(-1)
                self._turns[-1]()
            self._turns.rotate(-self._turns.index(self.withdrawals.tell))

    @contextmanager
    def _never_raising(self) -> Iterator[None]:
        """What fails inside is said, and done again later."""
        try:
            yield
        except RedisUnavailable as error:
            self._complain(error)
        except SQLAlchemyError as error:
            self.log.warning("The database does not answer; results wait: %s", type(error).__name__)
        except Exception:  # the scheduler's loop serves every other executor too: log it and go on
            self.log.exception("podrelay could not finish this turn; the rest is tried again")

    def log_task_event(self, *, event: str, extra: str, ti_key: Any) -> None:
        """Add a row to the task's event log; the scheduler writes it after this heartbeat."""
        super().log_task_event(event=event, extra=extra, ti_key=ti_key)
        if self._task_event_logs:
            self._kept_logs.append(self._task_event_logs[-1])

    # --- adoption, revocation -----------------------------------------------------------------------------------------
    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Take over the launches of dead schedulers. Unknown is not dead: only what certainly has no launch is returned."""
        with Stats.timer(
            "kubernetes_executor.adopt_task_instances.duration", tags=prune_dict({"team_name": self.team_name})
        ):
            refused = []
            for ti in tis:
                if not self._adopt(ti):
                    refused.append(ti)
            if self._started:
                self.reconciliation.due_now()
            return refused

    def _adopt(self, ti: TaskInstance) -> bool:
        key = compat.task_key(self, ti)
        if key in self.running:  # the scheduler repeats the call after a database error
            return True
        launch_id, foreign_id = ti.external_executor_id, None
        if not launch_id or not identifiers.is_launch_id(launch_id):
            # Not launched by us: a running one goes on without our help, the database will say how it ends.
            if ti.state not in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING):
                return False
            launch_id, foreign_id = str(uuid.uuid4()), launch_id or ""
        # First into running, then ask the ledger (the next sync does): no event can fall in between.
        self.launches.add(Launch(launch_id, key, "task", str(ti.id), task=ti.key, foreign_id=foreign_id))
        self.running.add(key)
        self.log.info("Adopted launch %s of %s", launch_id, key)
        return True

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Take a task back. Its slot is free at once; the next heartbeats tell Redis, a hundred at a time; until
        then nothing newer of this task is handed over. Its pod is deleted unless the task runs by then. Never raises.
        """
        key = compat.task_key(self, ti)
        launch = self.launches.of_key(key)
        compat.forget_queued(self, key)
        self.running.discard(key)
        launch_id = launch.launch_id if launch is not None else ti.external_executor_id
        if launch is not None:
            self.launches.forget(launch)
        if launch_id and self._started:
            self.endings.forget_report(key)
            self.withdrawals.note(launch_id, str(ti.id), "revoked")

    def cleanup_stuck_queued_tasks(self, tis: list[TaskInstance]) -> list[str]:
        """Revoke and fail tasks that are stuck in queued; the deprecated form of `revoke_task`."""
        warnings.warn("cleanup_stuck_queued_tasks is deprecated: use revoke_task", DeprecationWarning, stacklevel=2)
        texts = []
        for ti in tis:
            texts.append(repr(ti))
            self.revoke_task(ti=ti)
            self.fail(compat.task_key(self, ti))
        return texts

    # --- logs, command line -------------------------------------------------------------------------------------------
    def get_streaming_task_log(self, ti: TaskInstance, try_number: int) -> Any:
        """Messages and streams of a running pod's log, straight from Kubernetes. Needs no start() and no Redis."""
        from podrelay.pod_logs import stream_task_log

        return stream_task_log(ti, try_number, self.kube_config, self.team_name, self.running_pod_log_lines)

    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """The same as whole text, for Airflow releases that do not stream."""
        messages, streams = self.get_streaming_task_log(ti, try_number)
        return messages, ["\n".join(stream) for stream in streams] or [""]

    @staticmethod
    def get_cli_commands() -> list[GroupCommand]:
        from podrelay.cli.definitions import get_podrelay_cli_commands

        return get_podrelay_cli_commands()

    # --- small things -------------------------------------------------------------------------------------------------
    def _complain(self, error: Exception) -> None:
        """Say that Redis is away, at most every ten seconds."""
        if time.monotonic() - self._complained_s >= 10.0:
            self._complained_s = time.monotonic()
            self.log.error("%s Work waits and is handed over when it answers.", error)

    def _read_policy(self) -> Policy:
        reasons = self.conf.get(
            "kubernetes_executor", "pod_launch_failure_excluded_container_reasons", fallback="Error"
        )
        return Policy(
            delete_worker_pods=bool(self.kube_config.delete_worker_pods),
            delete_worker_pods_on_failure=bool(self.kube_config.delete_worker_pods_on_failure),
            relaunches=self.conf.getint("kubernetes_executor", "pod_launch_failure_retries", fallback=1),
            excluded_container_reasons=frozenset(r.strip() for r in (reasons or "").split(",") if r.strip()),
        )

    @staticmethod
    def _teams_known() -> bool:
        import inspect

        return "executor_conf" in inspect.signature(KubeConfig.__init__).parameters
