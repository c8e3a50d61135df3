"""podrelay's exceptions. Errors of other libraries are translated into one of these where they arise, and chained."""

from __future__ import annotations


class PodrelayError(Exception):
    """Base of every error that podrelay raises deliberately."""


class ConfigError(PodrelayError):
    """An option is missing or wrong. The message names `[section] option` and the remedy."""


class MessageError(PodrelayError):
    """A message cannot be decoded: not JSON, wrong version, missing or mistyped field. The text never holds the payload."""


class DecryptionError(MessageError):
    """No configured key decrypts a payload: it is forged, damaged, or from a deployment with other keys."""


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


class RedisFull(RedisUnavailable):
    """Redis has reached its maxmemory and refused the command, which changed nothing."""
