"""One local cluster: puts the parts together, listens, simulates restarts, and stops in order; used by `main`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from podrelay_local_cluster import kubeconfig
from podrelay_local_cluster.api.core_api import CoreApi
from podrelay_local_cluster.api.listing import Lister
from podrelay_local_cluster.api.request_handler import MAX_BODY_BYTES, RequestHandler
from podrelay_local_cluster.api.watching import OpenWatches
from podrelay_local_cluster.certificate import ServerCertificate, new_certificate
from podrelay_local_cluster.control.audit import AuditLog
from podrelay_local_cluster.control.control_api import ControlApi
from podrelay_local_cluster.control.faults import Faults
from podrelay_local_cluster.kubelet.container_log import LogDirectory
from podrelay_local_cluster.kubelet.container_run import NodeServices
from podrelay_local_cluster.kubelet.node import LocalNode
from podrelay_local_cluster.kubelet.node_object import NODE_LABELS, NODE_NAME, node_object
from podrelay_local_cluster.kubelet.processes import ProcessRuntime
from podrelay_local_cluster.kubelet.runtime import ContainerRuntime
from podrelay_local_cluster.kubelet.simulation import SimulatedRuntime
from podrelay_local_cluster.kubelet.volumes import VolumeDirectory
from podrelay_local_cluster.objects import clock
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.options import ClusterOptions, Runner, StartError
from podrelay_local_cluster.registry.events import EventRecorder
from podrelay_local_cluster.registry.other_objects import ObjectRegistry
from podrelay_local_cluster.registry.pods import PodRegistry
from podrelay_local_cluster.storage.journal import Journal
from podrelay_local_cluster.storage.store import ObjectStore

HOST = "127.0.0.1"
_VERSIONS_PER_S = 10_000
"""A new cluster derives its first version from the time: versions of an earlier cluster on this port are 410 Expired."""

_MAX_LINE_BYTES = 64 * 1024  # continue tokens and selectors make long request lines
_KEEP_ALIVE_S = 3600.0
_STOP_GRACE_S = 2.0
_RESTART_DELAY_S = 0.02  # time for the response of the restart call to leave

log = logging.getLogger(__name__)


class ClusterServer:
    """Construct it inside a running event loop, then `start`, finally `stop`. `failed` is set by an internal error."""

    def __init__(self, options: ClusterOptions, data_dir: Path) -> None:
        self._options = options
        self._identity_path = data_dir / "identity.json"
        identity = self._identity()
        self.token: str = options.token or identity.get("token") or secrets.token_urlsafe(24)
        self.port: int = options.port or identity.get("port") or 0
        self._certificate = _certificate(data_dir / "certificate.pem")
        self._tls = self._certificate.context()
        self._journal = Journal(data_dir / "journal.jsonl") if options.data_dir is not None else None
        self._store = self._open_store()
        faults = Faults(self._store.wake_watchers, options.pod_start_delay_s)
        self._runtime: ContainerRuntime = SimulatedRuntime() if options.runner is Runner.SIMULATE else ProcessRuntime()
        logs = LogDirectory(data_dir / "pods")
        volumes = VolumeDirectory(data_dir / "volumes")
        pods = PodRegistry(self._store, faults)
        objects = ObjectRegistry(self._store, pods)
        events = EventRecorder(self._store)
        services = NodeServices(
            self._store, pods, self._runtime, faults, logs, volumes, NODE_LABELS, options.crash_backoff_s, events
        )
        self._node = LocalNode(services, objects.pod_gone)
        self.failed = asyncio.Event()
        pods.node = self._node
        lister = Lister(self._store)
        watches = OpenWatches(self._store, faults, options.bookmark_interval_s)
        audit = AuditLog()
        control = ControlApi(
            self._store, pods, self._node, faults, audit, lister.drop_snapshots, watches.end_all, self.restart
        )
        core = CoreApi(pods, objects, lister, watches, logs)
        self._http = _http_server(RequestHandler(core, control.answer, faults, audit, self.token))
        self._listener: asyncio.Server | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._create_initial_objects(objects)

    async def start(self) -> None:
        """Listen, store token and port, continue the pods of an earlier server, write the kubeconfig."""
        try:
            await self._listen()
        except OSError as exc:
            text = f"cannot listen on {HOST}:{self.port}: {os.strerror(exc.errno or 0)}"
            raise StartError(f"{text}; select another --port, or 0 for a free one") from exc
        if self._options.data_dir is not None:
            identity = {"token": self.token, "port": self.port}
            kubeconfig.write_private(self._identity_path, json.dumps(identity))
        for record in self._store.records("pods"):
            self._node.pod_restored(record)
        authority, namespace = self._certificate.authority, self._options.namespaces[0]
        config = kubeconfig.text(self.port, authority, self.token, namespace)
        kubeconfig.write_private(self._options.kubeconfig_out, config)

    async def stop(self) -> None:
        """Refuse requests, end the processes of all pods, close the journal."""
        if self._restarting is not None:
            self._restarting.cancel()
        await self._close_connections()
        await self._node.stop(_STOP_GRACE_S)
        self._runtime.close()
        if self._journal is not None:
            self._journal.close()

    def restart(self, down_s: float) -> None:
        """Be unreachable for `down_s`, as a restarting API server is; pods continue. No effect during a restart."""
        if self._restarting is None:
            self._close_listener()
            self._restarting = asyncio.create_task(self._restart(down_s), name="simulated restart")
            self._restarting.add_done_callback(self._restarted)

    async def _restart(self, down_s: float) -> None:
        await asyncio.sleep(_RESTART_DELAY_S)
        await self._close_connections()
        await asyncio.sleep(down_s)
        await self._listen()

    def _restarted(self, task: asyncio.Task[None]) -> None:
        self._restarting = None
        if not task.cancelled() and task.exception() is not None:
            log.error("Simulated restart failed; stopping the server", exc_info=task.exception())
            self.failed.set()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._http, HOST, self.port, ssl=self._tls, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close_connections(self) -> None:
        """Close the listener and abort every connection."""
        self._close_listener()
        for connection in list(self._http.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _identity(self) -> Json:
        """Token and port of the last server on this data directory; empty without one."""
        if self._options.data_dir is None or not self._identity_path.exists():
            return {}
        return dict(json.loads(self._identity_path.read_text(encoding="utf-8")))

    def _open_store(self) -> ObjectStore:
        version, objects = self._journal.load() if self._journal is not None else (0, [])
        store = ObjectStore(self._options.watch_window, version or int(time.time() * _VERSIONS_PER_S), objects)
        if self._journal is not None:
            self._journal.follow(store)
        return store

    def _create_initial_objects(self, objects: ObjectRegistry) -> None:
        """The node and the first namespaces."""
        if self._store.get("nodes", "", NODE_NAME) is None:
            self._store.put("nodes", node_object())
        for name in dict.fromkeys(("default", "kube-system", *self._options.namespaces)):
            if self._store.get("namespaces", "", name) is None:
                objects.create("namespaces", "", {"metadata": {"name": name}})


def _certificate(path: Path) -> ServerCertificate:
    if not path.exists():
        kubeconfig.write_private(path, new_certificate(clock.now()))
    return ServerCertificate.from_file(path)


def _http_server(api: RequestHandler) -> web.Server:
    return web.Server(
        api.handle,
        request_factory=_request,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=_KEEP_ALIVE_S,
        max_line_size=_MAX_LINE_BYTES,
        max_field_size=_MAX_LINE_BYTES,
    )


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: asyncio.Task[None]) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)
