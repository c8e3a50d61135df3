"""The executor: Airflow's calls, translated. It renders nothing and never talks to Kubernetes; what it waits for is one
or two round trips to Redis with a timeout. Whatever goes wrong is kept and tried again, nothing is raised into the
scheduler's loop.
"""

from __future__ import annotations

import logging
import time
import uuid
import warnings
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.configuration import conf as airflow_conf
from airflow.executors.base_executor import BaseExecutor
from airflow.providers.cncf.kubernetes.kube_config import KubeConfig
from airflow.providers.common.compat.sdk import Stats
from airflow.utils.helpers import prune_dict
from airflow.utils.state import TaskInstanceState
from sqlalchemy.exc import SQLAlchemyError

from podrelay import compat, names
from podrelay.errors import ConfigError, RelayUnavailable, WireError
from podrelay.launch_queue import Acknowledgement, LaunchQueue
from podrelay.launches import Launch, Launches
from podrelay.ledger import Finding, Ledger
from podrelay.names import Names
from podrelay.outcomes import Decision, Policy, cleanup_for, decide, explain, superseded
from podrelay.redis_client import check, connect
from podrelay.relay import Relay
from podrelay.requests import InvalidExecutorConfig, request_for, with_new_token
from podrelay.result_stream import ResultStream
from podrelay.sealing import Seal
from podrelay.settings import load_settings
from podrelay.task_rows import alive_schedulers, coordinates, rebuild_workloads, rows_by_key, rows_by_subject
from podrelay.wire import CleanupRequest, LaunchRequest, PodResult

if TYPE_CHECKING:
    from airflow.cli.cli_config import GroupCommand
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)

# Launches compared with ledger and database in one sync: bounds the time of a heartbeat, whatever is running.
CHECKED_AT_ONCE = 500
# A reason why a task still waits is written to its event log at most once in this time.
TELL_AGAIN_S = 60.0
# Results that nobody acknowledged for this long may belong to a scheduler that is dead.
# Half as long again passes until somebody looks, and all of it fits into a minute.
ABANDONED_AFTER_S = 20.0
# The states in which a task instance needs its launch.
_WANTED = frozenset({"queued", "running", "restarting"})


