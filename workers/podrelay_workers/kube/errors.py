"""What the API server's answers mean to us: a few names instead of status codes. Pure; used by `pods_api`."""
# ruff: noqa: N818 - they read as what happened: `except AlreadyExists`

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from podrelay.errors import PodrelayError

MESSAGE_MAX = 1000
# Where the path itself is not known: another kind of server, or one that has not begun to serve pods.
_NO_SUCH_PATH = "the server could not find the requested resource"
# What keeps its meaning whoever says it; any other refusal counts only from the API server, which sends a Status.
_ANYBODYS = frozenset({401, 408, 413, 429})
# etcd's own limit, smaller than the API server's: told as 500, and as true the next time.
_TOO_LARGE = ("request is too large", "message larger than max")


class ApiError(PodrelayError):
    """The API server refused, or could not be asked. Its text is the server's own message, never ours of the request.

    `retry_after_s` is what the server asked for, None where it said nothing.
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
        super().__init__(message)
        self.message = message
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}


class AlreadyExists(ApiError):
    """A pod of that name is there (409 AlreadyExists)."""


class Conflict(ApiError):
    """409 for any other reason: a UID precondition that does not hold, a quota just changed."""


class NotFound(ApiError):
    """404: the pod, or its namespace, is not there."""


class Gone(ApiError):
    """410: the version (or the list's continuation) is too old; only a new list helps."""


class Throttled(ApiError):
    """429: not now."""


class Overloaded(ApiError):
    """5xx: the server, its storage or a webhook does not work just now."""


class QuotaExceeded(ApiError):
    """403 because the namespace's resource quota is used up: waits until something ends."""


class Unauthorized(ApiError):
    """401, also with credentials that were just read again."""


class Refused(ApiError):
    """Any other 4xx: the same request will never succeed as it is."""


class Unreachable(ApiError):
    """No complete answer: connection refused or reset, timeout; or the answer of a proxy or load balancer in between.
    Whether the request had an effect is unknown.
    """


class Silent(Unreachable):
    """A watch brought no byte for longer than its deadline."""


def error_of(status: int, phrase: str, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error for an answer of 400 and above. `phrase` is the HTTP reason, used where the body is not a Status."""
    document = _status(body)
    text = document.get("message")
    message = (text if isinstance(text, str) and text else phrase or f"HTTP status {status}")[:MESSAGE_MAX]
    reason = document.get("reason") if isinstance(document.get("reason"), str) else ""
    kind = _class_of(status, str(reason), message)
    if 400 <= status < 500 and status not in _ANYBODYS and not _is_servers_word(document, status, message):
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
    """The error for the object of an ERROR event in a watch, which is a Status with a code of its own."""
    status = {"kind": "Status", **(document if isinstance(document, dict) else {})}
    code = status.get("code")
    return error_of(code if isinstance(code, int) else 500, "watch error", {}, json.dumps(status).encode())


def _is_servers_word(document: dict[str, Any], status: int, message: str) -> bool:
    """A gateway without its backend answers 404 as well: that must not look like a pod that is gone."""
    return document.get("kind") == "Status" and not (status == 404 and message.startswith(_NO_SUCH_PATH))


def _class_of(status: int, reason: str, message: str) -> type[ApiError]:
    if status == 409:
        return AlreadyExists if reason == "AlreadyExists" else Conflict
    # The only sign there is: their reason is Forbidden, like any other's. The second passes when the quota has been counted.
    if status == 403 and ("exceeded quota" in message or "status unknown for quota" in message):
        return QuotaExceeded
    if status >= 500 and any(sign in message for sign in _TOO_LARGE):
        return Refused
    if 300 <= status < 400:
        return Unreachable
    if status >= 500 or status == 408:
        return Overloaded
    return {401: Unauthorized, 404: NotFound, 410: Gone, 429: Throttled}.get(status, Refused)


def _status(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _retry_after_s(headers: Mapping[str, str], document: dict[str, Any]) -> float | None:
    """Seconds from the Retry-After header (a number or an HTTP date), else from the Status, else None."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    if text:
        try:
            at = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    details = document.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None
