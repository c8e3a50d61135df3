"""Encrypts and authenticates payloads in Redis with Fernet. Used by whatever writes or reads a launch, clean-up or report.

A reader of Redis learns no token, and a writer to Redis cannot forge a launch. Keys have Airflow's form: comma-separated, the
first one encrypts, each of them decrypts. To rotate keys, put the new one first, restart every process, and remove the
old one when no launch that it encrypted is waiting any more. `fingerprints` identifies the keys, that of the encrypting
one first; podrelay.store.key_rings compares those of all processes.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from podrelay.errors import ConfigError, DecryptionError


class PayloadCipher:
    """Encrypts bytes to printable text and decrypts them again.

    :raises ConfigError: at construction, if there is no key or a key is malformed. The message never shows a key.
    """

    def __init__(self, keys: str) -> None:
        parts = [key.strip() for key in keys.split(",") if key.strip()]
        if not parts:
            raise ConfigError(
                "No key to encrypt launches: set [podrelay] fernet_key, or [core] fernet_key, to a key from "
                "cryptography.fernet.Fernet.generate_key(), the same for schedulers, launchers and watchers."
            )
        try:
            self._fernet = MultiFernet([Fernet(part) for part in parts])
            self.fingerprints = tuple(map(_fingerprint, parts))
        except ValueError as error:
            raise ConfigError(
                "[podrelay] fernet_key (or [core] fernet_key) contains a malformed key: each key must be 32 bytes in "
                "URL-safe base64, with commas between keys."
            ) from error

    def __repr__(self) -> str:
        return "PayloadCipher(***)"

    def encrypt(self, payload: bytes) -> str:
        """The payload, encrypted and authenticated."""
        return self._fernet.encrypt(payload).decode("ascii")

    def decrypt(self, sealed: str | bytes) -> bytes:
        """The payload of an encrypted text.

        :raises DecryptionError: the text was not encrypted with any of our keys.
        """
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, TypeError, ValueError) as error:
            raise DecryptionError("payload is not encrypted with a key of this deployment") from error


def _fingerprint(key: str) -> str:
    """Tells keys apart without revealing them: 32 bits of a hash of 256 random bits."""
    secret = base64.urlsafe_b64decode(key)
    return hashlib.sha256(b"podrelay key fingerprint\0" + secret).hexdigest()[:8]
