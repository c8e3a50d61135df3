"""podrelay's exceptions. Errors of other libraries are translated into one of these where they arise, and chained."""

from __future__ import annotations

from typing import ClassVar, Literal

# Why something is in the quarantine. oversized: longer than podrelay writes. undecryptable: no key decrypts it.
# malformed: not a message or a job of podrelay. foreign: a genuine message in another one's place. no_report: an end
# without a report. pause: a pause that is too long. bounds: another number that no process of podrelay writes.
# launchers_lost: every launcher that held the job was lost.
QuarantineKind = Literal[
    "oversized", "undecryptable", "malformed", "foreign", "no_report", "pause", "bounds", "launchers_lost"
]


class PodrelayError(Exception):
    """Base of every error that podrelay raises deliberately."""


class ConfigError(PodrelayError):
    """An option is missing or wrong. The message names `[section] option` and the remedy."""


class MessageError(PodrelayError):
    """A message cannot be decoded: not JSON, wrong version, missing or mistyped field. The text never holds the payload.

    `kind` classifies it in the quarantine and in the metric `podrelay.quarantined`.
    """

    kind: ClassVar[QuarantineKind] = "malformed"


class UnknownFormat(MessageError):  # noqa: N818 - the message is the fault
    """A genuine message of a format that this release does not read. It is kept for one that does, never guessed at."""


class DecryptionError(MessageError):
    """No configured key decrypts a payload: it is forged, damaged, or from a deployment with other keys."""

    kind = "undecryptable"


class ForeignMessage(MessageError):  # noqa: N818 - the message is the fault
    """A genuine message in the wrong place: it belongs to another job, launch or cluster."""

    kind = "foreign"


class OversizedMessage(MessageError):  # noqa: N818 - the message is the fault
    """A message is longer than any that podrelay writes."""

    kind = "oversized"


class RedisUnavailable(PodrelayError):
    """Redis did not answer in time or rejected the command. Whether it executed the last command is unknown.

    `retry_after_s` is how long the caller should wait before its next call. `cause` is the same for errors with the same
    remedy, whatever their text says. `answered`: Redis replied, so other commands may succeed meanwhile.
    """

    def __init__(
        self, message: str, retry_after_s: float = 0.0, *, cause: str = "unreachable", answered: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.cause = cause
        self.answered = answered


class DatabaseUnavailable(PodrelayError):  # noqa: N818 - as RedisUnavailable
    """Airflow's database does not answer, or has no tables."""


class RedisRefused(RedisUnavailable):
    """Redis answered and refused this command: it is full, the user lacks a right, or a key has another type. Commands that
    do not meet the same go on.
    """

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message, cause=cause, answered=True)


class RedisFull(RedisRefused):
    """Redis has reached its maxmemory and refused the command, which changed nothing."""
