"""Which processes cannot read which others, by the fingerprints of their keys."""

from __future__ import annotations

import time

import pytest
from cryptography.fernet import Fernet

from podrelay.protocol.encryption import PayloadCipher
from podrelay.store.key_rings import KeyRing, mismatches

A, B = "aaaaaaaa", "bbbbbbbb"


def rings(scheduler: tuple[str, ...], launcher: tuple[str, ...], watcher: tuple[str, ...]) -> list[KeyRing]:
    return [KeyRing("scheduler 1", scheduler), KeyRing("launcher l", launcher), KeyRing("watcher w", watcher)]


@pytest.mark.parametrize(
    ("scheduler", "launcher", "watcher", "lacking"),
    [
        ((A,), (A,), (A,), []),
        ((A, B), (B, A), (A, B), []),
        ((B, A), (B, A), (A,), []),
        ((A,), (A,), (B, A), [("scheduler 1", "watcher w", B)]),
        ((A,), (B, A), (A,), [("scheduler 1", "launcher l", B)]),
        ((B, A), (A,), (A,), [("launcher l", "scheduler 1", B)]),
        ((B,), (A,), (B,), [("scheduler 1", "launcher l", A), ("launcher l", "scheduler 1", B)]),
    ],
)
def test_who_cannot_read_whom(
    scheduler: tuple[str, ...], launcher: tuple[str, ...], watcher: tuple[str, ...], lacking: list[tuple[str, str, str]]
) -> None:
    expected = {
        f"{reader} does not have the key {key}, with which {writer} encrypts" for reader, writer, key in lacking
    }
    found = rings(scheduler, launcher, watcher)
    assert set(mismatches(found)) == expected
    for own in found:
        assert set(mismatches(found, own)) == {sentence for sentence in expected if own.process in sentence}


def test_a_fingerprint_distinguishes_keys_and_reveals_none() -> None:
    first, second = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    one, both = (
        PayloadCipher(first, "default").fingerprints,
        PayloadCipher(f"{second}, {first}", "default").fingerprints,
    )
    assert both[1:] == one
    assert len(set(both)) == 2
    assert all(len(item) == 8 and item not in first + second for item in both)


def test_very_many_announcements_make_few_sentences() -> None:
    """Anybody with access to Redis can announce processes."""
    found = mismatches([KeyRing(f"scheduler {number}", (f"{number:08x}",)) for number in range(5)])
    assert found == []
    many = [KeyRing(f"launcher {number}", (f"{number:08x}",)) for number in range(2000)]
    began_s = time.process_time()
    assert 50 <= len(mismatches([*rings((A,), (B,), (A,)), *many])) <= 200
    mismatches([KeyRing(f"launcher {number}", (A,)) for number in range(2000)])
    assert time.process_time() - began_s < 1.0
