"""`airflow podrelay dashboard`: rq-dashboard configured for podrelay's queues, with the JSON serializer.

It listens on loopback unless --bind names another address. HTTP Basic authentication is on if RQ_DASHBOARD_USERNAME and
RQ_DASHBOARD_PASSWORD are set in the environment.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

import redis
from airflow.configuration import conf
from rq.job import Job
from rq.queue import Queue
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer
from rq.worker import Worker

from podrelay.cli.optional import import_optional
from podrelay.errors import ConfigError
from podrelay.settings import load_settings
from podrelay.store.connection import connect

_REMEDY = "run `pip install 'podrelay[dashboard]'`."
# A page may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0
_REGISTRIES: dict[str, Any] = {
    "failed": FailedJobRegistry,
    "deferred": DeferredJobRegistry,
    "started": StartedJobRegistry,
    "finished": FinishedJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "canceled": CanceledJobRegistry,
}


class _JSONWorker(Worker):
    """rq-dashboard 0.9 lists workers with RQ's default serializer, pickle. It fails on our JSON jobs, and would execute
    what a forged job holds. This class reads the current job of a worker as JSON.
    """

    @classmethod
    def all(cls, connection: Any = None, job_class: Any = None, queue_class: Any = None, queue: Any = None,
            serializer: Any = None) -> Any:  # fmt: skip
        return super().all(connection, job_class, queue_class, queue, JSONSerializer)


def jobs_page(
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: redis.Redis
) -> tuple[int, list[Any]]:
    """One page of a queue's jobs and their total number. rq-dashboard 0.9 makes every page but the first too long."""
    web = import_optional("rq_dashboard.web", _REMEDY)
    queue = Queue(queue_name, serializer=JSONSerializer, connection=connection)
    registry = None if registry_name == "queued" else _REGISTRIES[registry_name](queue_name, connection=connection)
    total = queue.count if registry is None else registry.get_job_count(cleanup=False)
    end = total - offset if order == "dsc" else min(total, offset + per_page)
    start = max(0, end - per_page) if order == "dsc" else offset
    if end <= start:
        return total, []
    length, last = end - start, end - 1
    ids = registry.get_job_ids(start, last, cleanup=False) if registry else queue.get_job_ids(start, length)
    jobs = Job.fetch_many(ids[::-1] if order == "dsc" else ids, connection=connection, serializer=JSONSerializer)
    return total, [web.serialize_job(job) for job in jobs if job]


def make_app(redis_url: str, client: redis.Redis | None = None) -> Any:
    """Build the WSGI application.

    :param client: what the pages read from in place of `redis_url`: rq-dashboard cannot use Sentinels.
    :raises ConfigError: rq-dashboard is not installed.
    """
    web = import_optional("rq_dashboard.web", _REMEDY)
    cli = import_optional("rq_dashboard.cli", _REMEDY)
    web.Worker = _JSONWorker
    web.get_queue_registry_jobs_count = jobs_page
    web.config.serializer = JSONSerializer
    # For the whole process, so always set: the app that was made last decides where its pages read.
    source = client if client is not None else redis.Redis.from_url(redis_url)
    web.from_url = lambda *_, **__: (None, source)
    user, password = os.environ.get("RQ_DASHBOARD_USERNAME"), os.environ.get("RQ_DASHBOARD_PASSWORD")
    app = cli.make_flask_app(None, user, password, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    web.setup_rq_connection(app)
    return app


def run_dashboard(bind: str, port: int) -> int:
    """Serve until interrupted."""
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    client = connect(settings, timeout_s=_TIMEOUT_S)
    app = make_app(settings.redis_url, client)
    server = _listen(bind, port, app)
    print(f"rq-dashboard listens on {_url(bind, server.port)} (Ctrl-C stops it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
    return 0


def _listen(bind: str, port: int, app: Any) -> Any:
    """The server, which accepts connections from now on.

    :raises ConfigError: it cannot listen there; werkzeug would print several lines and end the process.
    """
    from werkzeug.serving import make_server, select_address_family

    if not 0 <= port <= 65_535:
        raise ConfigError(f"--bind, --port: cannot listen on {bind}:{port} (a port is between 0 and 65535).")
    try:
        listener = socket.create_server((bind, port), family=select_address_family(bind, port))
    except OSError as error:
        raise ConfigError(f"--bind, --port: cannot listen on {bind}:{port} ({error.strerror}).") from error
    with listener:
        return make_server(bind, listener.getsockname()[1], app, threaded=True, fd=listener.fileno())


def _url(bind: str, port: int) -> str:
    """The address for a browser on this host."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
