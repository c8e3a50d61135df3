"""What the parts of an executor have in common: one of each, made when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from podrelay.launch_queue import LaunchQueue
from podrelay.launches import Launches
from podrelay.ledger import Ledger
from podrelay.result_stream import ResultStream

if TYPE_CHECKING:
    from podrelay.executor import RedisKubernetesExecutor


@dataclass(frozen=True)
class Context:
    """The executor, its memory of launches, and its ways to what Redis holds."""

    executor: RedisKubernetesExecutor
    launches: Launches
    queue: LaunchQueue
    ledger: Ledger
    results: ResultStream
