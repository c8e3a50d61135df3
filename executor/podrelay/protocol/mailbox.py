"""The mailbox of a warm pod: its key, its name in Redis, and the encryption of the workload in it. Pure.

A launcher makes a key for each warm pod; only the pod itself and launchers have it. The mailbox's name follows from the
key and cannot be guessed, so a task pod with Redis rights to all mailboxes knows none but its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken

from podrelay.errors import DecryptionError, MessageError

# The exit code of a warm pod that ends without ever having had a workload: sysexits.h calls it a temporary failure, and
# no Python program ends with it by accident.
EXIT_UNUSED = 75
# A waiting pod renews its sign of life (`RedisKeys.mailbox_alive`) every second.
ALIVE_EVERY_S, ALIVE_TTL_S = 1.0, 4.0
# How long a mailbox keeps a workload, taken or not: long enough for another launcher to take the job over.
MAILBOX_TTL_S = 600

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a warm pod gets: its launch, and the workload as JSON, which contains a token."""

    launch_id: str
    attempt: int
    workload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MailboxKey:
    """The key of one warm pod's mailbox."""

    _secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> MailboxKey:
        return cls(base64.urlsafe_b64decode(Fernet.generate_key()))

    @classmethod
    def from_text(cls, text: str) -> MailboxKey:
        """:raises MessageError: the text is not that of a key. The error does not show it."""
        try:
            secret = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise MessageError("the key of a mailbox is not base64") from error
        if len(secret) != _KEY_BYTES:
            raise MessageError(f"the key of a mailbox has {len(secret)} bytes instead of {_KEY_BYTES}")
        return cls(secret)

    @property
    def text(self) -> str:
        """Secret: URL-safe base64."""
        return base64.urlsafe_b64encode(self._secret).decode("ascii")

    @property
    def name(self) -> str:
        """The mailbox's name in Redis: 32 hex digits. Whoever knows it and has rights to mailboxes can use this one."""
        return hashlib.sha256(b"podrelay mailbox\0" + self._secret).hexdigest()[:32]

    def seal(self, delivery: Delivery) -> str:
        """The delivery, encrypted and authenticated for this pod alone."""
        fields = {"launch_id": delivery.launch_id, "attempt": delivery.attempt, "workload": delivery.workload}
        return Fernet(self.text).encrypt(json.dumps(fields).encode()).decode("ascii")

    def open(self, sealed: str | bytes) -> Delivery:
        """The delivery in a sealed text.

        :raises DecryptionError: it was not sealed with this key, was altered, or holds something else.
        """
        try:
            fields = json.loads(Fernet(self.text).decrypt(sealed))
        except (InvalidToken, TypeError, ValueError, RecursionError) as error:
            raise DecryptionError("the workload is not sealed with the key of this mailbox") from error
        match fields:
            case {"launch_id": str(launch_id), "attempt": int(attempt), "workload": str(workload)}:
                return Delivery(launch_id, attempt, workload)
            case _:
                raise DecryptionError("what is sealed for this mailbox is no workload")
