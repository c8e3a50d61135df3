"""A real local cluster for tests: `python -m podrelay_local_cluster` as a process on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.cluster_api import ClusterApi

ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0


class LocalCluster(ClusterApi):
    """One server process, with its API. Can be stopped, killed and started again; `data_dir` keeps its port and objects.

    `options` are those of the command line: ``LocalCluster(folder, runner="simulate", watch_window=50)``.
    """

    def __init__(self, folder: Path, **options: object) -> None:
        super().__init__(folder / "local-cluster.kubeconfig")
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = folder / "local-cluster.log"
        self._options = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the server is ready. Raises RuntimeError, with the server's log, when it does not start."""
        self.kubeconfig.unlink(missing_ok=True)
        command = [sys.executable, "-m", "podrelay_local_cluster", "--kubeconfig-out", str(self.kubeconfig)]
        sources = [str(ROOT / folder) for folder in ("executor", "workers", "local_cluster")]
        path = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._options], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self.kubeconfig.exists():  # the server writes it last
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the local cluster did not start:\n{self.log_path.read_text()}")
            time.sleep(0.01)
        self.connect()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=_STOP_LIMIT_S)

    def kill(self) -> None:
        """SIGKILL, as in a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Stop the server; kill it if it does not stop in time."""
        for client in self.clients:
            client.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        self.kill()

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
