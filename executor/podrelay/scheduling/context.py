"""What the parts of a heartbeat share. The executor makes one context when it starts and passes it to each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow.providers.cncf.kubernetes.kube_config import KubeConfig

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.scheduling.decisions import Policy
from podrelay.scheduling.heartbeat_budget import HeartbeatBudget
from podrelay.scheduling.launch_registry import LaunchRegistry
from podrelay.scheduling.port import ExecutorPort
from podrelay.scheduling.tally import Tally
from podrelay.settings import Settings
from podrelay.store.circuit_breaker import CircuitBreaker
from podrelay.store.key_rings import KeyRing
from podrelay.store.launch_queue import LaunchQueue
from podrelay.store.ledger import Ledger
from podrelay.store.result_stream import ResultStream


@dataclass(frozen=True)
class Identity:
    """Who launches: `owner` is this scheduler's job id as text, `cluster` the one that runs the pods of `team`.

    `known_by_id`: Airflow identifies a task by the id of its instance (3.4), not by its coordinates.
    """

    owner: str
    cluster: str
    team: str | None
    known_by_id: bool


@dataclass(frozen=True)
class HeartbeatContext:
    """One of each, for as long as the executor is started."""

    executor: ExecutorPort
    identity: Identity
    settings: Settings
    kube_config: KubeConfig
    policy: Policy
    budget: HeartbeatBudget
    launches: LaunchRegistry
    queue: LaunchQueue
    ledger: Ledger
    results: ResultStream
    breaker: CircuitBreaker
    keys: RedisKeys
    key_ring: KeyRing
    tally: Tally


def read_policy(conf: Any, kube_config: KubeConfig) -> Policy:
    """The policy that `[kubernetes_executor]` configures.

    :param conf: Airflow's configuration, or that of a team.
    """
    section = "kubernetes_executor"
    reasons = conf.get(section, "pod_launch_failure_excluded_container_reasons", fallback="Error")
    return Policy(
        delete_worker_pods=bool(kube_config.delete_worker_pods),
        delete_worker_pods_on_failure=bool(kube_config.delete_worker_pods_on_failure),
        relaunches=conf.getint(section, "pod_launch_failure_retries", fallback=1),
        excluded_container_reasons=frozenset(r.strip() for r in (reasons or "").split(",") if r.strip()),
    )
