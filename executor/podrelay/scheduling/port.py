"""What the parts of a heartbeat need of the executor, and nothing else. None of them imports the executor itself."""

from __future__ import annotations

from typing import Any, Protocol


class ExecutorPort(Protocol):
    """Airflow's side of the executor: the slots in use and the channels to the scheduler.

    `running` holds the key of every workload that occupies a slot. `event_buffer` holds the events that the scheduler has
    not fetched yet; only `compat.record_event` writes to it.
    """

    running: set[Any]
    event_buffer: dict[Any, Any]

    @property
    def jwt_generator(self) -> Any:
        """Signs the tokens of workloads. Created on first use, because that needs a key in Airflow's configuration."""

    def success(self, key: Any, info: Any = None) -> None: ...

    def fail(self, key: Any, info: Any = None) -> None: ...

    def running_state(self, key: Any, info: Any = None) -> None: ...

    def log_task_event(self, *, event: str, extra: str, ti_key: Any) -> None: ...
