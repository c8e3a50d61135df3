"""What an error of the API server means for a launch or a clean-up: who waits, how long, or why it fails. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kubernetes.utils import parse_quantity

from podrelay_workers.kube.errors import (
    ApiError,
    Conflict,
    Gone,
    Overloaded,
    QuotaExceeded,
    Throttled,
    Unauthorized,
    Unreachable,
)
from podrelay_workers.runtime.backoff import exponential_s

# The first and the longest wait that all launchers of a cluster share while its API server fails.
STUMBLE_FIRST_S, STUMBLE_MOST_S = 0.25, 15.0
# The first and the longest wait between two attempts in a namespace whose quota is used up.
QUOTA_FIRST_S, QUOTA_MOST_S = 1.0, 15.0
# The longest pause that one Retry-After header may cause.
PAUSE_MOST_S = 600.0
# Some refusals pass in a namespace or a deployment that was just created; a launch is tried this many times, about ten
# seconds in all, before such a refusal is final.
SETTLE_TRIES = 6
_SETTLING = ("error looking up service account", "cannot create resource")
# An admission webhook refused the request or could not be called; that mostly concerns one namespace or one kind of pod.
_WEBHOOK = ("denied the request", "failed calling webhook")
_EXCEEDED = re.compile(r"exceeded quota: [^,]*, requested: (.*?), used: .*?, limited: (.*)")
# The parts of a refusal that concern one pod: its name, and how much it requested.
_OF_ONE_POD = re.compile(r'^pods "[^"]*" is forbidden: |(?<=, )requested: .*?, (?=used: )')
_AMOUNT = re.compile(r"([^=,\s]+)=([^,\s]+)")
_COUNTED = re.compile(r"pods$|count/")

Scope = Literal["cluster", "namespace", "launch", "never"]


@dataclass(frozen=True)
class ErrorPolicy:
    """What follows from an error. `scope` names who waits; `never` fails the job. `seconds` None: Redis computes the wait.

    slower: send fewer creations at once. ambiguous: the pod may exist nevertheless.
    """

    scope: Scope
    reason: str
    message: str
    seconds: float | None = None
    slower: bool = False
    ambiguous: bool = False


class ApiServerHealth:
    """Distinguishes a failing API server from a single failing launch, for example one that breaks an admission webhook."""

    def __init__(self) -> None:
        self._worked = False
        self._failed: str | None = None

    def succeeded(self) -> None:
        self._worked, self._failed = True, None

    def failed_alone(self, launch_id: str) -> bool:
        """Count a failure. True if the server has worked before and no other launch has failed since."""
        alone = self._worked and self._failed in (None, launch_id)
        self._failed = launch_id if self._failed is None else self._failed
        return alone


def classify_error(error: ApiError, tries: int, alone: bool = False) -> ErrorPolicy:
    """Wait for anything that may pass; fail at once only what can never succeed.

    :param tries: how often this job was tried before.
    :param alone: the server works for other launches (`ApiServerHealth`).
    """
    message = printable(error.message or type(error).__name__)
    asked_s = None if error.retry_after_s is None else min(error.retry_after_s, PAUSE_MOST_S)
    of_webhook = any(sign in message for sign in _WEBHOOK)
    # The status is then the webhook's, not the server's.
    if of_webhook and isinstance(error, (Overloaded, Throttled, Unauthorized)):
        return ErrorPolicy("launch", "WebhookFailed", message, exponential_s(tries + 1, 1.0, 15.0), ambiguous=True)
    if isinstance(error, Throttled):
        return ErrorPolicy("cluster", "Throttled", message, asked_s, slower=True)
    if isinstance(error, Overloaded) and alone and asked_s is None:
        seconds = exponential_s(tries + 1, STUMBLE_FIRST_S, STUMBLE_MOST_S)
        return ErrorPolicy("launch", "ApiServerError", message, seconds, ambiguous=True)
    if isinstance(error, Overloaded):
        return ErrorPolicy("cluster", "ApiServerUnavailable", message, asked_s, slower=True, ambiguous=True)
    if isinstance(error, Unreachable):
        return ErrorPolicy("cluster", "ApiServerUnreachable", message, slower=True, ambiguous=True)
    if isinstance(error, Unauthorized):
        return ErrorPolicy("cluster", "Unauthorized", message)
    if isinstance(error, QuotaExceeded) and exceeds_alone(message):  # smaller pods of the namespace may fit
        return ErrorPolicy("launch", "QuotaExceeded", message, exponential_s(tries + 1, QUOTA_FIRST_S, QUOTA_MOST_S))
    if isinstance(error, QuotaExceeded):
        return ErrorPolicy("namespace", "QuotaExceeded", message)
    if isinstance(error, (Conflict, Gone)):
        return ErrorPolicy("launch", "Conflict", message, exponential_s(tries + 1, 0.2, 5.0))
    if error.status == 403 and tries < SETTLE_TRIES and any(sign in message for sign in _SETTLING):
        return ErrorPolicy("launch", "PodRefused", message, exponential_s(tries + 1, 0.5, 8.0))
    return ErrorPolicy("never", "PodRefused", message)


def exceeds_alone(message: str) -> bool:
    """Does this pod request more than the whole quota, so that it cannot be created even in an empty namespace?

    The server names only the exceeded resources of one quota. Object counts are ignored: a count set to 0 suspends a
    namespace, which will be resumed.
    """
    found = _EXCEEDED.search(message)
    if found is None:
        return False
    requested, limited = (dict(_AMOUNT.findall(part)) for part in found.groups())
    try:
        return any(
            name in limited and not _COUNTED.match(name) and parse_quantity(amount) > parse_quantity(limited[name])
            for name, amount in requested.items()
        )
    except ValueError:
        return False


def shared_message(message: str, pod: str) -> str:
    """The refusal of a pod in words that hold for every launch of its namespace, which other launches will report."""
    return _OF_ONE_POD.sub("", message).replace(pod, "a pod")


def printable(text: str) -> str:
    """Replace what is valid in JSON but not in UTF-8 (half of a surrogate pair), so that the text can be stored."""
    return text.encode("utf-8", "replace").decode()
