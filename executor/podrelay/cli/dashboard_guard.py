"""What makes rq-dashboard safe to show what anybody can write to Redis. Used by `dashboard`.

Nothing in this process decodes anything but JSON; texts from Redis are escaped; only a POST of a page of this dashboard
changes something.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import Any
from urllib.parse import urlsplit

import rq.serializers
from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer

# Longer values are not decoded: a page shows none of them whole.
DECODED_MAX = 1_000_000
_PLAIN = re.compile(r"[\w .:@/+-]*")
NOT_SHOWN = "(not shown: not JSON, or too long)"
# These two texts of a list of jobs are escaped by the page itself (rq-dashboard 0.9, templates/rq_dashboard/jobs.html).
_ESCAPED_BY_PAGE = frozenset({"description", "exc_info"})


class DisplaySerializer:
    """What RQ uses in this process wherever no serializer is named. RQ's own default is pickle: to decode it is to run it."""

    dumps = staticmethod(JSONSerializer.dumps)

    @staticmethod
    def loads(data: bytes) -> Any:
        """The value, or `NOT_SHOWN`. Nothing is raised: a page shows the rest of the job."""
        if len(data) > DECODED_MAX:
            return NOT_SHOWN
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return NOT_SHOWN


class DisplayedJob(Job):
    """A job whose call is shown as refused where it cannot be decoded."""

    def get_call_string(self) -> str | None:
        try:
            return super().get_call_string()
        except DeserializationError:
            return NOT_SHOWN


def decode_json_only() -> None:
    """For the whole process, and for good: RQ resolves a serializer that nobody named when it needs one."""
    rq.serializers.DefaultSerializer = rq.serializers.PickleSerializer = DisplaySerializer  # type: ignore[misc, assignment]
    for name in rq.serializers.SERIALIZER_ALIASES:
        rq.serializers.SERIALIZER_ALIASES[name] = DisplaySerializer


def guard(app: Any, login: tuple[str, str] | None, read_only: bool) -> None:
    """Check each request and escape each answer of a Flask application of rq-dashboard.

    :param login: user and password; None asks nobody.
    """
    from flask import Response, request

    @app.before_request  # type: ignore[untyped-decorator]
    def check() -> Any:
        given = request.authorization
        if login is not None and not _is(login, (given.username, given.password) if given else (None, None)):
            return Response("Log in.\n", 401, {"WWW-Authenticate": 'Basic realm="podrelay"'}, mimetype="text/plain")
        if not all(map(is_plain, (request.view_args or {}).values())):
            return Response("This name cannot be shown.\n", 400, mimetype="text/plain")
        if not _changes(request.method, request.path):
            return None
        if read_only:
            return Response("This dashboard is read-only (--read-only).\n", 403, mimetype="text/plain")
        if request.method != "POST":
            return Response("Use POST.\n", 405, {"Allow": "POST"}, mimetype="text/plain")
        if not same_origin(request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site"), request.host):
            return Response("This request comes from another site.\n", 403, mimetype="text/plain")
        return None

    @app.after_request  # type: ignore[untyped-decorator]
    def escape(response: Any) -> Any:
        if response.is_json:
            of_jobs = (request.endpoint or "").endswith(".list_jobs")
            response.set_data(json.dumps(escaped(response.get_json(), _ESCAPED_BY_PAGE if of_jobs else frozenset())))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        return response


def _is(login: tuple[str, str], given: tuple[str | None, str | None]) -> bool:
    """Pure: the same? The time that it takes says nothing about where they differ."""
    same = [hmac.compare_digest(a.encode(), (b or "").encode()) for a, b in zip(login, given, strict=True)]
    return all(same)


def is_plain(argument: Any) -> bool:
    """Pure: may this part of an address stand in a page? rq-dashboard 0.9 puts names of queues into scripts as they are."""
    return not isinstance(argument, str) or _PLAIN.fullmatch(argument) is not None


def _changes(method: str, path: str) -> bool:
    """Pure: rq-dashboard 0.9 also puts the jobs of a queue back when its address is read."""
    return method not in ("GET", "HEAD", "OPTIONS") or path.startswith("/requeue/")


def same_origin(origin: str | None, fetch_site: str | None, host: str) -> bool:
    """Pure: does a browser say that a page of this host sent the request? A client that is no browser says nothing."""
    if fetch_site not in (None, "same-origin", "none"):
        return False
    return origin is None or urlsplit(origin).netloc == host


def escaped(value: Any, verbatim: frozenset[str] = frozenset()) -> Any:
    """Pure: the value with every text in it, the keys too, escaped for HTML.

    :param verbatim: the keys whose values stay as they are.
    """
    from markupsafe import escape

    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, list):
        return [escaped(item, verbatim) for item in value]
    if isinstance(value, dict):
        return {str(escape(key)): item if key in verbatim else escaped(item, verbatim) for key, item in value.items()}
    return value
