"""Payloads: who can decrypt them, and what a malformed key says."""

from __future__ import annotations

from itertools import permutations

import pytest
from cryptography.fernet import Fernet

from podrelay.errors import ConfigError, DecryptionError
from podrelay.protocol.encryption import Channel, PayloadCipher

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
BOTH = pytest.mark.parametrize("direction", ["requests", "reports", "pool"])


def channel(keys: str, direction: str, deployment: str = "etl") -> Channel:
    found = getattr(PayloadCipher(keys, deployment), direction)
    assert isinstance(found, Channel)
    return found


@BOTH
def test_only_a_known_key_decrypts(direction: str) -> None:
    sealed = channel(OLD, direction).encrypt(b"payload")
    assert channel(f"{NEW},{OLD}", direction).decrypt(sealed) == b"payload", (
        "an old key still decrypts after a rotation"
    )
    with pytest.raises(DecryptionError):
        channel(NEW, direction).decrypt(sealed)


@BOTH
def test_the_first_key_encrypts(direction: str) -> None:
    sealed = channel(f" {NEW} , {OLD}", direction).encrypt(b"payload")
    assert channel(NEW, direction).decrypt(sealed) == b"payload"


@BOTH
def test_an_altered_payload_is_refused(direction: str) -> None:
    sealed = channel(OLD, direction).encrypt(b"payload")
    for position in (0, 30, len(sealed) - 2):
        other = "A" if sealed[position] != "A" else "B"
        with pytest.raises(DecryptionError):
            channel(OLD, direction).decrypt(sealed[:position] + other + sealed[position + 1 :])


@BOTH
def test_a_payload_counts_in_its_deployment_only(direction: str) -> None:
    sealed = channel(OLD, direction, "etl").encrypt(b"payload")
    for other in ("default", "etl2", "et"):
        with pytest.raises(DecryptionError):
            channel(OLD, direction, other).decrypt(sealed)


@pytest.mark.parametrize(("written", "read"), [*permutations(("requests", "reports", "pool"), 2)])
def test_a_payload_counts_in_its_direction_only(written: str, read: str) -> None:
    with pytest.raises(DecryptionError):
        channel(OLD, read).decrypt(channel(OLD, written).encrypt(b"payload"))


@BOTH
def test_the_configured_key_itself_decrypts_nothing(direction: str) -> None:
    """Airflow encrypts connections with the same key: what podrelay holds is not readable with it, nor the reverse."""
    with pytest.raises(DecryptionError):
        channel(OLD, direction).decrypt(Fernet(OLD).encrypt(b"payload"))


@pytest.mark.parametrize("keys", ["", " , ", "short", "not base64!!"])
def test_bad_keys_name_the_option(keys: str) -> None:
    with pytest.raises(ConfigError, match="fernet_key") as caught:
        PayloadCipher(keys, "etl")
    assert not keys.strip(" ,") or keys not in str(caught.value)


def test_nothing_shows_a_key() -> None:
    assert OLD not in repr(PayloadCipher(OLD, "etl"))
