"""What a worker shows of itself: readiness and metrics, served at `/livez`, `/readyz` and `/metrics`. Used by both workers.

Liveness is that the event loop runs: then it answers `/livez`. Nothing here may end the process.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from podrelay.metrics_table import READY, REPLY_AGE
from podrelay.monitoring_address import MonitoringAddress
from podrelay.settings import Settings
from podrelay_workers.runtime import airflow_child
from podrelay_workers.runtime.metrics import Metrics
from podrelay_workers.runtime.readiness import Readiness
from podrelay_workers.runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)
# aiohttp logs an error, with its traceback, for each malformed request that somebody sends.
_requests_log = logging.getLogger(f"{__name__}.requests")
_requests_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))

_AIRFLOW_OPTIONS = "podrelay_workers.runtime.airflow_options"
# How long to wait before the next try while no port is free.
RETRY_S = 5.0
# A connection serves one request within this time; at the end of the process it is closed after the other.
_REQUEST_S, _SHUTDOWN_S = 10.0, 0.5
# How often is looked for connections that are too old.
_SWEEP_S = 1.0
# Kubelet and Prometheus need one each.
_CONNECTIONS_MAX = 50


@dataclass(frozen=True)
class Monitor:
    """Readiness and metrics of one process."""

    readiness: Readiness
    metrics: Metrics

    @classmethod
    def of(cls, role: str, settings: Settings, team: str | None, *, sends_stats: bool = False) -> Monitor:
        """:param sends_stats: also count in Airflow's stats, which imports Airflow."""
        stats = airflow_child.load_here(_AIRFLOW_OPTIONS).airflow_stats() if sends_stats else None
        monitor = cls(Readiness(role, settings, team), Metrics(role, settings.deployment, team, stats))
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
        runner = web.AppRunner(self._application(), access_log=None, logger=_requests_log, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        assert runner.server is not None
        closing = asyncio.create_task(_close_old_connections(runner.server), name="close old connections")
        try:
            async with await _listen(runner, address) as server:
                await server.serve_forever()
        finally:
            await cancel_and_wait(closing)
            await runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_one_request])
        application.add_routes(
            [
                web.get("/livez", self._answer_livez),
                web.get("/readyz", self._answer_readyz),
                web.get("/metrics", self._answer_metrics),
            ]
        )
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


@web.middleware
async def _one_request(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Close the connection after its request, and say no versions of Python and aiohttp."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        _set_headers(error)
        raise
    _set_headers(response)
    return response


def _set_headers(response: web.StreamResponse) -> None:
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "podrelay"
    response.force_close()


async def _listen(runner: web.AppRunner, address: MonitoringAddress) -> asyncio.Server:
    """Listen on the first free port, waiting for one if need be."""
    logged = ""
    while True:
        try:
            server = await _bind(runner, address)
        except OSError as error:
            if str(error) != logged:
                log.error(
                    "Cannot serve health and metrics at %s ([podrelay] monitoring_bind); the work goes on, and another try "
                    "follows every %.0f s: %s", address, RETRY_S, error,
                )  # fmt: skip
            logged = str(error)
            await asyncio.sleep(RETRY_S)
        else:
            port = server.sockets[0].getsockname()[1]
            log.info("Serving /livez, /readyz and /metrics on port %d of %s", port, address.host)
            return server


async def _bind(runner: web.AppRunner, address: MonitoringAddress) -> asyncio.Server:
    """:raises OSError: no port of the address is free, or the address is not one of this host."""
    loop = asyncio.get_running_loop()
    for port in address.ports[:-1]:
        try:
            return await loop.create_server(partial(_accept, runner), address.host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return await loop.create_server(partial(_accept, runner), address.host, address.ports[-1])


def _accept(runner: web.AppRunner) -> asyncio.Protocol:
    """A new connection: for one request, within bounds of number and time, so that nobody can use up this process' files."""
    server = runner.server
    if server is None or len(server.connections) >= _CONNECTIONS_MAX:
        return _Refused()
    handler: web.RequestHandler = server()
    return handler


async def _close_old_connections(server: web.Server) -> None:
    """Close what has been open for too long. A timer for each would keep its connection in memory after its end."""
    since_s: dict[web.RequestHandler, float] = {}
    while True:
        now_s = time.monotonic()
        since_s = {connection: since_s.get(connection, now_s) for connection in server.connections}
        for connection, at_s in since_s.items():
            if now_s - at_s >= _REQUEST_S:
                connection.force_close()
        await asyncio.sleep(_SWEEP_S)


class _Refused(asyncio.Protocol):
    """Closes its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
