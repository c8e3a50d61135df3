"""The executor: Airflow's calls, translated for the parts in `podrelay.scheduling`, and nothing else.

It renders no pods and never talks to Kubernetes. The only thing it waits for is a round trip to Redis or two, with a timeout
(invariant I5, docs/architecture.md). A call that fails leaves the work where it was, to be retried, and raises nothing into
the scheduler's loop.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.configuration import conf as airflow_conf
from airflow.executors.base_executor import BaseExecutor
from airflow.providers.common.compat.sdk import Stats
from airflow.utils.state import TaskInstanceState
from sqlalchemy.exc import SQLAlchemyError

from podrelay import compat
from podrelay.errors import RedisUnavailable
from podrelay.event_log import OWNER
from podrelay.metrics_table import ADOPTION
from podrelay.protocol import identifiers
from podrelay.protocol.access import SCRIPTS
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling.airflow_db import one_connection
from podrelay.scheduling.context import HeartbeatContext, Identity, read_policy
from podrelay.scheduling.heartbeat import Heartbeat
from podrelay.scheduling.heartbeat_budget import HeartbeatBudget
from podrelay.scheduling.launch_registry import Launch, LaunchRegistry, slot_only
from podrelay.scheduling.queued_check import WorkItem
from podrelay.scheduling.tally import Tally
from podrelay.settings import load_settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.connection import check, connect
from podrelay.store.key_rings import key_ring
from podrelay.store.launch_queue import LaunchQueue
from podrelay.store.ledger import Ledger
from podrelay.store.outage_log import OutageLog
from podrelay.store.permissions import require_rights
from podrelay.store.result_stream import ResultStream
from podrelay.teams import cluster_of, metric_tags

if TYPE_CHECKING:
    from airflow.cli.cli_config import GroupCommand
    from airflow.models.taskinstance import TaskInstance


class RedisKubernetesExecutor(BaseExecutor):
    """Runs each task in a Kubernetes pod, as the stock KubernetesExecutor does, through launchers and a watcher.

    The constructor opens no connection: the API server creates executors only to read logs.
    """

    supports_ad_hoc_ti_run: bool = True
    supports_multi_team: bool = True
    supports_callbacks: bool = True
    supports_connection_test: bool = True
    supported_workload_types = compat.workload_types()  # replaces the two above in 3.4
    pre_assigns_external_executor_id: ClassVar[bool] = True
    is_production: bool = True
    supports_task_instance_uuid: bool = compat.keys_are_ids(BaseExecutor)
    # Plug-ins read this name of the stock executor, and the attributes that the constructor marks.
    RUNNING_POD_LOG_LINES = 100

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conf = compat.executor_conf(self)
        self.team_name = getattr(self, "team_name", None)
        self.kube_config = compat.kube_config(self.conf)
        self.parallelism = self.kube_config.parallelism
        self.running_pod_log_lines = self.conf.getint("kubernetes_executor", "running_pod_log_lines", fallback=100)
        if self.running_pod_log_lines <= 0:
            raise ValueError(
                "The [kubernetes_executor] running_pod_log_lines configuration must be greater than 0, "
                f"got {self.running_pod_log_lines}."
            )
        self.policy = read_policy(self.conf, self.kube_config)
        # Names of the stock executor.
        self.RUNNING_POD_LOG_LINES = self.running_pod_log_lines
        self.task_publish_max_retries = self.conf.getint("kubernetes_executor", "task_publish_max_retries", fallback=0)
        self.pod_launch_failure_max_retries = self.policy.relaunches
        self.pod_launch_failure_excluded_container_reasons = self.policy.excluded_container_reasons
        self.scheduler_job_id: str | None = None
        self.launches = LaunchRegistry()
        self._started = False
        self._event_logs = compat.EventLogKeeper()
        self._outages = OutageLog(self.log, "Launches that Redis does not accept stay queued.")

    # --- life cycle ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Connect. If Redis is unavailable, the executor starts anyway and retries with each heartbeat.

        :raises ConfigError: an option that can never work; the message names it and says what to write.
        """
        # A team's options do not fall back to the global ones, but all teams share one Redis: [podrelay] is global.
        self.settings = load_settings(airflow_conf, airflow_conf.get("core", "fernet_key", fallback=""))
        self.scheduler_job_id = str(self.job_id)
        self._breaker = CircuitBreaker(self.settings, outages=self._outages)
        self.budget = HeartbeatBudget(self._breaker)
        context = self._context()
        self.parts = Heartbeat(context)
        self._sync_has_priority = False
        try:
            with connect(self.settings) as client:
                for warning in check(client):
                    self.log.warning("%s", warning)
                require_rights(client, "scheduler", self.settings.deployment, cluster_of(self.team_name))
            self._breaker.load(*sorted(SCRIPTS["scheduler"]))
            context.results.skip_to_end()
            self.parts.key_check.run_once()  # before the first offer: a launcher that cannot read it must know why
        except RedisUnavailable as error:
            self._outages.failed(error)
        self._started = True
        self.log.info("podrelay: deployment %s, scheduler job %s", self.settings.deployment, self.scheduler_job_id)

    def _context(self) -> HeartbeatContext:
        deployment = self.settings.deployment
        keys, cipher = RedisKeys(deployment), PayloadCipher(self.settings.fernet_key, deployment)
        cluster = cluster_of(self.team_name)
        delete_options = dict(self.kube_config.delete_option_kwargs or {})
        return HeartbeatContext(
            executor=self,
            identity=Identity(str(self.job_id), cluster, self.team_name, self.supports_task_instance_uuid),
            settings=self.settings,
            kube_config=self.kube_config,
            policy=self.policy,
            budget=self.budget,
            launches=self.launches,
            queue=LaunchQueue(self._breaker, keys, cipher, cluster, self.settings.ledger_ttl_s, delete_options),
            ledger=Ledger(self._breaker, keys),
            results=ResultStream(self._breaker, keys, cipher),
            breaker=self._breaker,
            keys=keys,
            key_ring=key_ring(f"scheduler {self.job_id}", cipher),
            tally=Tally(),
        )

    def end(self) -> None:
        """Process the results that have arrived, and disconnect. Pods continue: another scheduler adopts them."""
        if not self._started:
            return
        self.sync()
        if self._breaker.available:
            with self._contained():
                self.parts.results.confirm()
        self._breaker.close()
        self._started = False

    def terminate(self) -> None:
        """Nothing to terminate: the executor has no processes."""

    def heartbeat(self) -> None:
        """Hand over, then `sync`, with one time limit for both."""
        if not self._started:
            super().heartbeat()
            return
        with self.budget, one_connection(), self._reading():
            super().heartbeat()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Redis looks for results while this heartbeat hands over."""
        if self._breaker.available:
            with self._contained():
                self.parts.results.request_next()
        try:
            yield
        finally:
            self.parts.results.withdraw_request()

    # --- hand-over ----------------------------------------------------------------------------------------------------
    def execute_async(self, key: Any, command: Any, queue: str | None = None, executor_config: Any = None) -> None:
        """Hand over one workload now. `command` is a list that contains it."""
        self._hand_over([WorkItem(key, command[0], queue, executor_config)])

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        """Hand over workloads in one round trip. What does not fit stays queued. After a heartbeat in which a slow Redis
        left no budget for `sync`, all of it does: this heartbeat belongs to results.
        """
        for workload in {type(workload): workload for workload in workload_items}.values():
            if compat.kind_of(workload) is None:
                raise RuntimeError(f"{type(self).__name__} cannot handle workloads of type {type(workload)}")
        if self.budget.has_room() and not self._sync_has_priority:
            self._hand_over(map(self._work_item, workload_items))

    def _work_item(self, workload: Any) -> WorkItem:
        ti = getattr(workload, "ti", None)
        queue = ti.queue if ti is not None else getattr(workload, "queue", None)
        key = compat.workload_key(self, workload)
        return WorkItem(key, workload, queue, ti.executor_config if ti is not None else None)

    def _hand_over(self, items: Iterable[WorkItem]) -> None:
        if self._breaker.available:
            with self._contained():
                self.parts.dispatcher.hand_over(items)

    # --- results ------------------------------------------------------------------------------------------------------
    def sync(self) -> None:
        """Withdraw, process results and reconcile, as far as this heartbeat has budget for it. Never raises."""
        if not self._started or not self._breaker.available:
            return
        self._sync_has_priority = not self.budget.has_room()
        with self.budget, self._contained():
            self.parts.run()
            if not self._breaker.has_failed:  # it may not have been called
                self._outages.worked()

    @contextmanager
    def _contained(self) -> Iterator[None]:
        """Log a failure instead of raising it. What failed is retried in a later heartbeat."""
        try:
            yield
        except RedisUnavailable as error:
            self._outages.failed(error)
        except SQLAlchemyError as error:
            self.log.warning("Database unavailable (%s); will retry with the next heartbeat", type(error).__name__)
        except Exception:  # the scheduler's loop serves other executors too
            self.log.exception("Heartbeat of podrelay failed; will retry with the next one")

    def log_task_event(self, *, event: str, extra: str, ti_key: Any) -> None:
        """Add a row to the task's event log. The scheduler saves it after this heartbeat."""
        super().log_task_event(event=event, extra=extra, ti_key=ti_key)
        self._event_logs.keep_newest(self._task_event_logs, OWNER)

    # --- adoption, revocation -----------------------------------------------------------------------------------------
    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Adopt the launches of dead schedulers. Returns only those task instances that certainly have no launch: unknown
        is not dead (invariant I8, docs/architecture.md).
        """
        with Stats.timer(ADOPTION.stats, tags=metric_tags(self.team_name)):
            refused = [ti for ti in tis if not self._adopt(ti)]
            self.log.info("Adopted %d of %d task instances", len(tis) - len(refused), len(tis))
            if self._started:
                self.parts.reconciler.schedule_now()
            return refused

    def _adopt(self, ti: TaskInstance) -> bool:
        key = compat.task_key(self, ti)
        if key in self.running:  # the scheduler repeats the call after a database error
            return True
        launch_id = ti.external_executor_id
        if compat.is_queued_by_nobody(ti):
            return False
        if launch_id and identifiers.is_launch_id(launch_id):
            launch = Launch(launch_id, key, "task", str(ti.id), task=ti.key)
        elif ti.state in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING):
            # Another executor launched it. The database will say how it ends; until then it occupies a slot.
            launch = slot_only(key, str(ti.id), ti.key, launch_id)
        else:
            return False
        # The next `sync` compares it with the ledger. It is registered before, so no report is missed in between.
        self.launches.add(launch)
        self.running.add(key)
        self.log.debug("Adopted launch %s of %s", launch.launch_id, key)
        return True

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Take a task back. Its slot is free at once; the next heartbeats withdraw its launch in Redis, and until then
        no newer launch of this task is handed over. The pod is deleted unless the task runs by then. Never raises.
        """
        key = compat.task_key(self, ti)
        launch = self.launches.of_key(key)
        compat.forget_queued(self, key)
        self.running.discard(key)
        launch_id = launch.launch_id if launch is not None else ti.external_executor_id
        if launch is not None:
            self.launches.forget(launch)
        if launch_id and self._started:
            self.parts.results.failures.forget(key)
            self.parts.revocations.request(launch_id, str(ti.id), "revoked")

    def cleanup_stuck_queued_tasks(self, tis: list[TaskInstance]) -> list[str]:
        """Revoke and fail tasks that are stuck in queued. Deprecated in favour of `revoke_task`."""
        warnings.warn("cleanup_stuck_queued_tasks is deprecated: use revoke_task", DeprecationWarning, stacklevel=2)
        texts = []
        for ti in tis:
            texts.append(repr(ti))
            self.revoke_task(ti=ti)
            self.fail(compat.task_key(self, ti))
        return texts

    # --- logs, command line -------------------------------------------------------------------------------------------
    def get_streaming_task_log(self, ti: TaskInstance, try_number: int) -> Any:
        """Messages and streams of a running pod's log, read from Kubernetes. Works without `start` and without Redis."""
        from podrelay.pod_logs import stream_task_log

        return stream_task_log(ti, try_number, self.kube_config, self.team_name, self.running_pod_log_lines)

    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """The log as text, for Airflow releases that cannot stream it."""
        messages, streams = self.get_streaming_task_log(ti, try_number)
        return messages, ["\n".join(stream) for stream in streams] or [""]

    @staticmethod
    def get_cli_commands() -> list[GroupCommand]:
        from podrelay.cli.definitions import get_podrelay_cli_commands

        return get_podrelay_cli_commands()
