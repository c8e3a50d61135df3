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
import hmac
import os
import threading
import time
from collections.abc import Iterable

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from podrelay.errors import ConfigError, DecryptionError

# Part of what keys are derived from: a later form of messages gets another number, and no reader takes one for the other.
_FORM = 1


# A Fernet token: a version, the time (s), IV and blocks of AES-128-CBC, HMAC-SHA256 of all that; in URL-safe base64.
_VERSION, _TIME_SIZE, _BLOCK, _MAC_SIZE = b"\x80", 8, 16, 32
_BLOCKS = slice(len(_VERSION) + _TIME_SIZE, -_MAC_SIZE)


class _Ciphers(threading.local):
    """AES-128-CBC in both directions, for one thread. Each of them goes on where it stopped."""

    def __init__(self, key: bytes) -> None:
        cipher = Cipher(AES(key), CBC(bytes(_BLOCK)))
        self.encryptor, self.decryptor = cipher.encryptor(), cipher.decryptor()


class _FernetKey:
    """Makes and reads the tokens of `cryptography.fernet`, which takes longer to set up ciphers for each than to encrypt it.

    Here the same ciphers serve all tokens. What CBC makes of a random block is a random IV, whatever came before; and where a
    token is read, its IV comes before its first block.
    """

    def __init__(self, key: bytes) -> None:
        """:param key: 32 bytes."""
        self._signing_key = key[:16]
        self._ciphers = _Ciphers(key[16:])

    def encrypt(self, payload: bytes) -> bytes:
        missing = _BLOCK - len(payload) % _BLOCK
        blocks = self._ciphers.encryptor.update(os.urandom(_BLOCK) + payload + bytes((missing,)) * missing)
        signed = _VERSION + int(time.time()).to_bytes(_TIME_SIZE, "big") + blocks
        return base64.urlsafe_b64encode(signed + self._mac(signed))

    def decrypt(self, token: bytes) -> bytes | None:
        """:param token: without its base64.
        :return: None if this key has not made it.
        """
        signed, blocks = token[:-_MAC_SIZE], token[_BLOCKS]
        if not signed.startswith(_VERSION) or not hmac.compare_digest(self._mac(signed), token[-_MAC_SIZE:]):
            return None
        if len(blocks) < 2 * _BLOCK or len(blocks) % _BLOCK:
            return None
        padded = self._ciphers.decryptor.update(blocks)[_BLOCK:]
        missing = padded[-1]
        is_padded = 0 < missing <= _BLOCK and padded.endswith(bytes((missing,)) * missing)
        return padded[:-missing] if is_padded else None

    def _mac(self, signed: bytes) -> bytes:
        return hmac.digest(self._signing_key, signed, "sha256")


class Channel:
    """One direction of one deployment: encrypts bytes to printable text and decrypts them again."""

    def __init__(self, keys: Iterable[bytes], deployment: str, direction: str) -> None:
        info = f"podrelay {_FORM} {deployment} {direction}".encode()
        self._keys = [_FernetKey(HKDF(SHA256(), 32, salt=None, info=info).derive(key)) for key in keys]

    def encrypt(self, payload: bytes) -> str:
        """The payload, encrypted and authenticated."""
        return self._keys[0].encrypt(payload).decode("ascii")

    def decrypt(self, sealed: str | bytes) -> bytes:
        """The payload of an encrypted text.

        :raises DecryptionError: the text was not encrypted with any of our keys, or for another direction or deployment.
        """
        try:
            token = base64.urlsafe_b64decode(sealed)
        except (TypeError, ValueError) as error:
            raise DecryptionError("payload is not encrypted with a key of this deployment") from error
        for key in self._keys:
            if (payload := key.decrypt(token)) is not None:
                return payload
        raise DecryptionError("payload is not encrypted with a key of this deployment")


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
    """Distinguishes keys without revealing them: 32 bits of a hash of 256 random bits."""
    return hashlib.sha256(b"podrelay key fingerprint\0" + secret).hexdigest()[:8]
