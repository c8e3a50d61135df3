"""podrelay's exceptions. Foreign errors become one of these at the edge where they arise, chained to their cause."""

from __future__ import annotations


class PodrelayError(Exception):
    """Base of everything podrelay raises on purpose."""


class ConfigError(PodrelayError):
    """An option is missing or wrong. The message names `[section] option` and says what to write there."""


class MessageError(PodrelayError):
    """A message could not be decoded: wrong version, missing or mistyped field, not JSON. Never shows the payload."""


class DecryptionError(MessageError):
    """A payload was not sealed with any of our keys: forged, damaged, or from a deployment with other keys."""


class RedisUnavailable(PodrelayError):
    """Redis did not answer in time, or refused. Nothing is known about what it did with the last command.

    `retry_after_s` is how long the caller should leave it alone.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
