"""Payloads: who can decrypt them, and what a malformed key says."""

from __future__ import annotations

import base64
import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from cryptography.fernet import Fernet, InvalidToken

from podrelay.errors import ConfigError, DecryptionError
from podrelay.protocol.encryption import Channel, PayloadCipher, _FernetKey

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


# --- tokens: those of the library, which earlier builds use -------------------------------------------------------
KEY = os.urandom(32)
LIBRARY = Fernet(base64.urlsafe_b64encode(KEY))


def test_the_library_reads_our_tokens_and_we_read_its_own() -> None:
    ours = _FernetKey(KEY)
    for size in (*range(70), 1300, 100_000):
        payload = os.urandom(size)
        token = ours.encrypt(payload)
        assert LIBRARY.decrypt(token, ttl=60) == payload
        assert len(token) == len(LIBRARY.encrypt(payload))
        assert ours.decrypt(base64.urlsafe_b64decode(LIBRARY.encrypt(payload))) == payload
        assert ours.decrypt(base64.urlsafe_b64decode(token)) == payload


def test_tokens_of_the_same_payload_have_nothing_in_common() -> None:
    """Neither those of one key, nor the first ones of two processes that have it."""
    payload = bytes(64)
    tokens = [
        base64.urlsafe_b64decode(key.encrypt(payload)) for key in (_FernetKey(KEY), _FernetKey(KEY)) for _ in range(500)
    ]
    blocks = [token[start : start + 16] for token in tokens for start in range(9, len(token) - 32, 16)]
    assert len(blocks) == 1000 * 6 == len(set(blocks))


def test_whatever_is_altered_is_refused_and_changes_nothing_for_the_next_token() -> None:
    key = _FernetKey(KEY)
    token = base64.urlsafe_b64decode(key.encrypt(b"payload"))
    for position in range(len(token)):
        for bit in range(8):
            altered = bytearray(token)
            altered[position] ^= 1 << bit
            assert key.decrypt(bytes(altered)) is None
    for length in range(len(token)):
        assert key.decrypt(token[:length]) is None
        assert key.decrypt(token[length:]) is None or not length
    assert key.decrypt(token) == b"payload"


@pytest.mark.parametrize("blocks", [0, 1, 15, 16, 17, 31, 32, 33, 47, 64])
def test_what_the_key_has_signed_and_is_no_token_is_refused(blocks: int) -> None:
    """As the library does, and without an effect on the next token."""
    key, signed = _FernetKey(KEY), b"\x80" + bytes(8) + bytes(blocks)
    token = signed + hmac.digest(KEY[:16], signed, "sha256")
    with pytest.raises(InvalidToken):
        LIBRARY.decrypt(base64.urlsafe_b64encode(token))
    assert key.decrypt(token) is None
    assert key.decrypt(base64.urlsafe_b64decode(LIBRARY.encrypt(b"payload"))) == b"payload"


def test_threads_share_a_key() -> None:
    key, payloads = _FernetKey(KEY), [os.urandom(number % 3000) for number in range(4000)]
    with ThreadPoolExecutor(8) as threads:
        tokens = list(threads.map(key.encrypt, payloads))
        assert list(threads.map(lambda token: key.decrypt(base64.urlsafe_b64decode(token)), tokens)) == payloads


@pytest.mark.parametrize("text", ["", "A", "not base64!!", b"\xff\xfe", "AAAA", None, 7])
def test_what_is_no_text_of_a_token_is_refused(text: object) -> None:
    with pytest.raises(DecryptionError):
        channel(OLD, "requests").decrypt(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("keys", ["", " , ", "short", "not base64!!"])
def test_bad_keys_name_the_option(keys: str) -> None:
    with pytest.raises(ConfigError, match="fernet_key") as caught:
        PayloadCipher(keys, "etl")
    assert not keys.strip(" ,") or keys not in str(caught.value)


def test_nothing_shows_a_key() -> None:
    assert OLD not in repr(PayloadCipher(OLD, "etl"))
