"""The interface of a container runtime: what `container_run` needs, and what `processes` and `simulation` implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from podrelay_local_cluster.kubelet.container_log import ContainerLog
from podrelay_local_cluster.kubelet.pod_status import ContainerKind
from podrelay_local_cluster.objects.json_text import Json

SIGNAL_EXIT_CODE = 128
"""A process ended by signal n has exit code 128 + n."""
EXIT_CODE_MOST = 255


@dataclass(frozen=True)
class ContainerStart:
    """One container to start, with all variables of its spec filled in. Without a `log` its output is discarded."""

    pod: Json
    kind: ContainerKind
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    log: ContainerLog | None


class ContainerProcess(Protocol):
    """A started container."""

    async def wait(self) -> int:
        """The exit code as a container runtime reports it: 128 + n after signal n."""

    def send(self, number: int) -> None:
        """Signal the whole container. Has no effect once it has ended."""

    def end(self, exit_code: int) -> None:
        """End the container at once, as if it had exited with this code. Has no effect once it has ended."""


class ContainerRuntime(Protocol):
    """Starts containers."""

    def start(self, container: ContainerStart) -> ContainerProcess:
        """Raises OSError when the command cannot be started."""

    @property
    def keeps_logs(self) -> bool: ...

    @property
    def outlives_server(self) -> bool:
        """Whether containers that ran under an earlier server count as still running."""

    def close(self) -> None: ...
