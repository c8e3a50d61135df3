"""The provider metadata that Airflow's discovery reads, including every option of `[podrelay]`.

Every airflow command imports this module, so it imports nothing itself. `docs/options.md` is generated from OPTIONS.
"""

from __future__ import annotations

from typing import Any


def _option(
    kind: str, default: str, description: str, *, example: str | None = None, sensitive: bool = False
) -> dict[str, Any]:
    return {
        "description": description + "\n",
        "version_added": None,
        "type": kind,
        "example": example,
        "default": default,
        "sensitive": sensitive,
    }


OPTIONS: dict[str, dict[str, Any]] = {
    "redis_url": _option(
        "string",
        "redis://127.0.0.1:6379/0",
        "URL of the Redis that carries launches and results: redis://, rediss:// (TLS) or unix://, with user and password "
        "where Redis requires them. docs/redis.md lists the options that may follow a ?. Redis 6.2 or newer, or Valkey, "
        "standalone or under Sentinel; not Redis Cluster.",
        example="rediss://podrelay:password@redis.internal:6379/0",
        sensitive=True,
    ),
    "redis_sentinels": _option(
        "string",
        "",
        "Addresses (host:port, [::1]:port for IPv6) of the Sentinels, separated by commas. Leave empty without "
        "Sentinel. Host and port of the master then come from the Sentinels; user, password, database and TLS of the master "
        "are those of redis_url.",
        example="sentinel-0:26379,sentinel-1:26379,sentinel-2:26379",
    ),
    "redis_sentinel_master": _option(
        "string", "", "Name of the master in the configuration of the Sentinels.", example="mymaster"
    ),
    "redis_sentinel_username": _option(
        "string",
        "",
        "User for the Sentinels. Leave empty if they require only a password, or none.",
        example="podrelay",
    ),
    "redis_sentinel_password": _option(
        "string", "", "Password for the Sentinels (requirepass or an ACL user in sentinel.conf).", sensitive=True
    ),
    "redis_sentinel_tls": _option(
        "boolean",
        "False",
        "Whether the Sentinels use TLS. They are then contacted with the ssl_ options of redis_url, which must begin with "
        "rediss://.",
    ),
    "redis_timeout_s": _option(
        "float",
        "0.5",
        "Seconds that one call to Redis may take, including the connection, from 0.05 to 1. It bounds how long a heartbeat "
        "of the scheduler waits for a Redis that does not answer; the executor then pauses its calls for at least a "
        "second. Work stays queued until Redis answers again. Use 0.05 for a Redis in the same network, to keep such a "
        "heartbeat short.",
    ),
    "deployment": _option(
        "string",
        "default",
        "Name of this Airflow deployment. It is part of every Redis key and a label of every pod, so that several "
        "deployments can share one Redis and one namespace. At most 40 lower-case letters, digits and dashes.",
    ),
    "fernet_key": _option(
        "string",
        "",
        "Fernet key that encrypts and authenticates every payload in Redis. If it is empty, [core] fernet_key is used. To "
        "rotate keys, list several separated by commas: the first encrypts, all of them decrypt.",
        sensitive=True,
    ),
    "launcher_concurrency": _option(
        "integer",
        "64",
        "Largest number of pods that one launcher creates at the same time, from 1 to 1024. The launcher adapts the number "
        "of requests that it sends at once, creations and deletions together: it rises while the latency of the API server "
        "stays flat, and falls to what the API server accepts when that refuses some for now (429).",
    ),
    "launch_lease_s": _option(
        "float",
        "6.0",
        "Seconds after which another launcher takes over the launches of a launcher that has stopped responding. A launcher "
        "renews its leases every third of this time.",
    ),
    "token_margin_s": _option(
        "float",
        "60.0",
        "Seconds for which the token of a task must still be valid when its pod is created, but at most a quarter of its "
        "life ([scheduler] task_queued_timeout). A launch whose token expires sooner gets a new token first. The clock of "
        "the scheduler that issued the token counts.",
    ),
    "capacity_wait_s": _option(
        "float",
        "0.0",
        "Seconds that a launch may wait for quota, for the end of throttling or for a failing API server before its task "
        "fails. 0 waits as long as a task may be queued ([scheduler] task_queued_timeout). launch_retries_max limits the "
        "number of attempts as well.",
    ),
    "launch_retries_max": _option(
        "integer",
        "",
        "How often a launch is tried again after quota, throttling or a failing API server has refused it, before its task "
        "fails. 0 fails the task at the first refusal, -1 sets no limit. If it is empty, [kubernetes_executor] "
        "task_publish_max_retries decides where it is greater than 0. Its 0 does not count: that is Airflow's default, which "
        "Airflow writes into each airflow.cfg that it generates.",
    ),
    "result_batch_size": _option(
        "integer",
        "500",
        "Largest number of results that the executor processes in one heartbeat of the scheduler. It processes fewer if they "
        "would make the heartbeat too long.",
    ),
    "reconcile_interval_s": _option(
        "float",
        "5.0",
        "Seconds between two reconciliations, which compare the tasks that the executor considers running with the ledger "
        "and the database.",
    ),
    "results_max_length": _option(
        "integer",
        "100000",
        "Approximate number of entries that the results stream keeps. If an entry is trimmed before a scheduler has read it, "
        "the next reconciliation finds the result in the ledger.",
    ),
    "ledger_ttl_s": _option(
        "float", "3600.0", "Seconds for which the ledger keeps a launch after its result was acknowledged."
    ),
    "watch_silence_s": _option(
        "float",
        "75.0",
        "Seconds without an event or a bookmark after which the watcher reopens a watch. Kubernetes sends a bookmark about "
        "once a minute, except while nothing changes in the whole cluster.",
    ),
    "watch_lease_s": _option(
        "float", "5.0", "Seconds after which a standby watcher takes over from a leader that has stopped responding."
    ),
    "pending_grace_s": _option(
        "float",
        "60.0",
        "Seconds for which a container may wait for a reason listed in [kubernetes_executor] "
        "worker_pod_pending_fatal_container_state_reasons before its task fails. It covers short failures of a registry. "
        "ImagePullBackOff counts as the error that it repeats. A limit on pulls, a registry's 429 or 5xx, "
        "a timeout or a lost connection never fails the task.",
    ),
    "failure_log_lines": _option(
        "integer",
        "20",
        "Number of last lines of the container log that are stored with the reason of a failed pod. 0 reads no log.",
    ),
    "cleanup_concurrency": _option(
        "integer",
        "16",
        "Largest number of finished pods that one launcher deletes at the same time, from 1 to 256. While the API server "
        "accepts fewer requests at once than launches need, every fourth request is a deletion.",
    ),
    "pod_policy": _option(
        "string",
        "",
        "Rules for the pods of tasks, checked by launchers after template, pod_override and pod_mutation_hook. A pod that "
        "breaks one is not created, and its task fails with the rule in its event log. Empty: no rule. strict: the level "
        "restricted of Kubernetes' Pod Security Standards, in watched namespaces only. Or a JSON object of rules, which may "
        "begin with a preset. docs/security.md lists the rules.",
        example='{"preset": "strict", "service_accounts": ["airflow-task"]}',
    ),
    "workload_in_secret": _option(
        "boolean",
        "False",
        "Whether launchers keep the token of a task out of its pod. The arguments of a pod hold that token, so whoever may "
        "read pods, the process list of a node or an audit log can read it, and a pod that is kept keeps it. If True, each "
        "launch creates two objects: the pod, then an immutable Secret that the pod owns and mounts. The Secret is deleted "
        "with its pod; of a pod that is kept, as soon as its result was processed. The launchers' user then needs create and "
        "delete on secrets, as in docker/kubernetes/components/workload_secrets/access.yaml. docs/operations.md says what "
        "changes for hooks and templates.",
    ),
    "warm_pods_max": _option(
        "integer",
        "0",
        "Largest number of warm pods: pods that launchers start before a task needs them, so that the task does not wait for "
        "a node, for the image and for Airflow's imports. 0: off. Each runs exactly one task and ends. From 0 to 10000; it "
        "counts the pods of one team that have no task yet. The launchers' user then needs list on pods, and task pods need "
        "Redis: docs/warm-pods.md.",
    ),
    "warm_pods_min": _option(
        "integer",
        "0",
        "Number of warm pods to keep even if no task was launched lately, of the kinds of pod that were seen most. At most "
        "warm_pods_max. Otherwise launchers keep as many as the launches of the last five minutes needed.",
    ),
    "warm_pod_idle_s": _option(
        "float",
        "300.0",
        "Seconds after which a warm pod without a task ends by itself, even if nothing else of podrelay runs any more. 10 to "
        "86400.",
    ),
    "warm_assign_timeout_s": _option(
        "float",
        "2.0",
        "Seconds that a launch waits until its warm pod takes the task, from 0.2 to 60. After that the warm pod is deleted, "
        "and the launch gets a new pod as without warm pods.",
    ),
    "monitoring_bind": _option(
        "string",
        "127.0.0.1:8790-8809",
        "Where each launcher and watcher serves /livez, /readyz and /metrics (Prometheus): HOST:PORT, or HOST:FIRST-LAST to "
        "use the first free port of a range, so that several processes of one machine do not compete for one; the log names "
        "it. off: nowhere. While no port is free, the process logs an error, works on and tries again. Whoever reaches the "
        "port can read it; it shows figures, never a task's arguments, a token or a key. In a container, where the probes "
        "and Prometheus come from outside, write 0.0.0.0:8790.",
        example="0.0.0.0:8790",
    ),
    "ui_page": _option(
        "boolean",
        "True",
        "Whether Airflow's UI has podrelay's pages: the overview under Browse, and the tab Launches of a task instance. The "
        "API server needs redis_url for them, best of the user status, which may only read.",
    ),
    "dashboard_url": _option(
        "string",
        "",
        "URL of rq-dashboard for people who look at podrelay's page in Airflow's UI, which then has a link to it. Empty: no "
        "link.",
        example="https://rq.example.com/",
    ),
}


