"""Payloads that travel through Redis are encrypted and authenticated with Fernet, so that whoever can read Redis
learns no token and whoever can write to it cannot make a launcher obey.

Keys are Airflow's own form: comma-separated, the first one seals, each of them opens. To rotate: put the new key
first, restart every process, and drop the old one when no launch made under it is waiting any more.
"""

from __future__ import annotations

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from podrelay.errors import ConfigError, DecryptionError


class PayloadCipher:
    """Seals bytes to text and opens them again.

    :raises ConfigError: at construction, when there is no key or one is malformed. The message never shows a key.
    """

    def __init__(self, keys: str) -> None:
        parts = [key.strip() for key in keys.split(",") if key.strip()]
        if not parts:
            raise ConfigError(
                "No key to seal launches with: set [podrelay] fernet_key, or [core] fernet_key, to a key made by "
                "cryptography.fernet.Fernet.generate_key(), the same for schedulers, launchers and watchers."
            )
        try:
            self._fernet = MultiFernet([Fernet(part) for part in parts])
        except ValueError as error:
            raise ConfigError(
                "[podrelay] fernet_key (or [core] fernet_key) holds a malformed key: each key must be 32 bytes in "
                "url-safe base64, keys separated by commas."
            ) from error

    def __repr__(self) -> str:
        return "PayloadCipher(***)"

    def encrypt(self, payload: bytes) -> str:
        """Return the payload encrypted and authenticated, as printable text."""
        return self._fernet.encrypt(payload).decode("ascii")

    def decrypt(self, sealed: str | bytes) -> bytes:
        """Return the payload.

        :raises DecryptionError: the text was not sealed by one of our keys.
        """
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, TypeError, ValueError) as error:
            raise DecryptionError("payload is not sealed with a key of this deployment") from error
