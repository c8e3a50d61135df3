"""`airflow podrelay dashboard`: rq-dashboard configured for podrelay's queues, with the JSON serializer.

It listens on loopback unless --bind names another address. HTTP Basic authentication is on if RQ_DASHBOARD_USERNAME and
RQ_DASHBOARD_PASSWORD are set in the environment.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from airflow.configuration import conf
from rq.serializers import JSONSerializer
from rq.worker import Worker

from podrelay.cli.optional import import_optional
from podrelay.settings import load_settings
from podrelay.store.connection import connect

_REMEDY = "run `pip install 'podrelay[dashboard]'`."
# A page may wait longer than a heartbeat of the scheduler.
_TIMEOUT_S = 5.0


class _JSONWorker(Worker):
    """rq-dashboard 0.9 lists workers with RQ's default serializer, pickle. It fails on our JSON jobs, and would execute
    what a forged job holds. This class reads the current job of a worker as JSON.
    """

    @classmethod
    def all(cls, connection: Any = None, job_class: Any = None, queue_class: Any = None, queue: Any = None,
            serializer: Any = None) -> Any:  # fmt: skip
        return super().all(connection, job_class, queue_class, queue, JSONSerializer)


def make_app(redis_url: str, client: redis.Redis | None = None) -> Any:
    """Build the WSGI application.

    :param client: what the pages read from in place of `redis_url`: rq-dashboard cannot use Sentinels.
    :raises ConfigError: rq-dashboard is not installed.
    """
    web = import_optional("rq_dashboard.web", _REMEDY)
    cli = import_optional("rq_dashboard.cli", _REMEDY)
    web.Worker = _JSONWorker
    web.config.serializer = JSONSerializer
    if client is not None:
        web.from_url = lambda *_, **__: (None, client)
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
    print(f"rq-dashboard listens on http://{bind}:{port}/ (Ctrl-C stops it)", flush=True)
    app.run(host=bind, port=port, threaded=True)
    return 0
