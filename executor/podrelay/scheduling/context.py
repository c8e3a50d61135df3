"""What the parts of an executor have in common: one of each, made when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from podrelay.scheduling.launch_registry import LaunchRegistry
from podrelay.store.launch_queue import LaunchQueue
from podrelay.store.ledger import Ledger
from podrelay.store.result_stream import ResultStream

if TYPE_CHECKING:
    from podrelay.executor import RedisKubernetesExecutor


@dataclass(frozen=True)
class Context:
    """The executor, its memory of launches, and its ways to what Redis holds."""

    executor: RedisKubernetesExecutor
    launches: LaunchRegistry
    queue: LaunchQueue
    ledger: Ledger
    results: ResultStream
