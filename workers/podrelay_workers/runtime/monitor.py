"""What a worker shows of itself: readiness and metrics, served at `/livez`, `/readyz` and `/metrics`. Used by both workers.

Liveness is that the event loop runs: then it answers `/livez`. Nothing here may end the process.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from podrelay.metrics_table import READY, REPLY_AGE
from podrelay.monitoring_address import MonitoringAddress
from podrelay.settings import Settings
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.readiness import Readiness
from podrelay_workers.runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

# How long to wait before the next try while no port is free.
RETRY_S = 5.0
# An idle connection is closed after this time, an open request at the end of the process after that one.
_KEEP_ALIVE_S, _SHUTDOWN_S = 30.0, 0.5


@dataclass(frozen=True)
class Monitor:
    """Readiness and metrics of one process."""

    readiness: Readiness
    metrics: Metrics

    @classmethod
    def of(cls, role: str, settings: Settings, team: str | None) -> Monitor:
        monitor = cls(Readiness(role, settings, team), Metrics(role, settings.deployment, team))
        monitor.metrics.gauge(READY, lambda: float(not monitor.readiness.why_not))
        monitor.metrics.gauge(REPLY_AGE, lambda: monitor.readiness.reply_age_s)
        return monitor

    @asynccontextmanager
    async def served(self, address: MonitoringAddress) -> AsyncIterator[None]:
        """Serve inside the block, as soon as a port of the address is free."""
        serving = asyncio.create_task(self._serve(address), name="serve health and metrics")
        emitting = asyncio.create_task(self.metrics.emit_forever(), name="emit gauges")
        try:
            yield
        finally:
            await cancel_and_wait(serving, emitting)

    async def _serve(self, address: MonitoringAddress) -> None:
        if not address.ports:
            return
        runner = web.AppRunner(
            self._application(), access_log=None, keepalive_timeout=_KEEP_ALIVE_S, shutdown_timeout=_SHUTDOWN_S
        )
        await runner.setup()
        try:
            await _listen(runner, address)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/livez", self._answer_livez),
                web.get("/readyz", self._answer_readyz),
                web.get("/metrics", self._answer_metrics),
            ]
        )
        application.on_response_prepare.append(_set_headers)
        return application

    async def _answer_livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _answer_readyz(self, request: web.Request) -> web.Response:
        record = self.readiness.record()
        reason = self.readiness.why_not
        return web.Response(text=f"{record.line(reason)}\n", status=503 if reason else 200)

    async def _answer_metrics(self, request: web.Request) -> web.Response:
        body, content_type = self.metrics.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "podrelay"


async def _listen(runner: web.AppRunner, address: MonitoringAddress) -> None:
    """Listen on the first free port, waiting for one if need be."""
    logged = ""
    while True:
        try:
            port = await _bind(runner, address)
            log.info("Serving /livez, /readyz and /metrics on port %d of %s", port, address.host)
            return
        except OSError as error:
            if str(error) != logged:
                log.error(
                    "Cannot serve health and metrics at %s ([podrelay] monitoring_bind); the work goes on, and another try "
                    "follows every %.0f s: %s", address, RETRY_S, error,
                )  # fmt: skip
            logged = str(error)
            await asyncio.sleep(RETRY_S)


async def _bind(runner: web.AppRunner, address: MonitoringAddress) -> int:
    """:raises OSError: no port of the address is free, or the address is not one of this host."""
    for port in address.ports:
        site = web.TCPSite(runner, address.host, port)
        try:
            await site.start()
        except OSError as error:
            await site.stop()
            if error.errno != errno.EADDRINUSE or port == address.ports[-1]:
                raise
        else:
            return int(runner.addresses[0][1])
    raise AssertionError("an address without ports")
