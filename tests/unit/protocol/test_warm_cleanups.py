"""A clean-up of a warm pod: its name proves nothing, so that a report or its labels have to."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.errors import MessageError
from podrelay.protocol import identifiers, jobs
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.protocol.starts import STARTS, start_in, start_text
from podrelay_workers.launcher.pod_ownership import mismatch

CIPHER = PayloadCipher(Fernet.generate_key().decode(), "default")
LAUNCH_ID, OTHER_ID = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
COLD = identifiers.pod_name("etl", LAUNCH_ID, 1)
WARM = identifiers.warm_pod_name("etl", "0123456789abcdef" * 2)


def read(request: CleanupRequest, attempt: int) -> CleanupRequest:
    job = jobs.cleanup_job(request, attempt, CIPHER)
    return jobs.read_cleanup(job.data.encode(), job.id, "default", CIPHER)


@pytest.mark.parametrize(
    ("pod", "sealed", "proven"), [(COLD, None, True), (COLD, 1, True), (WARM, 1, True), (WARM, None, False)]
)
def test_what_proves_whose_pod_it_is(pod: str, sealed: int | None, proven: bool) -> None:
    request = CleanupRequest(LAUNCH_ID, "delete", "n", pod, "u", attempt=sealed)
    assert read(request, 1) == request
    assert jobs.proves_pod(request) is proven


@pytest.mark.parametrize(
    ("pod", "sealed"),
    [(WARM, 1), (COLD, 2), ("etl-load", 2), (identifiers.pod_name("etl", OTHER_ID, 2), 2)],
    ids=["of another attempt", "its name says another attempt", "of nobody", "of another launch"],
)
def test_a_sealed_attempt_proves_nothing_else(pod: str, sealed: int) -> None:
    with pytest.raises(MessageError):
        read(CleanupRequest(LAUNCH_ID, "delete", "n", pod, "u", attempt=sealed), 2)


@pytest.mark.parametrize("job", ["", "x", "{}", "{}_-1-delete", "{}_" + "9" * 5000], ids=list("abcde"))
def test_a_warm_pod_under_a_job_of_no_attempt_is_refused(job: str) -> None:
    data = jobs.cleanup_job(CleanupRequest(LAUNCH_ID, "delete", "n", WARM), 0, CIPHER).data
    with pytest.raises(MessageError):
        jobs.read_cleanup(data.encode(), job.format(LAUNCH_ID), "default", CIPHER)


def test_labels_decide_by_attempt() -> None:
    labels = {
        identifiers.LABEL_LAUNCH_ID: LAUNCH_ID, identifiers.LABEL_ATTEMPT: "1", identifiers.LABEL_DEPLOYMENT: "d",
    }  # fmt: skip
    pod: dict[str, Any] = {"metadata": {"labels": labels}}
    request = CleanupRequest(LAUNCH_ID, "revoke", "n", WARM)
    assert mismatch(request, 1, "d", pod) == ""
    assert mismatch(request, 2, "d", pod) == "the pod has another value of label podrelay/attempt"
    assert mismatch(request, 1, "e", pod) == "the pod has another value of label podrelay/deployment"
    assert mismatch(request, None, "d", {"metadata": {}}) != ""


def test_processes_of_before_and_after_read_each_other() -> None:
    """What an older process does not write has a default; what it does not know, it ignores."""
    cleanup = CleanupRequest(LAUNCH_ID, "delete", "n", COLD)
    launch = LaunchRequest(LAUNCH_ID, 1, "task", "s", (), "1", ("python",))

    def also(message: CleanupRequest | LaunchRequest, field: bytes) -> bytes:
        """As a process writes it that writes defaults too, or knows more fields."""
        assert field.partition(b":")[0] not in message.encode()
        return message.encode()[:-1] + b"," + field + b"}"

    assert CleanupRequest.decode(also(cleanup, b'"attempt":null')) == cleanup
    assert LaunchRequest.decode(also(launch, b'"repeated":false')) == launch
    assert CleanupRequest.decode(also(cleanup, b'"later":7')) == cleanup
    for broken in (b'"attempt":"1"', b'"attempt":true'):
        with pytest.raises(MessageError, match="attempt"):
            CleanupRequest.decode(also(cleanup, broken))


def test_only_known_words_say_how_a_pod_began() -> None:
    assert [start_in(word) for word in STARTS] == list(STARTS)
    assert all(map(start_text, STARTS))
    for odd in ("", None, "cold", "warm ", "\x1b[2J", "x" * 5000):
        assert start_in(odd) == ""
        assert start_text(odd or "") == ""
