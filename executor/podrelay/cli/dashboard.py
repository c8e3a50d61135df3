"""`airflow podrelay dashboard`: rq-dashboard configured for podrelay's queues, and guarded (`dashboard_guard`).

It listens on loopback unless --bind names another address, which needs a login: HTTP Basic authentication is on if
RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD are set in the environment. It needs no Fernet key and no database.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from typing import Any

import redis
from airflow.configuration import conf
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.worker import Worker

from podrelay.cli.dashboard_guard import DisplayedJob, DisplaySerializer, decode_json_only, guard
from podrelay.cli.optional import import_optional
from podrelay.errors import ConfigError
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.redis_address import parse_redis_url
from podrelay.settings import load_settings
from podrelay.store.connection import connect, unavailable

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


class _DisplayedQueue(Queue):
    """One of the queues that the dashboard shows."""

    # What their names begin with, and the one that a page without a name is about, for the whole process.
    prefix = ""
    first = "default"

    def __init__(self, name: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(name or self.first, *args, **kwargs)

    @classmethod
    def all(cls, *args: Any, **kwargs: Any) -> Any:
        return [queue for queue in super().all(*args, **kwargs) if queue.name.startswith(cls.prefix)]


class _DisplayedWorker(Worker):
    """A worker whose current job may be one that cannot be decoded."""

    @classmethod
    def all(cls, connection: Any = None, job_class: Any = None, queue_class: Any = None, queue: Any = None,
            serializer: Any = None) -> Any:  # fmt: skip
        return super().all(connection, DisplayedJob, queue_class, queue, serializer)

    @classmethod
    def find_by_key(cls, worker_key: str, connection: Any, *args: Any, **kwargs: Any) -> Any:
        """RQ's own removes the key of an expired worker from its set, which a page may not."""
        shown = worker_key.startswith(cls.redis_worker_namespace_prefix + _DisplayedQueue.prefix)
        if not shown or not connection.exists(worker_key):
            return None
        return super().find_by_key(worker_key, connection, *args, **kwargs)


def jobs_page(
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: redis.Redis
) -> tuple[int, list[Any]]:
    """One page of a queue's jobs and their total number. rq-dashboard 0.9 makes every page but the first too long."""
    web = import_optional("rq_dashboard.web", _REMEDY)
    queue = Queue(queue_name, connection=connection)
    registry = None if registry_name == "queued" else _REGISTRIES[registry_name](queue_name, connection=connection)
    total = queue.count if registry is None else registry.get_job_count(cleanup=False)
    end = total - offset if order == "dsc" else min(total, offset + per_page)
    start = max(0, end - per_page) if order == "dsc" else offset
    if end <= start:
        return total, []
    length, last = end - start, end - 1
    # Compared with None: the truth of a registry is its length, and to count it RQ cleans it up, which moves jobs.
    ids = queue.get_job_ids(start, length) if registry is None else registry.get_job_ids(start, last, cleanup=False)
    jobs = DisplayedJob.fetch_many(ids[::-1] if order == "dsc" else ids, connection=connection)
    return total, [web.serialize_job(job) for job in jobs if job]


def make_app(
    redis_url: str, client: redis.Redis | None = None, read_only: bool = False, deployment: str | None = None
) -> Any:
    """Build the WSGI application. From now on, RQ decodes only JSON in this process.

    :param client: what the pages read from in place of `redis_url`: rq-dashboard cannot use Sentinels.
    :param deployment: show its queues and launchers only; None: all of this Redis.
    :raises ConfigError: rq-dashboard is not installed.
    """
    web = import_optional("rq_dashboard.web", _REMEDY)
    cli = import_optional("rq_dashboard.cli", _REMEDY)
    decode_json_only()
    _DisplayedQueue.prefix = RedisKeys(deployment).queue_prefix if deployment else ""
    _DisplayedQueue.first = RedisKeys(deployment).launch_queue(DEFAULT_CLUSTER) if deployment else "default"
    web.Queue, web.Worker, web.Job = _DisplayedQueue, _DisplayedWorker, DisplayedJob
    web.get_queue_registry_jobs_count = jobs_page
    web.config.serializer = DisplaySerializer
    # For the whole process, so always set: the app that was made last decides where its pages read.
    source = client if client is not None else redis.Redis.from_url(redis_url)
    web.from_url = lambda *_, **__: (None, source)
    app = cli.make_flask_app(None, None, None, "")
    guard(app, login(), read_only)
    app.register_error_handler(RedisError, lambda error: _answer_of_redis(error, source))
    app.config["RQ_DASHBOARD_REDIS_URL"] = parse_redis_url(redis_url).shown  # each page names it
    web.setup_rq_connection(app)
    return app


def _answer_of_redis(error: RedisError, client: redis.Redis) -> Any:
    """One line instead of a page, where Redis fails or denies the dashboard's user something."""
    from flask import Response

    failure = unavailable(error, client)
    logging.getLogger(__name__).error("%s", failure)
    return Response(f"{failure}\n", 403 if failure.cause == "denied" else 503, mimetype="text/plain")


def run_dashboard(bind: str, port: int, read_only: bool = False) -> int:
    """Serve until interrupted.

    :raises ConfigError: an option is wrong, or others could reach the dashboard without a login.
    """
    if not _is_loopback(bind) and login() is None:
        raise ConfigError(
            f"--bind {bind}: others can reach this address, so the dashboard needs a login: set RQ_DASHBOARD_USERNAME and "
            "RQ_DASHBOARD_PASSWORD in its environment, or listen on 127.0.0.1."
        )
    settings = load_settings(conf)
    client = connect(settings, timeout_s=_TIMEOUT_S)
    app = make_app(settings.redis_url, client, read_only, settings.deployment)
    server = _listen(bind, port, app)
    print(f"rq-dashboard listens on {_url(bind, server.port)} (Ctrl-C stops it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    server.server_close()
    return 0


def login() -> tuple[str, str] | None:
    """The user and the password that a visitor must know; None: nobody is asked.

    :raises ConfigError: only one of them is set.
    """
    user, password = os.environ.get("RQ_DASHBOARD_USERNAME"), os.environ.get("RQ_DASHBOARD_PASSWORD")
    if bool(user) != bool(password):
        raise ConfigError("RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD: set both, or neither.")
    return (user, password) if user and password else None


def _is_loopback(bind: str) -> bool:
    """Is this an address, or the name, of this host alone? An empty text means every address."""
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind.strip("[]")).is_loopback
    except ValueError:
        return False


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
