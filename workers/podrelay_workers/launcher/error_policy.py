"""What an error of the API server means for a launch or a clean-up: who waits, how long, or why it fails. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

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
from podrelay_workers.kube.quantity import parse_quantity
from podrelay_workers.runtime.backoff import exponential_s

# The first and the longest wait that all launchers of a cluster share while its API server fails.
STUMBLE_FIRST_S, STUMBLE_MOST_S = 0.25, 15.0
# The first and the longest wait between two attempts in a namespace whose quota is used up.
QUOTA_FIRST_S, QUOTA_MOST_S = 1.0, 15.0
# The longest pause that one Retry-After header may cause.
PAUSE_MOST_S = 600.0
# Some refusals pass: an API server that has just started does not know its roles for some seconds, and a role or a service
# account may be created after the launch. Only such a refusal that lasts this long is final.
SETTLE_S = 30.0
_SETTLE_FIRST_S, _SETTLE_MOST_S = 0.5, 4.0
_SETTLING = re.compile(
    r"cannot \w+ (?:sub)?resource |\bRBAC: |not yet ready to handle request|error looking up service account"
)
# The pause after rejected credentials, which are loaded again meanwhile: launches go on soon after that.
UNAUTHORIZED_S = 3.0
# An admission webhook refused the request or could not be called; that mostly concerns one namespace or one kind of pod.
_WEBHOOK = ("denied the request", "failed calling webhook")
_EXCEEDED = re.compile(r"exceeded quota: [^,]*, requested: (.*?), used: .*?, limited: (.*)")
# The parts of a refusal that concern one pod: its name, and how much it requested.
_OF_ONE_POD = re.compile(r'^(?:pods|secrets) "[^"]*" is forbidden: |(?<=, )requested: .*?, (?=used: )')
_AMOUNT = re.compile(r"([^=,\s]+)=([^,\s]+)")
_COUNTED = re.compile(r"pods$|count/")

# The manifest that grants what `[podrelay] workload_in_secret` needs.
SECRET_ACCESS = "docker/kubernetes/components/workload_secrets/access.yaml"

Scope = Literal["cluster", "namespace", "launch", "never"]


@dataclass(frozen=True)
class ErrorPolicy:
    """What follows from an error. `scope` names who waits; `never` fails the job. `seconds` None: Redis computes the wait.

    slower: send fewer creations at once. ambiguous: the pod may exist nevertheless. settles: a refusal that certainly made
    no pod, and that ends within `SETTLE_S` or becomes final.
    """

    scope: Scope
    reason: str
    message: str
    seconds: float | None = None
    slower: bool = False
    ambiguous: bool = False
    settles: bool = False


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


def may_settle(error: ApiError) -> bool:
    """Is this a refusal that passes once the server, a role or a service account is there?"""
    return error.status == 403 and bool(_SETTLING.search(error.message))


def classify_error(error: ApiError, tries: int, alone: bool = False, refused_s: float = 0.0) -> ErrorPolicy:
    """Wait for anything that may pass; fail at once only what can never succeed.

    :param tries: how often this job was tried before.
    :param alone: the server works for other launches (`ApiServerHealth`).
    :param refused_s: seconds since the first refusal of this job.
    """
    message = error.message or type(error).__name__
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
        return ErrorPolicy("cluster", "Unauthorized", message, UNAUTHORIZED_S)
    if isinstance(error, QuotaExceeded) and exceeds_alone(message):  # smaller pods of the namespace may fit
        return ErrorPolicy("launch", "QuotaExceeded", message, exponential_s(tries + 1, QUOTA_FIRST_S, QUOTA_MOST_S))
    if isinstance(error, QuotaExceeded):
        return ErrorPolicy("namespace", "QuotaExceeded", message)
    if isinstance(error, (Conflict, Gone)):
        return ErrorPolicy("launch", "Conflict", message, exponential_s(tries + 1, 0.2, 5.0))
    if may_settle(error) and refused_s < SETTLE_S:
        longest_s = min(_SETTLE_MOST_S, max(_SETTLE_FIRST_S, refused_s / 2))
        return ErrorPolicy("launch", "PodRefused", message, exponential_s(1, longest_s), settles=True)
    return ErrorPolicy("never", "PodRefused", message)


def secret_policy(policy: ErrorPolicy, error: ApiError) -> ErrorPolicy:
    """The policy for an error of the request that creates the Secret of a pod, which exists. A refusal names the option."""
    policy = replace(policy, ambiguous=True)
    if policy.reason != "PodRefused":
        return policy
    remedy = f"; grant create on secrets, as in {SECRET_ACCESS}" if may_settle(error) else ""
    message = f"[podrelay] workload_in_secret: the Secret of the pod was refused: {policy.message}{remedy}"
    return replace(policy, reason="SecretRefused", message=message)


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
    except (ValueError, ArithmeticError):
        return False


def shared_message(message: str, pod: str) -> str:
    """The refusal of a pod in words that hold for every launch of its namespace, which other launches will report."""
    return _OF_ONE_POD.sub("", message).replace(pod, "a pod")
