"""What Airflow's provider discovery reads. Import-light on purpose: a fault here would break every airflow command."""

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
        "The Redis that carries launches and results: redis://, rediss:// (TLS) or unix://, with user and password "
        "if it wants them. Standalone Redis 6.2 or newer, or Valkey; Redis Cluster is refused.",
        example="rediss://podrelay:password@redis.internal:6379/0",
        sensitive=True,
    ),
    "redis_sentinels": _option(
        "string",
        "",
        "host:port of each Sentinel, separated by commas, where Redis is run under Sentinel. User, password, database and "
        "TLS are then those of redis_url, host and port are asked of the Sentinels (without TLS and password).",
        example="sentinel-0:26379,sentinel-1:26379,sentinel-2:26379",
    ),
    "redis_sentinel_master": _option(
        "string", "", "The name under which the Sentinels watch the master.", example="mymaster"
    ),
    "redis_timeout_s": _option(
        "float",
        "0.5",
        "Seconds that one call to Redis may take, connecting included, 0.05 to 1. The scheduler's heartbeat waits no "
        "longer than this for a Redis that does not answer, and then leaves it alone for a second or more; work stays queued "
        "and is handed over when it does. 0.05 keeps such a heartbeat as short as all others, for a Redis that is near.",
    ),
    "deployment": _option(
        "string",
        "default",
        "Name of this Airflow deployment: part of every Redis key and a label of every pod, so that several "
        "deployments can share one Redis and one namespace. Lower-case letters, digits and dashes.",
    ),
    "fernet_key": _option(
        "string",
        "",
        "Key that encrypts and authenticates what travels through Redis, as for [core] fernet_key, which is used where "
        "this is empty. Several keys separated by commas: the first one seals, each of them opens.",
        sensitive=True,
    ),
    "launcher_concurrency": _option(
        "integer",
        "64",
        "Greatest number of pods that one launcher creates at the same time, 1 to 1024. The number in use adapts: it "
        "grows while the API server's latency stays flat and halves when it throttles.",
    ),
    "launch_lease_s": _option(
        "float",
        "6.0",
        "Seconds after which the launches held by a launcher that went silent are taken over by another one. "
        "A launcher renews every third of it.",
    ),
    "token_margin_s": _option(
        "float",
        "60.0",
        "Seconds for which the task's token must still be valid when its pod is created. A launch that waited too "
        "long gets a new token instead of a pod that could not start.",
    ),
    "capacity_wait_s": _option(
        "float",
        "0.0",
        "Seconds that a launch waits for quota, throttling or an ailing API server before its task fails; "
        "0 waits as long as the task may be queued ([scheduler] task_queued_timeout). "
        "[kubernetes_executor] task_publish_max_retries, where you set it, limits the tries as well.",
    ),
    "result_batch_size": _option(
        "integer",
        "500",
        "Greatest number of outcomes that one sync() of the executor takes; it takes fewer where they would make the "
        "scheduler's heartbeat long.",
    ),
    "reconcile_interval_s": _option(
        "float",
        "5.0",
        "Seconds between two comparisons of what the executor believes to be running with the ledger and the database.",
    ),
    "results_max_length": _option(
        "integer",
        "100000",
        "About how many outcomes the results stream keeps. An entry trimmed before a scheduler read it is found again "
        "in the ledger at the next comparison.",
    ),
    "ledger_ttl_s": _option(
        "float", "3600.0", "Seconds for which Redis remembers a launch after its result was acknowledged."
    ),
    "watch_silence_s": _option(
        "float",
        "75.0",
        "Seconds without any event or bookmark after which a watch is distrusted and opened anew. Kubernetes sends a "
        "bookmark about every minute, unless nothing changes in the whole cluster.",
    ),
    "watch_lease_s": _option(
        "float", "5.0", "Seconds after which a standby watcher takes over from a leader that went silent."
    ),
    "pending_grace_s": _option(
        "float",
        "60.0",
        "Seconds for which a container may wait for one of the reasons in [kubernetes_executor] "
        "worker_pod_pending_fatal_container_state_reasons before its pod is given up: a registry's hiccup is not fatal.",
    ),
    "failure_log_lines": _option(
        "integer", "20", "Last lines of the container's log that are kept with an abnormal end; 0 fetches none."
    ),
    "cleanup_concurrency": _option(
        "integer", "16", "Greatest number of finished pods that one launcher deletes at the same time."
    ),
}


def default_of(option: str) -> str:
    """The default of one of our options, for a process in which the provider is not installed."""
    return str(OPTIONS[option]["default"])


def get_provider_info() -> dict[str, Any]:
    """Metadata in the form of airflow/provider_info.schema.json."""
    return {
        "package-name": "podrelay",
        "name": "podrelay",
        "description": "An executor that takes Kubernetes out of the scheduler's loop: launches go through Redis.",
        "executors": ["podrelay.executor.RedisKubernetesExecutor"],
        "cli": ["podrelay.cli.definitions.get_podrelay_cli_commands"],
        "config": {
            "podrelay": {
                "description": "Options of podrelay.executor.RedisKubernetesExecutor and its launchers and watchers. "
                "Options shared with the stock executor stay in [kubernetes_executor].",
                "options": OPTIONS,
            }
        },
    }