# Defaults of earlier releases. An airflow.cfg that Airflow generated before podrelay declared numbers without a default
# still holds them; `airflow podrelay check` lists them. Add the old default here when a default changes.
FORMER_DEFAULTS: dict[str, tuple[str, ...]] = {}


def default_of(option: str) -> str:
    """The default of an option. Airflow does not know the defaults of numbers (`declared`)."""
    return str(OPTIONS[option]["default"])


def declared(option: dict[str, Any]) -> dict[str, Any]:
    """An option as Airflow learns it: a number has no default, so that Airflow comments it out in a generated airflow.cfg.

    Otherwise that file would hold the default of this release as if the user had written it, and a better default of a
    later release would never apply.
    """
    if option["type"] == "string":
        return option
    description = option["description"].rstrip() + (f" Default: {option['default']}." if option["default"] else "")
    return {**option, "default": None, "description": description + "\n"}


def get_provider_info() -> dict[str, Any]:
    """Metadata in the form of airflow/provider_info.schema.json."""
    return {
        "package-name": "podrelay",
        "name": "podrelay",
        "description": "An executor that keeps Kubernetes calls out of the scheduler: Redis carries launches and results.",
        "executors": ["podrelay.executor.RedisKubernetesExecutor"],
        "cli": ["podrelay.cli.definitions.get_podrelay_cli_commands"],
        "config": {
            "podrelay": {
                "description": "Options of podrelay.executor.RedisKubernetesExecutor, its launchers and its watchers. "
                "Options that the stock executor has as well are read from [kubernetes_executor].",
                "options": {name: declared(option) for name, option in OPTIONS.items()},
            }
        },
    }
