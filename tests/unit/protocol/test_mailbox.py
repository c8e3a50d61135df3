"""The mailbox of a warm pod: only its key opens it, and no text shows the key."""

from __future__ import annotations

import re

import pytest
from cryptography.fernet import Fernet

from podrelay.errors import DecryptionError, MessageError
from podrelay.protocol.mailbox import Delivery, MailboxKey

DELIVERY = Delivery("0b1c", 3, '{"token": "secret ✓ \\ud800"}')


def test_only_the_key_opens_what_it_sealed() -> None:
    key = MailboxKey.generate()
    sealed = key.seal(DELIVERY)
    assert "secret" not in sealed
    assert MailboxKey.from_text(key.text).open(sealed) == DELIVERY
    assert key.open(sealed.encode()) == DELIVERY
    with pytest.raises(DecryptionError, match="key of this mailbox"):
        MailboxKey.generate().open(sealed)
    assert "secret" not in repr(DELIVERY)


@pytest.mark.parametrize("sealed", ["", "x", "\0", "é", b"\xff", "A" * 100])
def test_what_nobody_sealed_is_refused(sealed: str | bytes) -> None:
    with pytest.raises(DecryptionError):
        MailboxKey.generate().open(sealed)


def test_an_altered_workload_is_refused() -> None:
    key = MailboxKey.generate()
    sealed = key.seal(DELIVERY)
    for position in (0, 30, len(sealed) - 2):
        other = "A" if sealed[position] != "A" else "B"
        with pytest.raises(DecryptionError):
            key.open(sealed[:position] + other + sealed[position + 1 :])


@pytest.mark.parametrize(
    "content", [b"\xff", b"", b"null", b"[]", b"{}", b'{"launch_id": "l", "attempt": "0", "workload": "w"}',
                b'{"launch_id": "l", "attempt": 0, "workload": {}}', b'{"launch_id": "l", "workload": "w"}',
                b"[" * 100_000]
)  # fmt: skip
def test_a_sealed_text_of_another_form_is_no_workload(content: bytes) -> None:
    key = MailboxKey.generate()
    with pytest.raises(DecryptionError):
        key.open(Fernet(key.text).encrypt(content))


def test_the_name_follows_from_the_key_and_shows_nothing_of_it() -> None:
    key, other = MailboxKey.generate(), MailboxKey.generate()
    assert re.fullmatch(r"[0-9a-f]{32}", key.name)
    assert MailboxKey.from_text(key.text).name == key.name != other.name
    assert key.text not in repr(key)
    assert MailboxKey.from_text(key.text) == key


@pytest.mark.parametrize("text", ["", "x", "\0" * 44, "A" * 42 + "é=", "A" * 43 + "=A", "A" * 40, "A" * 100_000])
def test_a_text_that_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(MessageError) as caught:
        MailboxKey.from_text(text)
    assert len(str(caught.value)) < 100
    assert len(text) < 10 or text not in str(caught.value)
