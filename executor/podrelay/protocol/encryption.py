"""Encrypts and authenticates payloads in Redis with Fernet. Used by whatever writes or reads a launch, clean-up or report.

A reader of Redis learns no token, and a writer to Redis cannot forge a launch. The configured keys have Airflow's form:
comma-separated, the first one encrypts, each of them decrypts. They encrypt nothing themselves: a key for each deployment and
direction is derived from each of them (HKDF, RFC 5869), so that a recorded payload is worth nothing in another deployment
that has the same key, nor in the other direction. docs/security.md says how to rotate keys. `fingerprints` identifies the
configured keys, that of the encrypting one first; podrelay.store.key_rings compares those of all processes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from podrelay.errors import ConfigError, DecryptionError

# Part of what keys are derived from: a later form of messages gets another number, and no reader takes one for the other.
_FORM = 1


class Channel:
    """One direction of one deployment: encrypts bytes to printable text and decrypts them again."""

    def __init__(self, keys: Iterable[bytes], deployment: str, direction: str) -> None:
        info = f"podrelay {_FORM} {deployment} {direction}".encode()
        derived = (HKDF(SHA256(), 32, salt=None, info=info).derive(key) for key in keys)
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])

    def encrypt(self, payload: bytes) -> str:
        """The payload, encrypted and authenticated."""
        return self._fernet.encrypt(payload).decode("ascii")

    def decrypt(self, sealed: str | bytes) -> bytes:
        """The payload of an encrypted text.

        :raises DecryptionError: the text was not encrypted with any of our keys, or for another direction or deployment.
        """
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, TypeError, ValueError) as error:
            raise DecryptionError("payload is not encrypted with a key of this deployment") from error


class PayloadCipher:
    """The directions of a deployment: `requests` from executors to workers, `reports` from workers to executors, `pool`
    between launchers, about warm pods.

    :raises ConfigError: at construction, if there is no key or a key is malformed. The message never shows a key.
    """

    def __init__(self, keys: str, deployment: str) -> None:
        parts = [key.strip() for key in keys.split(",") if key.strip()]
        if not parts:
            raise ConfigError(
                "No key to encrypt launches: set [podrelay] fernet_key, or [core] fernet_key, to a key from "
                "cryptography.fernet.Fernet.generate_key(), the same for schedulers, launchers and watchers."
            )
        try:
            for part in parts:
                Fernet(part)
        except ValueError as error:
            raise ConfigError(
                "[podrelay] fernet_key (or [core] fernet_key) contains a malformed key: each key must be 32 bytes in "
                "URL-safe base64, with commas between keys."
            ) from error
        secrets = [base64.urlsafe_b64decode(part) for part in parts]
        self.fingerprints = tuple(map(_fingerprint, secrets))
        self.requests = Channel(secrets, deployment, "requests")
        self.reports = Channel(secrets, deployment, "reports")
        self.pool = Channel(secrets, deployment, "pool")

    def __repr__(self) -> str:
        return "PayloadCipher(***)"


def _fingerprint(secret: bytes) -> str:
    """Tells keys apart without revealing them: 32 bits of a hash of 256 random bits."""
    return hashlib.sha256(b"podrelay key fingerprint\0" + secret).hexdigest()[:8]
