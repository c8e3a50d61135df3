"""Every metric of podrelay: its names, labels and meaning. Pure.

Processes emit by these entries, `docs/metrics.md` is generated from them, and tests compare `monitoring/` with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from podrelay.errors import QuarantineKind
from podrelay.protocol.lifecycle import STEPS
from podrelay.protocol.messages import FailureClass, Outcome
from podrelay.protocol.starts import STARTS as START_WORDS

# What stands for every label value that is not in the table: texts from Redis and from Kubernetes never become a series.
OTHER = "other"
# Whose metric it is. `leader` is the leading watcher: what it exports is true of the whole cluster or deployment.
# A scheduler serves no endpoint: its metrics exist in Airflow's stats only.
Process = Literal["launcher", "watcher", "leader", "worker", "scheduler"]
Type = Literal["counter", "gauge", "histogram"]

# Upper bounds in seconds: of one request to the API server, and of what a launch waits for.
REQUEST_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WAIT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Why a launcher puts a launch or a clean-up back, or gives it up.
REASONS = _words(
    "ApiServerError ApiServerUnavailable ApiServerUnreachable CleanupRefused Conflict Interrupted InvalidPod KeyMismatch "
    "LauncherCrashed LauncherError NamespaceNotFound PodMutationHookException PodPolicyViolation PodReconciliationError "
    "PodRefused QuotaExceeded SecretRefused StillChanging Throttled TokenExpired Unauthorized UnknownCommand UnknownFormat "
    "WebhookFailed"
)
# Why a launch waits, as `status` groups it: before its pod exists, or in its pod.
WAIT_REASONS = REASONS | _words(
    "ContainerCreating CreateContainerConfigError CreateContainerError ErrImageNeverPull ErrImagePull ImageInspectError "
    "ImagePullBackOff InvalidImageName NoLauncher NodeNotResponding NotScheduled PodInitializing Queued RegistryUnavailable "
    "RunContainerError Suspended Unschedulable"
)


@dataclass(frozen=True)
class Label:
    """`values` are all values it can have, beside `OTHER`; `shown` describes them where they are too many to list."""

    name: str
    values: frozenset[str]
    shown: str = ""

    def known(self, value: str) -> str:
        """The value if the table has it, else `OTHER`."""
        return value if value in self.values else OTHER


def _label(name: str, values: str, shown: str = "") -> Label:
    return Label(name, _words(values), shown)


STATUS = Label(
    "status", frozenset(["error", *map(str, range(100, 600))]), "the HTTP status, or `error` without an answer"
)
REASON = Label("reason", REASONS)
WAIT_REASON = Label("reason", WAIT_REASONS)
KIND = _label("kind", "launch cleanup")
PRIORITY = _label("priority", "p1 p2 p4 p8 p16 p32 p64 p128 cleanup")
WHAT = _label("what", "job launch stream_entry key")
WHY = Label("why", frozenset(get_args(QuarantineKind)))
STEP = Label("step", frozenset(STEPS))
OUTCOME = Label("outcome", frozenset(get_args(Outcome)))
FAILURE_CLASS = Label("failure_class", frozenset(name or "none" for name in get_args(FailureClass)))
JOB_STATE = _label("state", "queued started waiting failed")
POD_STATE = _label("state", "starting running ending")
LAUNCHER_STATE = _label("state", "alive silent throttled draining")
SCOPE = _label("scope", "launches cleanups")
# How a launch got its pod; all but `warm` say why it did not get a warm one.
START = Label("start", frozenset(START_WORDS))
WARM_POD_STATE = _label("state", "idle starting")


@dataclass(frozen=True)
class Metric:
    """`name` is Prometheus' name without `_total`. `stats` is the name in Airflow's stats, empty if it is not there;
    `{label}` in it stands for the value of a label, and labels that it does not hold become tags. Histograms are in seconds,
    in Airflow's stats in milliseconds.
    """

    name: str
    type: Type
    process: Process
    meaning: str
    labels: tuple[Label, ...] = ()
    stats: str = ""
    bounds_s: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        return f"{self.name}_total" if self.type == "counter" else self.name


TABLE: list[Metric] = []


def _add(
    name: str,
    kind: Type,
    process: Process,
    meaning: str,
    *labels: Label,
    stats: str = "",
    bounds_s: tuple[float, ...] = (),
) -> Metric:
    metric = Metric(name, kind, process, meaning, labels, stats or _stats_name(name, kind, process, labels), bounds_s)
    TABLE.append(metric)
    return metric


def _stats_name(name: str, kind: Type, process: Process, labels: tuple[Label, ...]) -> str:
    """Plain StatsD keeps one value of a gauge, and drops tags. So labels are in the name, and gauges that several processes
    have are not sent at all.
    """
    own = name.replace("podrelay_", "podrelay.", 1)
    if kind != "gauge":
        return own
    return ".".join([own, *(f"{{{label.name}}}" for label in labels)]) if process == "leader" else ""


# --- launchers ----------------------------------------------------------------------------------------------------
POD_CREATION = _add(
    "podrelay_pod_creation_seconds", "histogram", "launcher", "requests that created a pod",
    stats="kubernetes_executor.pod_creation", bounds_s=REQUEST_BOUNDS_S,
)  # fmt: skip
POD_CREATION_STATUS = _add(
    "podrelay_pod_creation_answers", "counter", "launcher", "answers to requests that create a pod", STATUS,
    stats="kubernetes_executor.pod_creation_status",
)  # fmt: skip
SECRET_CREATION_STATUS = _add(
    "podrelay_secret_creation_answers", "counter", "launcher",
    "answers to requests that create the Secret of a pod (`workload_in_secret`)", STATUS,
    stats="podrelay.secret_creation_status",
)  # fmt: skip
POD_DELETION = _add(
    "podrelay_pod_deletion_seconds", "histogram", "launcher", "requests that delete a pod",
    stats="kubernetes_executor.pod_deletion", bounds_s=REQUEST_BOUNDS_S,
)  # fmt: skip
POD_DELETION_STATUS = _add(
    "podrelay_pod_deletion_answers", "counter", "launcher", "answers to requests that delete a pod", STATUS,
    stats="kubernetes_executor.pod_deletion_status",
)  # fmt: skip
POD_PATCHING = _add(
    "podrelay_pod_patching_seconds", "histogram", "launcher", "requests that label a pod",
    stats="kubernetes_executor.pod_patching", bounds_s=REQUEST_BOUNDS_S,
)  # fmt: skip
POD_PATCHING_STATUS = _add(
    "podrelay_pod_patching_answers", "counter", "launcher", "answers to requests that label a pod", STATUS,
    stats="kubernetes_executor.pod_patching_status",
)  # fmt: skip
LAUNCH_WAIT = _add(
    "podrelay_launch_wait_seconds", "histogram", "launcher", "from the offer of a launch to its pod",
    stats="podrelay.launch_wait", bounds_s=WAIT_BOUNDS_S,
)  # fmt: skip
LAUNCH_WAITS = _add(
    "podrelay_launch_waits",
    "counter",
    "launcher",
    "launches put back to wait after the API server refused them",
    REASON,
)
LAUNCH_FAILURES = _add("podrelay_launch_failures", "counter", "launcher", "launches given up without a pod", REASON)
REFUSALS = _add("podrelay_refusals", "counter", "launcher", "requests that the API server refused", KIND, REASON)
JOBS_IN_FLIGHT = _add(
    "podrelay_jobs_in_flight", "gauge", "launcher", "launches and clean-ups that this launcher holds", KIND
)
REQUESTS_IN_FLIGHT = _add("podrelay_requests_in_flight", "gauge", "launcher", "requests to the API server in flight")
REQUEST_LIMIT = _add(
    "podrelay_request_limit", "gauge", "launcher", "how many requests this launcher sends at once at present"
)
THROTTLED = _add(
    "podrelay_throttled_seconds",
    "gauge",
    "launcher",
    "for how long this launcher will not send requests of this kind",
    SCOPE,
)
# With `warm_pods_max` only.
STARTS = _add(
    "podrelay_starts", "counter", "launcher",
    "launches by how they got their pod: a warm pod, or why a pod was created (`warm_pods_max`)", START,
)  # fmt: skip
WARM_ASSIGNMENT = _add(
    "podrelay_warm_assignment_seconds", "histogram", "launcher",
    "from the claim of a launch until its warm pod had the workload", bounds_s=REQUEST_BOUNDS_S,
)  # fmt: skip
WARM_PODS = _add(
    "podrelay_warm_pods",
    "gauge",
    "launcher",
    "warm pods without a task; from the launcher that keeps them",
    WARM_POD_STATE,
)

# --- watchers -----------------------------------------------------------------------------------------------------
LEADING = _add("podrelay_watcher_leading", "gauge", "watcher", "1 if this watcher leads, 0 if it stands by")
LIST_AGE = _add(
    "podrelay_watch_list_age_seconds",
    "gauge",
    "leader",
    "since the pods of the namespace that is furthest behind were listed",
)
EVENT_AGE = _add(
    "podrelay_watch_event_age_seconds", "gauge", "leader",
    "since the last event or bookmark of the namespace that is furthest behind",
)  # fmt: skip
BOOKMARK_AGE = _add(
    "podrelay_watch_bookmark_age_seconds", "gauge", "leader",
    "since the last bookmark of the namespace that is furthest behind",
)  # fmt: skip
WATCH_LAG = _add(
    "podrelay_watch_lag_seconds", "gauge", "leader",
    "from the start or the end of a container to the event that reports it: the recent median",
)  # fmt: skip
WATCH_TROUBLE = _add("podrelay_watch_troubled", "gauge", "leader", "1 while pods cannot be listed or watched")
UNSENT = _add("podrelay_unsent_reports", "gauge", "watcher", "reports that Redis has not accepted yet")
REPORTS = _add(
    "podrelay_reports", "counter", "leader",
    "reports published, by what became of the pod; `failure_class` is `none` unless it failed", OUTCOME, FAILURE_CLASS,
)  # fmt: skip
LIFECYCLE = _add(
    "podrelay_lifecycle_seconds", "histogram", "leader",
    "from the step before to this step, of launches that ended; the scheduler emits `acknowledged`, in Airflow's stats only",
    STEP, stats="podrelay.lifecycle.{step}", bounds_s=WAIT_BOUNDS_S,
)  # fmt: skip
QUARANTINED = _add(
    "podrelay_quarantined", "counter", "leader",
    "entries in Redis that could not be trusted or read, since this watcher began to lead; the leader of the default "
    "cluster counts them for all",
    WHAT, WHY,
)  # fmt: skip

# --- the whole deployment, as the leading watcher reads it from Redis -----------------------------------------------
QUEUE = _add("podrelay_queue_jobs", "gauge", "leader", "jobs in the queues of this priority", PRIORITY, JOB_STATE)
OLDEST_QUEUED = _add(
    "podrelay_oldest_queued_seconds",
    "gauge",
    "leader",
    "how long the oldest queued job of this priority has waited",
    PRIORITY,
)
WAITING = _add(
    "podrelay_waiting_launches", "gauge", "leader", "launches that wait, before their pod exists or in it", WAIT_REASON
)
OLDEST_WAIT = _add(
    "podrelay_oldest_wait_seconds",
    "gauge",
    "leader",
    "how long the oldest launch that waits for this reason has waited",
    WAIT_REASON,
)
LAUNCHERS = _add(
    "podrelay_launchers", "gauge", "leader",
    "registered launchers: alive, silent for 12 s, and of those alive the ones that are throttled or draining",
    LAUNCHER_STATE,
)  # fmt: skip
SCHEDULERS = _add("podrelay_schedulers", "gauge", "leader", "schedulers whose heartbeat was seen lately")
UNREAD = _add("podrelay_unread_results", "gauge", "leader", "reports that the slowest scheduler has not read yet")
UNACKNOWLEDGED = _add(
    "podrelay_unacknowledged_launches", "gauge", "leader", "launches that ended and that no scheduler has processed yet"
)
RESULTS = _add("podrelay_results", "gauge", "leader", "entries of the results stream")
QUARANTINE = _add("podrelay_quarantine_entries", "gauge", "leader", "entries of the quarantine")
KEY_MISMATCHES = _add(
    "podrelay_key_mismatches", "gauge", "leader", "pairs of processes of which one cannot decrypt what the other writes"
)
SUSPENDED = _add("podrelay_suspended", "gauge", "leader", "1 while `rq suspend` keeps launchers from taking jobs")
REFUSED_CLEANUPS = _add(
    "podrelay_refused_cleanups", "gauge", "leader", "namespaces in which the API server refuses clean-ups"
)
PODS = _add("podrelay_pods", "gauge", "leader", "pods that the leading watcher knows", POD_STATE)
WARM_POOLS_OFF = _add(
    "podrelay_warm_pools_off", "gauge", "leader",
    "shapes of pods of which no warm ones are kept for a while, because they failed; missing while warm pods are off",
)  # fmt: skip
OVERVIEW_AGE = _add(
    "podrelay_overview_age_seconds", "gauge", "leader",
    "since this watcher read the figures of the whole deployment from Redis; they are missing after 60 s",
)  # fmt: skip

# --- every launcher and watcher -----------------------------------------------------------------------------------
READY = _add("podrelay_ready", "gauge", "worker", "1 if `/readyz` says that the process is ready")
REPLY_AGE = _add(
    "podrelay_redis_reply_age_seconds", "gauge", "worker", "since Redis' last reply; missing before the first"
)
INFO = Metric("podrelay_build_info", "gauge", "worker", "1; its labels `version` and `role` say what runs")
TABLE.append(INFO)

# --- schedulers ---------------------------------------------------------------------------------------------------
BATCH_DURATION = _add(
    "podrelay_batch_seconds", "histogram", "scheduler", "one hand-over of launches to Redis",
    stats="kubernetes_executor.pod_creation_batch_duration",
)  # fmt: skip
BATCH_SIZE = _add(
    "podrelay_batch_launches", "gauge", "scheduler", "launches of the last hand-over",
    stats="kubernetes_executor.pod_creation_batch_size",
)  # fmt: skip
ADOPTION = _add(
    "podrelay_adoption_seconds", "histogram", "scheduler", "one adoption of task instances",
    stats="kubernetes_executor.adopt_task_instances.duration",
)  # fmt: skip
