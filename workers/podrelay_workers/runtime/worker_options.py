"""What a worker process gets from Airflow's configuration, as plain values. Used by both workers.

`airflow_options` reads them in a process that has imported Airflow; the worker itself runs without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from podrelay.settings import Settings
from podrelay.teams import cluster_of
from podrelay_workers.runtime.logs import LogOptions


@dataclass(frozen=True)
class WorkerOptions:
    """Of the launches or pods of one team (None: of those without a team). `namespaces` are those of its pods, where None
    stands for all. `sends_stats`: Airflow's `[metrics]` has somewhere to send them.
    """

    settings: Settings
    team: str | None = None
    namespaces: tuple[str | None, ...] = ("default",)
    log: LogOptions = LogOptions()
    sends_stats: bool = False

    @property
    def cluster(self) -> str:
        return cluster_of(self.team)
