"""The container runtime of `--runner simulate`: containers are timers, set by annotations of the pod."""

from __future__ import annotations

import asyncio

from podrelay_local_cluster.kubelet.pod_status import ContainerKind
from podrelay_local_cluster.kubelet.runtime import EXIT_CODE_MOST, SIGNAL_EXIT_CODE, ContainerProcess, ContainerStart

DURATION_ANNOTATION = "local-cluster/duration-s"
"""How long a main container runs, in seconds; 1 by default."""
EXIT_CODE_ANNOTATION = "local-cluster/exit-code"
"""The exit code of a main container; 0 by default."""
_LONGEST_S = 1e9


class SimulatedRuntime:
    """Main containers end after their duration, init containers at once, sidecars only by a signal."""

    @property
    def keeps_logs(self) -> bool:
        return False

    @property
    def outlives_server(self) -> bool:
        return True

    def start(self, container: ContainerStart) -> ContainerProcess:
        if container.kind is ContainerKind.SIDECAR:
            return SimulatedProcess(None, 0)
        if container.kind is ContainerKind.INIT:
            return SimulatedProcess(0.0, 0)
        annotations = container.pod["metadata"].get("annotations") or {}
        try:
            duration_s = float(annotations.get(DURATION_ANNOTATION, "1.0"))
            exit_code = int(annotations.get(EXIT_CODE_ANNOTATION, "0"))
            if not 0.0 <= duration_s <= _LONGEST_S or not 0 <= exit_code <= EXIT_CODE_MOST:
                raise ValueError(f"{duration_s:g} s, exit code {exit_code}")
        except ValueError as exc:
            raise OSError(f"annotations of the simulation are no numbers: {exc}") from exc
        return SimulatedProcess(duration_s, exit_code)

    def close(self) -> None:
        """Timers need no clean-up."""


class SimulatedProcess:
    """Ends by its timer or by a signal. `duration_s` None: by a signal only."""

    def __init__(self, duration_s: float | None, exit_code: int) -> None:
        loop = asyncio.get_running_loop()
        self._exit_code: asyncio.Future[int] = loop.create_future()
        self._timer = None if duration_s is None else loop.call_later(duration_s, self.end, exit_code)

    async def wait(self) -> int:
        return await self._exit_code

    def send(self, number: int) -> None:
        self.end(SIGNAL_EXIT_CODE + number)

    def end(self, exit_code: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._exit_code.done():
            self._exit_code.set_result(exit_code)
