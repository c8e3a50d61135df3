"""The part of Airflow's execution API that decides whether a task may run: QUEUED to RUNNING once, then to SUCCESS.

A second pod of the same task gets 409, as in Airflow; each one is counted, for the executor should never make one.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.chaos.rows import Rows


class TaskApi:
    """Serves pods from threads of this process."""

    def __init__(self, rows: Rows) -> None:
        self.refused: list[tuple[str, str]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802 - the standard library's name
                _, what, task, pod = self.path.split("/")
                ok = rows.begin(task, pod) if what == "run" else rows.succeed(task)
                if not ok:
                    api.refused.append((what, pod))
                self.send_response(200 if ok else 409)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="task-api", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
