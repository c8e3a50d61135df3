"""rq-dashboard as it should be run on our queues: JSON serializer, on loopback unless asked otherwise.

HTTP Basic authentication is on where RQ_DASHBOARD_USERNAME and RQ_DASHBOARD_PASSWORD are set in the environment.
"""

from __future__ import annotations

import os
from typing import Any

import redis
from airflow.configuration import conf

from podrelay.errors import ConfigError
from podrelay.settings import load_settings
from podrelay.store.connection import connect

# A page may wait longer than a heartbeat.
_TIMEOUT_S = 5.0


def make_app(redis_url: str, client: redis.Redis | None = None) -> Any:
    """The WSGI application.

    Mends one page of rq-dashboard 0.9: it lists workers with RQ's default serializer, pickle, which fails on (and with
    a forged job would execute) what our JSON jobs hold.

    :param client: what the pages read from, where rq-dashboard cannot get there by redis_url: under Sentinel.
    """
    try:
        import rq_dashboard.web as web
        from rq.serializers import JSONSerializer
        from rq.worker import Worker
        from rq_dashboard.cli import make_flask_app
    except ImportError as error:
        raise ConfigError("rq-dashboard is not installed: pip install 'podrelay[dashboard]'.") from error

    class JSONWorker(Worker):
        """A worker whose current job is read as JSON."""

        @classmethod
        def all(cls, connection: Any = None, job_class: Any = None, queue_class: Any = None, queue: Any = None,
                serializer: Any = None) -> Any:  # fmt: skip
            return super().all(connection, job_class, queue_class, queue, JSONSerializer)

    web.Worker = JSONWorker
    web.config.serializer = JSONSerializer
    if client is not None:
        web.from_url = lambda *_, **__: (None, client)
    app = make_flask_app(None, os.environ.get("RQ_DASHBOARD_USERNAME"), os.environ.get("RQ_DASHBOARD_PASSWORD"), "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    web.setup_rq_connection(app)
    return app


def run_dashboard(bind: str, port: int) -> int:
    """Serve until interrupted."""
    settings = load_settings(conf, conf.get("core", "fernet_key", fallback=""))
    print(f"rq-dashboard on http://{bind}:{port}/ (Ctrl-C ends it)", flush=True)
    client = connect(settings, timeout_s=_TIMEOUT_S) if settings.redis_sentinels else None
    make_app(settings.redis_url, client).run(host=bind, port=port, threaded=True)
    return 0
