"""A real local cluster for tests: `python -m podrelay_local_cluster` as a process on a free loopback port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 30.0


class LocalCluster:
    """One server process. It can be stopped, killed, and started again (with `data_dir`: with the same port and objects).

    `options` are those of the command line: ``LocalCluster(folder, runner="simulate", watch_window=50)``.
    """

    def __init__(self, folder: Path, **options: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.kubeconfig = folder / "local-cluster.kubeconfig"
        self.log_path = folder / "local-cluster.log"
        self._options = [
            word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        """Address without the token; send `headers`."""
        self.token = ""

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError, with the server's log, when it does not come up."""
        self.kubeconfig.unlink(missing_ok=True)
        sources = [str(ROOT / "executor"), str(ROOT / "workers"), str(ROOT / "local_cluster")]
        path = os.pathsep.join([*sources, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "podrelay_local_cluster", "--kubeconfig-out", str(self.kubeconfig)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._options], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self.kubeconfig.exists():  # it is written last
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the local cluster did not start:\n{self.log_path.read_text()}")
            time.sleep(0.01)
        config = json.loads(self.kubeconfig.read_text())
        self.url = config["clusters"][0]["cluster"]["server"].partition("/token/")[0]
        self.token = config["users"][0]["user"]["token"]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=_STOP_LIMIT_S)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """One request with the token; the JSON answer. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        headers = {**self.headers, "Content-Type": content_type}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def faults(self, *rules: dict[str, Any], **others: Any) -> Any:
        """Replace all faults by these rules and `images`, `quota`, `seed`; without arguments, none."""
        return self.call("PUT", "/local-cluster/faults", {"rules": list(rules), **others})

    def add_fault(self, **rule: Any) -> str:
        """Add one rule to those that are on; its id."""
        ids = self.call("POST", "/local-cluster/faults", {"rules": [rule]})["ids"]
        return str(ids[0])

    def remove_fault(self, rule_id: str) -> None:
        self.call("DELETE", f"/local-cluster/faults?id={rule_id}")

    def compact(self) -> None:
        """Forget the event window: every version handed out so far is 410."""
        self.call("POST", "/local-cluster/compact")

    def drop_streams(self) -> None:
        """End all open watches."""
        self.call("POST", "/local-cluster/drop-streams")

    def restart(self, down_s: float, forget: bool = False) -> None:
        """Refuse connections for `down_s` while the pods go on; returns when all connections are broken."""
        connection = http.client.HTTPConnection(self.url.partition("//")[2], timeout=30)
        body = json.dumps({"down_s": down_s, "forget": forget})
        connection.request("POST", "/local-cluster/restart", body, self.headers)
        sock = connection.sock
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"no restart: {answer!r}")
        with contextlib.suppress(ConnectionError):
            sock.recv(1)
        connection.close()

    def end_pod(self, namespace: str, name: str, **ending: Any) -> Any:
        """Make a pod end: exit_code, signal, reason, message, container, phase, pod_reason, pod_message, conditions."""
        return self.call("POST", f"/local-cluster/pods/{namespace}/{name}/end", ending)

    def vanish_pod(self, namespace: str, name: str) -> None:
        """Remove a pod at once, without a trace but the DELETED event."""
        self.call("POST", f"/local-cluster/pods/{namespace}/{name}/vanish")

    def audit(self, since: int = 0) -> list[dict[str, Any]]:
        """The API requests numbered above `since`."""
        entries: list[dict[str, Any]] = self.call("GET", f"/local-cluster/audit?since={since}")["entries"]
        return entries

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/local-cluster/stats")
        return found

    def pods(self, namespace: str = "default", query: str = "") -> list[dict[str, Any]]:
        """The pods as a list shows them."""
        items: list[dict[str, Any]] = self.call("GET", f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return items

    def __enter__(self) -> LocalCluster:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        self.kill()