class RedisKubernetesExecutor(BaseExecutor):
    """Runs each task in a Kubernetes pod, as the stock KubernetesExecutor does, through launchers and a watcher.

    Constructing it opens nothing: the API server constructs executors only to read logs.
    """

    supports_ad_hoc_ti_run: bool = True
    supports_multi_team: bool = True
    supports_callbacks: bool = True
    supports_connection_test: bool = True
    pre_assigns_external_executor_id: ClassVar[bool] = True
    is_production: bool = True
    # From here on: names of the stock executor that plug-ins read. Ours are written in small letters.
    RUNNING_POD_LOG_LINES = 100
    supports_task_instance_uuid: bool = hasattr(BaseExecutor, "get_task_key")

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
        self.launches = Launches()
        self._started = False
        # Results that were read and could not be handled yet, and launches to be taken back, while Redis or the
        # database does not answer.
        self._unhandled: deque[PodResult] = deque()
        self._to_withdraw: dict[str, str] = {}
        # Failures that were reported: the scheduler loses an event when another one holds the task's row at that moment.
        self._reported: dict[Any, tuple[str, str, str | None, float]] = {}
        # Airflow 3.3.2 saves event logs from a generator that lets go of each before it is written, and then writes rows
        # of nothing: as long as we hold them too, they arrive.
        self._kept_logs: deque[Any] = deque(maxlen=2000)
        self._epoch = ""
        self._next_check_s = 0.0
        self._next_sweep_s = 0.0
        self._complained_s = float("-inf")

    # --- life -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Connect. A Redis that is down is waited for; options that can never work raise.

        :raises ConfigError: names the option and says what to write.
        """
        # Team options have no fall-back to the unprefixed ones, but there is one Redis for all: [podrelay] is global.
        self.settings = load_settings(airflow_conf, airflow_conf.get("core", "fernet_key", fallback=""))
        self.scheduler_job_id = str(self.job_id)
        self.cluster = self.team_name or names.DEFAULT_CLUSTER
        self._names = Names(self.settings.deployment)
        self._relay = Relay(self.settings)
        seal = Seal(self.settings.fernet_key)
        self._queue = LaunchQueue(self._relay, self._names, seal, self.cluster, self.settings.ledger_ttl_s)
        self._ledger = Ledger(self._relay, self._names)
        self._results = ResultStream(self._relay, self._names, seal)
        try:
            with connect(self.settings) as client:
                for warning in check(client):
                    self.log.warning("%s", warning)
            self._results.skip_to_end()
        except RelayUnavailable as error:
            self._complain(error)
        self._started = True
        self.log.info("podrelay: deployment %s, scheduler job %s", self.settings.deployment, self.scheduler_job_id)

    def end(self) -> None:
        """Take the results that are there, and close. Pods go on: another scheduler adopts them."""
        if not self._started:
            return
        self.sync()
        self._relay.close()
        self._started = False

    def terminate(self) -> None:
        """Nothing to terminate: no process is ours."""

    # --- handing over -------------------------------------------------------------------------------------------------
    def execute_async(self, key: Any, command: Any, queue: str | None = None, executor_config: Any = None) -> None:
        """Hand one workload over now. `command` is a list that holds it."""
        self._hand_over([(key, command[0], queue, executor_config)])

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        """Hand workloads over in one round trip. What cannot be handed over now stays queued."""
        items = []
        for workload in workload_items:
            if compat.kind_of(workload) is None:
                raise RuntimeError(f"{type(self).__name__} cannot handle workloads of type {type(workload)}")
            ti = getattr(workload, "ti", None)
            queue = ti.queue if ti is not None else getattr(workload, "queue", None)
            items.append((workload.key, workload, queue, ti.executor_config if ti is not None else None))
        self._hand_over(items)

    def _hand_over(self, items: Iterable[tuple[Any, Any, str | None, Any]]) -> None:
        if not self._relay.available:
            return
        made = []
        for key, workload, queue, executor_config in items:
            pre_assigned = getattr(getattr(workload, "ti", None), "external_executor_id", None)
            launch_id = pre_assigned or str(uuid.uuid4())
            try:
                request = self._request(workload, launch_id, executor_config, queue)
            except InvalidExecutorConfig as error:
                self.log.error("Invalid executor_config for %s: %s", key, error)
                compat.forget_queued(self, key)
                self.fail(key=key, info="Invalid executor_config passed")
                continue
            made.append(
                (
                    Launch(launch_id, key, request.kind, request.subject, request=request, workload=workload),
                    pre_assigned,
                )
            )
        if not made:
            return
        begun = time.monotonic()
        try:
            answers = self._queue.offer([(launch.request, 0) for launch, _ in made if launch.request])
        except RelayUnavailable as error:
            self._complain(error)
            return
        # What a batch costs the scheduler's loop: a round trip to Redis; the stock executor creates its pods in it.
        Stats.timing("kubernetes_executor.pod_creation_batch_duration", timedelta(seconds=time.monotonic() - begun))
        Stats.gauge("kubernetes_executor.pod_creation_batch_size", len(made))
        for (launch, pre_assigned), answer in zip(made, answers, strict=True):
            self._take_over(launch, announce=not pre_assigned)
            self.log.debug("Launch %s of %s: %s", launch.launch_id, launch.key, answer)

    def _take_over(self, launch: Launch, *, announce: bool) -> None:
        """From now on the launch is running in Airflow's sense: it holds a slot until its end is known."""
        before = self.launches.add(launch)
        if before is not None and not before.withdrawn:
            before.withdrawn = True
            self._to_withdraw[before.launch_id] = before.subject
        compat.forget_queued(self, launch.key)
        self._reported.pop(launch.key, None)
        self.running.add(launch.key)
        if announce and launch.kind == "task":
            self.event_buffer[launch.key] = (TaskInstanceState.QUEUED, launch.launch_id)

    def _request(self, workload: Any, launch_id: str, executor_config: Any, queue: str | None) -> LaunchRequest:
        return request_for(
            workload, launch_id, self.scheduler_job_id or "", self.kube_config, cluster=self.cluster,
            team=self.team_name, executor_config=executor_config, queue=queue,
        )  # fmt: skip

    # --- results ------------------------------------------------------------------------------------------------------
    def sync(self) -> None:
        """Take results, report them, compare with the ledger when it is time. Bounded, and never raises."""
        if not self._started or not self._relay.available:
            return
        try:
            self._withdraw_pending()
            self._take_results()
            self._reconcile()
        except RelayUnavailable as error:
            self._complain(error)
        except SQLAlchemyError as error:
            self.log.warning("The database does not answer; results wait: %s", type(error).__name__)
        except Exception:  # the scheduler's loop serves every other executor too: log it and go on
            self.log.exception("podrelay could not finish this sync; the rest is tried again")

    def _take_results(self) -> None:
        if len(self._unhandled) < self.settings.result_batch_size:
            self._unhandled.extend(self._results.read(self.settings.result_batch_size))
        batch = [self._unhandled[i] for i in range(min(len(self._unhandled), self.settings.result_batch_size))]
        self._handle(batch)
        for _ in batch:
            self._unhandled.popleft()

    def _handle(self, results: Sequence[PodResult]) -> None:
        """Act on results of our own launches; repeating it after a failure in the middle is safe."""
        ended: list[tuple[Launch, PodResult]] = []
        for result in results:
            launch = self.launches.get(result.launch_id)
            if launch is None or result.attempt != launch.attempt:
                continue
            if result.terminal:
                ended.append((launch, result))
            else:
                self._tell(launch, result)
        if not ended:
            return
        rows = rows_by_key(launch.key for launch, _ in ended if launch.kind == "task")
        decided = []
        for launch, result in ended:
            if launch.kind != "task":
                decision = self._decide_other(result)
            elif not self.launches.is_newest(launch):
                decision = Decision(cleanup=cleanup_for(result, self.policy))
            else:
                row = rows.get(coordinates(launch.key))
                decision = decide(result, launch.key.try_number, launch.relaunches, row, self.policy)
            decided.append((launch, result, decision))
        again = self._prepare_again([(launch, decision) for launch, _, decision in decided if decision.next_attempt])
        self._queue.acknowledge([self._acknowledgement(launch, result, d, again) for launch, result, d in decided])
        self._offer_again(again)
        for launch, result, decision in decided:
            if launch.launch_id not in again:
                self._finish(launch, result, decision)

    def _acknowledgement(
        self, launch: Launch, result: PodResult, decision: Decision, again: dict[str, Launch]
    ) -> Acknowledgement:
        cleanup = None
        if decision.cleanup:
            cleanup = CleanupRequest(
                launch.launch_id, decision.cleanup, result.namespace, result.pod, result.uid, self.cluster,
                dict(self.kube_config.delete_option_kwargs or {}),
            )  # fmt: skip
        return Acknowledgement(
            launch.launch_id, result.attempt, launch.subject, over=launch.launch_id not in again, cleanup=cleanup
        )

    def _finish(self, launch: Launch, result: PodResult, decision: Decision) -> None:
        newest = self.launches.is_newest(launch)
        self.launches.forget(launch)
        if not newest:
            return
        self.running.discard(launch.key)
        if result.outcome == "failed":
            self._log_failure(launch, result)
        if decision.next_attempt:  # it was wanted again and could not be made: the database no longer has it queued
            return
        if decision.event is None:
            return
        state, info = decision.event
        if launch.kind == "task":
            self.event_buffer[launch.key] = (TaskInstanceState(state) if state else None, info)
            if state == TaskInstanceState.FAILED and result.outcome == "failed":
                self._reported[launch.key] = (launch.launch_id, state, info, time.monotonic())
        elif state == "success":
            self.success(launch.key, info)
        else:
            self.fail(launch.key, info)

    def _decide_other(self, result: PodResult) -> Decision:
        """A callback or a connection test has no row of a task instance: its pod's end is all there is."""
        if result.outcome == "expired":
            return Decision(next_attempt="new_token")
        ended_well = result.outcome == "succeeded"
        event = ("success", None) if ended_well else ("failed", explain(result))
        return Decision(event=event, cleanup=cleanup_for(result, self.policy))

    def _tell(self, launch: Launch, result: PodResult) -> None:
        """Why a task still waits, in its event log; that a callback runs, in the event buffer."""
        if result.outcome == "started" and launch.kind == "callback":
            self.running_state(launch.key)
        elif result.outcome == "pending" and launch.kind == "task" and launch.tell(result.reason, TELL_AGAIN_S):
            self.log_task_event(event="pod pending", extra=f"{result.reason}: {result.message}", ti_key=launch.key)

    def log_task_event(self, *, event: str, extra: str, ti_key: Any) -> None:
        """Add a row to the task's event log; the scheduler writes it after this heartbeat."""
        super().log_task_event(event=event, extra=extra, ti_key=ti_key)
        if self._task_event_logs:
            self._kept_logs.append(self._task_event_logs[-1])

    def _log_failure(self, launch: Launch, result: PodResult) -> None:
        self.log.warning("Task %s: %s", launch.key, explain(result))
        if launch.kind == "task":
            tail = "".join(f"\n    {line}" for line in result.log_tail)
            self.log_task_event(
                event="pod failed", extra=explain(result) + (tail and f"\nLast log lines:{tail}"), ti_key=launch.key
            )

    # --- another attempt ----------------------------------------------------------------------------------------------
    def _prepare_again(self, wanted: Sequence[tuple[Launch, Decision]]) -> dict[str, Launch]:
        """The launches as they will be offered again, by id: next attempt, fresh token."""
        self._rebuild([launch for launch, _ in wanted if launch.workload is None])
        again = {}
        for launch, decision in wanted:
            if launch.request is None or launch.workload is None:
                continue
            request, workload = with_new_token(launch.request, launch.workload, self.jwt_generator)
            attempt = launch.attempt + 1
            again[launch.launch_id] = replace(
                launch, attempt=attempt, request=replace(request, attempt=attempt), workload=workload,
                relaunches=launch.relaunches + (decision.next_attempt == "relaunch"),
            )  # fmt: skip
        return again

    def _offer_again(self, again: dict[str, Launch]) -> None:
        self._queue.offer([(launch.request, launch.relaunches) for launch in again.values() if launch.request])
        for launch in again.values():
            self.launches.add(launch)
            self.log.info("Launch %s of %s goes into attempt %d", launch.launch_id, launch.key, launch.attempt + 1)

    def _rebuild(self, launches: Sequence[Launch]) -> None:
        """Fill in requests that only a dead scheduler knew, from the database."""
        wanted = [launch for launch in launches if launch.kind == "task"]
        if not wanted:
            return
        made = rebuild_workloads([launch.subject for launch in wanted], self.jwt_generator)
        for launch in wanted:
            workload, executor_config = made.get(launch.subject, (None, None))
            if workload is None:
                if executor_config is not None:
                    self._refuse(launch, executor_config)
                continue
            try:
                request = self._request(workload, launch.launch_id, executor_config, workload.ti.queue)
            except InvalidExecutorConfig as error:
                self._refuse(launch, error)
                continue
            launch.workload, launch.request = workload, replace(request, attempt=launch.attempt)

    def _refuse(self, launch: Launch, error: Exception) -> None:
        """The row of this launch holds an executor_config that can never become a pod."""
        self.log.error("Invalid executor_config for %s: %s", launch.key, error)
        self.launches.forget(launch)
        self.fail(key=launch.key, info="Invalid executor_config passed")

    # --- reconciliation -----------------------------------------------------------------------------------------------
    def _reconcile(self) -> None:
        now = time.monotonic()
        if now >= self._next_check_s or not self.launches.round_is_over:
            if self.launches.round_is_over:
                self._next_check_s = now + self.settings.reconcile_interval_s
                self._free_slots_without_launch()
                self._report_again(now)
            self._check(self.launches.next_to_check(CHECKED_AT_ONCE))
        if now >= self._next_sweep_s:
            self._next_sweep_s = now + ABANDONED_AFTER_S / 2
            self._sweep_abandoned()

    def _check(self, turn: Sequence[Launch]) -> None:
        """Compare some launches with the ledger and the database, and mend what differs."""
        epoch, findings = self._ledger.survey([(launch.launch_id, launch.attempt) for launch in turn])
        if self._epoch and epoch != self._epoch:
            self.log.warning("Redis lost its data; launches are handed over again")
            self._results.rewind()
            self.launches.check_all_again()
        self._epoch = epoch
        rows = rows_by_subject([launch.subject for launch in turn if launch.kind == "task"])
        self._take_found_results(findings)
        gone = {
            finding.launch_id: finding.what for finding in findings if finding.what in ("missing", "lost", "withdrawn")
        }
        offer = []
        for launch in turn:
            if self.launches.get(launch.launch_id) is not launch:
                continue
            row = rows.get(launch.subject)
            what = gone.get(launch.launch_id)
            if not what and self._ended_by_itself(launch, row):
                continue
            if launch.kind == "task" and self._unwanted(launch, row):
                self._to_withdraw[launch.launch_id] = launch.subject
                # One that is withdrawn already may have a pod that runs: its end is still to be told and cleaned up.
                if what and what != "withdrawn":
                    self._drop(launch)
            elif what == "withdrawn":
                self._drop(launch)
            elif what and (launch.kind != "task" or (row is not None and row.state == "queued")):
                offer.append(launch)
        self._rebuild([launch for launch in offer if launch.request is None])
        again = [launch for launch in offer if launch.request is not None]
        if again:
            self.log.warning("%d launches had no entry in Redis and are handed over again", len(again))
            self._queue.offer([(launch.request, launch.relaunches) for launch in again if launch.request])
        self._withdraw_pending()

    def _ended_by_itself(self, launch: Launch, row: Any) -> bool:
        """The task is over, and the watcher has not told of its pod yet: that pod may still be writing its log."""
        if launch.kind != "task" or launch.withdrawn or launch.foreign_id is not None:
            return False
        if not self.launches.is_newest(launch) or superseded(launch.launch_id, launch.key.try_number, row):
            return False
        return bool(row.began) and row.state not in _WANTED

    def _unwanted(self, launch: Launch, row: Any) -> bool:
        if launch.withdrawn or not self.launches.is_newest(launch):
            return True
        if launch.foreign_id is not None:
            return (
                row is None or (row.launch_id or "") != launch.foreign_id or row.state not in ("running", "restarting")
            )
        return superseded(launch.launch_id, launch.key.try_number, row) or row.state not in _WANTED

    def _take_found_results(self, findings: Sequence[Finding]) -> None:
        """Results that the ledger has and the stream did not bring, and attempts that another process made."""
        results = []
        for finding in findings:
            launch = self.launches.get(finding.launch_id)
            if launch is None:
                continue
            if finding.what == "ahead":
                launch.attempt, launch.relaunches = finding.attempt, finding.relaunches
            if finding.sealed_result:
                try:
                    results.append(self._results.open(finding.sealed_result))
                except WireError as error:
                    self.log.warning("The ledger's result of launch %s cannot be trusted: %s", finding.launch_id, error)
        self._handle(results)

    def _drop(self, launch: Launch) -> None:
        """Neither entry, nor pod, nor wish: the slot is free."""
        if self.launches.is_newest(launch):
            self.running.discard(launch.key)
        self.launches.forget(launch)

    def _withdraw_pending(self) -> None:
        """Take back what is no longer wanted; delete the pods among it that have not started."""
        if not self._to_withdraw:
            return
        items = list(self._to_withdraw.items())[:CHECKED_AT_ONCE]
        cleanups = []
        for (launch_id, subject), known in zip(items, self._queue.withdraw(items), strict=True):
            launch = self.launches.get(launch_id)
            # A launch that a newer one of its key supersedes has run: that is how its task came to be queued again. Its
            # pod is about to end by itself, and may still be writing its log.
            outrun = launch is not None and not self.launches.is_newest(launch)
            revoked = known.pod and known.state in ("created", "withdrawn") and not known.started and not outrun
            if revoked:
                cleanups.append(self._revocation(launch_id, subject, known))
            if launch is not None:
                launch.withdrawn = True
                if revoked or (known.state in ("", "offered", "waiting", "withdrawn") and not known.pod):
                    self._drop(launch)
        self._queue.acknowledge(cleanups)
        for launch_id, _ in items:
            self._to_withdraw.pop(launch_id, None)

    def _revocation(self, launch_id: str, subject: str, known: Any) -> Acknowledgement:
        cleanup = CleanupRequest(launch_id, "revoke", known.namespace, known.pod, known.uid, self.cluster,
                                 dict(self.kube_config.delete_option_kwargs or {}))  # fmt: skip
        return Acknowledgement(launch_id, int(known.attempt or 0), subject, cleanup=cleanup)

    def _free_slots_without_launch(self) -> None:
        for key in [key for key in self.running if self.launches.of_key(key) is None]:
            self.log.warning("%s holds a slot without a launch; the slot is freed", key)
            self.running.discard(key)

    def _report_again(self, now_s: float) -> None:
        """An event is lost when another scheduler holds the row at that moment: report it until the row shows it."""
        due = {
            key: told for key, told in self._reported.items() if now_s - told[3] > self.settings.reconcile_interval_s
        }
        rows = rows_by_key(due)
        for key, (launch_id, state, info, _) in due.items():
            row = rows.get(coordinates(key))
            if superseded(launch_id, key.try_number, row) or row is None or row.state not in _WANTED:
                del self._reported[key]
            elif key not in self.running and not compat.queued(self, key):
                self.event_buffer[key] = (TaskInstanceState(state), info)

    def _sweep_abandoned(self) -> None:
        """Acknowledge results of launches whose scheduler is dead and which nobody adopted: their pods must go."""
        found = self._ledger.unacknowledged(ABANDONED_AFTER_S, time.time(), CHECKED_AT_ONCE)
        mine = [launch_id for launch_id in found if self.launches.get(launch_id) is None]
        if not mine:
            return
        alive = alive_schedulers(airflow_conf.getint("scheduler", "scheduler_health_check_threshold")) - {
            self.scheduler_job_id
        }
        cleanups = []
        for launch_id, entry in zip(mine, self._ledger.entries(mine), strict=True):
            if not entry or (entry.get("owner") in alive) or entry.get("cluster", self.cluster) != self.cluster:
                continue
            try:
                result = self._results.open(entry.get("result", ""))
            except WireError:
                continue
            launch = Launch(
                launch_id, None, entry.get("kind", "task"), entry.get("subject", ""), attempt=result.attempt
            )
            decision = Decision(cleanup=cleanup_for(result, self.policy))
            cleanups.append(self._acknowledgement(launch, result, decision, {}))
        self._queue.acknowledge(cleanups)

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
            self._next_check_s = 0.0
            self.launches.check_all_again()
            return refused

    def _adopt(self, ti: TaskInstance) -> bool:
        key = compat.task_key(self, ti)
        if key in self.running:  # the scheduler repeats the call after a database error
            return True
        launch_id, foreign_id = ti.external_executor_id, None
        if not launch_id or not _is_launch_id(launch_id):
            # Not launched by us: a running one goes on without our help, the database will say how it ends.
            if ti.state not in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING):
                return False
            launch_id, foreign_id = str(uuid.uuid4()), launch_id or ""
        # First into running, then ask the ledger (the next sync does): no event can fall in between.
        self.launches.add(Launch(launch_id, key, "task", str(ti.id), foreign_id=foreign_id))
        self.running.add(key)
        self.log.info("Adopted launch %s of %s", launch_id, key)
        return True

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Take a task back: one write to Redis. Its pod is deleted unless the task runs by now. Never raises."""
        key = compat.task_key(self, ti)
        launch = self.launches.of_key(key)
        compat.forget_queued(self, key)
        self.running.discard(key)
        self._reported.pop(key, None)
        launch_id = launch.launch_id if launch is not None else ti.external_executor_id
        if not launch_id:
            return
        if launch is not None:
            self.launches.forget(launch)
        self._to_withdraw[launch_id] = str(ti.id)
        try:
            self._revoke_now(launch_id, ti)
        except RelayUnavailable as error:
            self._complain(error)
        except Exception:  # Airflow's contract: revoking never raises
            self.log.exception("Could not revoke %s now; it is tried again", key)

    def _revoke_now(self, launch_id: str, ti: TaskInstance) -> None:
        subject = self._to_withdraw[launch_id]
        known = self._queue.withdraw([(launch_id, subject)])[0]
        if known.pod and not (known.started and self._runs_by_now(ti)):
            self._queue.acknowledge([self._revocation(launch_id, subject, known)])
        del self._to_withdraw[launch_id]

    def _runs_by_now(self, ti: TaskInstance) -> bool:
        row = rows_by_key([ti.key]).get((ti.dag_id, ti.task_id, ti.run_id, ti.map_index))
        return row is not None and row.state == "running" and row.subject == str(ti.id)

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
        from podrelay.cli import get_podrelay_cli_commands

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


def _is_launch_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


__all__ = ["ConfigError", "RedisKubernetesExecutor"]
