"""Processes for the warm pods of a cluster that only simulates its pods (`--runner simulate`)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from podrelay.protocol import identifiers
from tests.chaos import fork_server
from tests.chaos.pod import WARM
from tests.chaos.warm_pods import GIVEN, HOLD
from tests.harness.local_cluster import LocalCluster

_LOOK_EVERY_S = 0.03
_SELECTED = f"?labelSelector={identifiers.LABEL_WARM}"


class WarmNode:
    """Runs podrelay's `warm_pod` for each warm pod. With a workload, a pod lasts until the test ends it."""

    def __init__(
        self,
        folder: Path,
        cluster: LocalCluster,
        environment: dict[str, str],
        namespaces: tuple[str, ...] = ("default",),
    ) -> None:
        self._socket, self._log_path = folder / "warm-pods", folder / "warm-pods.log"
        self._cluster, self._environment, self._namespaces = cluster, environment, namespaces
        # Uid to name, namespace and the connection to the pod's process.
        self._pods: dict[str, tuple[str, str, socket.socket]] = {}
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warm node")

    def __enter__(self) -> WarmNode:
        environment = {"CHAOS_WARM_PODS": str(self._socket)}
        self._server = fork_server.start("warm-pods", environment, self._log_path.with_suffix(".server.log"))
        end = time.monotonic() + 60
        while not self._socket.exists():
            assert time.monotonic() < end, self._log_path.with_suffix(".server.log").read_text()
            time.sleep(0.05)
        self._log = self._log_path.open("ab")
        self._thread.start()
        return self

    def given(self) -> set[tuple[str, int] | None]:
        """The launches and attempts whose workload a warm pod has."""
        lines = self._log_path.read_text("utf-8", "replace").splitlines()
        return {
            identifiers.launch_of_host(line.removeprefix(GIVEN).strip()) for line in lines if line.startswith(GIVEN)
        }

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        fork_server.kill(self._server)
        self._log.close()

    def _run(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            with contextlib.suppress(OSError):
                self._look()
        for _, _, connection in self._pods.values():
            connection.close()

    def _look(self) -> None:
        listed = [pod for namespace in self._namespaces for pod in self._cluster.pods(namespace, _SELECTED)]
        running = {pod["metadata"]["uid"]: pod for pod in listed if pod["status"].get("phase") == "Running"}
        for uid in self._pods.keys() - running.keys():
            self._pods.pop(uid)[2].close()
        for uid in running.keys() - self._seen:
            self._start(running[uid])
            self._seen.add(uid)
        for uid, (namespace, name, connection) in list(self._pods.items()):
            with contextlib.suppress(BlockingIOError):
                code = connection.recv(16, socket.MSG_PEEK)  # the next look reads it again if the request below fails
                self._cluster.end_pod(namespace, name, exit_code=int(code or 1))
                self._pods.pop(uid)
                connection.close()

    def _start(self, pod: dict[str, Any]) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self._socket))
        metadata, args = pod["metadata"], pod["spec"]["containers"][0]["args"]
        environment = {**os.environ, **self._environment, "HOSTNAME": metadata["name"]}
        order = {"words": [HOLD, *args[args.index(WARM) :]], "environment": environment}
        socket.send_fds(connection, [json.dumps(order).encode()], [self._log.fileno()] * 2)
        connection.setblocking(False)
        self._pods[metadata["uid"]] = (metadata["namespace"], metadata["name"], connection)
