"""Errors of the API server: a few classes instead of status codes. Pure; raised by `connection`, used by both workers."""
# ruff: noqa: N818 - named after what happened: `except AlreadyExists`

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from podrelay.errors import PodrelayError

MESSAGE_MAX = 1000
# Nobody waits longer, and a JSON number of any size must not get further.
_RETRY_AFTER_MOST_S = 86_400.0
# The server does not know the path: another kind of server, or an API server that does not serve pods yet.
_NO_SUCH_PATH = "the server could not find the requested resource"
# Status codes that mean the same from any sender; any other refusal counts only with a Status, which the API server sends.
_FROM_ANY_SENDER = frozenset({401, 408, 413, 429})
# Reported as 500, but the same request can never succeed: etcd's size limits, smaller than the API server's own, and a
# version in the metadata of a new object, as a template has that was copied from a pod.
_NEVER_STORED = ("request is too large", "message larger than max", "resourceVersion should not be set")


class ApiError(PodrelayError):
    """The API server refused a request or could not be reached. Its text is the server's message, never the request.

    What is valid in JSON but not in UTF-8 (half of a surrogate pair) is replaced, so that the texts can be stored.
    `retry_after_s` is the wait that the server asked for, None if it asked for none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        reason: str = "",
        retry_after_s: float | None = None,
        details: Any = None,
    ) -> None:
        self.message = _storable(message)
        super().__init__(self.message)
        self.status = status
        self.reason = _storable(reason)
        self.retry_after_s = retry_after_s
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}


class AlreadyExists(ApiError):
    """409 AlreadyExists: an object of that name exists."""


class Conflict(ApiError):
    """409 for any other reason: a precondition that does not hold, a quota that has just changed."""


class NotFound(ApiError):
    """404: the pod or its namespace does not exist."""


class Gone(ApiError):
    """410: the version or the continuation of a list has expired; only a new list helps."""


class Throttled(ApiError):
    """429: too many requests."""


class Overloaded(ApiError):
    """5xx or 408: the server, its storage or a webhook fails for now."""


class QuotaExceeded(ApiError):
    """403 because the namespace's resource quota is used up: passes when pods end."""


class Unauthorized(ApiError):
    """401, even with credentials that were just reloaded."""


class Refused(ApiError):
    """Any other 4xx: the same request can never succeed."""


class Unreachable(ApiError):
    """No complete answer: connection refused or reset, a timeout, or the answer of a proxy or load balancer.

    Whether the request had an effect is unknown.
    """


class Silent(Unreachable):
    """No byte arrived for longer than the allowed silence."""


def error_of(status: int, phrase: str, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error for an answer of 300 and above. `phrase` is the HTTP reason, used if the body is not a Status."""
    return _error(status, phrase, headers, _status(body))


def _error(status: int, phrase: str, headers: Mapping[str, str], document: dict[str, Any]) -> ApiError:
    text = document.get("message")
    message = (text if isinstance(text, str) and text else phrase or f"HTTP status {status}")[:MESSAGE_MAX]
    reason = document.get("reason") if isinstance(document.get("reason"), str) else ""
    kind = _class_of(status, str(reason), message)
    if 400 <= status < 500 and status not in _FROM_ANY_SENDER and not _is_from_api_server(document, status, message):
        kind = Unreachable
        message = f"{message} (HTTP {status}, not from the Kubernetes API: a proxy or load balancer?)"
    return kind(
        message,
        status=status,
        reason=str(reason) or phrase,
        retry_after_s=_retry_after_s(headers, document),
        details=document.get("details"),
    )


def error_of_event(document: Any) -> ApiError:
    """The error for the object of an ERROR event in a watch: a Status with its own code."""
    status = {"kind": "Status", **(document if isinstance(document, dict) else {})}
    code = status.get("code")
    return _error(code if isinstance(code, int) and 300 <= code < 600 else 500, "watch error", {}, status)


def _is_from_api_server(document: dict[str, Any], status: int, message: str) -> bool:
    """Did the API server itself send this? A gateway without a backend also answers 404: no proof that a pod is gone."""
    return document.get("kind") == "Status" and not (status == 404 and message.startswith(_NO_SUCH_PATH))


def _class_of(status: int, reason: str, message: str) -> type[ApiError]:
    if status == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    # The reason is Forbidden, as for any other 403: only the message differs. The second passes once the quota is counted.
    if status == 403 and ("exceeded quota" in message or "status unknown for quota" in message):
        return QuotaExceeded
    if status >= 500 and any(sign in message for sign in _NEVER_STORED):
        return Refused
    if 300 <= status < 400:
        return Unreachable
    if status >= 500 or status == 408:
        return Overloaded
    return {401: Unauthorized, 404: NotFound, 410: Gone, 429: Throttled}.get(status, Refused)


def _storable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _status(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after_s(headers: Mapping[str, str], document: dict[str, Any]) -> float | None:
    """Seconds from the Retry-After header (a number or an HTTP date), else from the Status, else None; a day at most."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(_RETRY_AFTER_MOST_S, float(text))
    if text:
        try:
            at = parsedate_to_datetime(text)
            at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
            return max(0.0, min(_RETRY_AFTER_MOST_S, (at - datetime.now(timezone.utc)).total_seconds()))
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    details = document.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return float(min(_RETRY_AFTER_MOST_S, seconds)) if isinstance(seconds, (int, float)) and seconds > 0 else None
