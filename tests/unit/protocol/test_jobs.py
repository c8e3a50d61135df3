"""A job's data can be read only by the kind, job id and cluster that it was written for."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from cryptography.fernet import Fernet

from podrelay.errors import MessageError
from podrelay.protocol import identifiers, jobs
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import CleanupRequest, LaunchRequest

CIPHER = PayloadCipher(Fernet.generate_key().decode(), "default")
LAUNCH_ID = identifiers.new_launch_id()
LAUNCH = LaunchRequest(LAUNCH_ID, 1, "task", "s", (), "1", ("python",))
LAUNCH_JOB = identifiers.job_id(LAUNCH_ID, 1)
CLEANUP = CleanupRequest(LAUNCH_ID, "delete", "n", identifiers.pod_name("p", LAUNCH_ID, 1))


def launch_data() -> bytes:
    return jobs.launch_data(LAUNCH, CIPHER).encode()


def test_a_launch_is_read_as_written() -> None:
    assert jobs.read_launch(launch_data(), LAUNCH_JOB, "default", CIPHER) == LAUNCH


def test_data_is_json_as_rq_writes_it() -> None:
    data = jobs.launch_data(LAUNCH, CIPHER)
    document = json.loads(data)
    assert json.dumps(document) == data
    assert document == [jobs.LAUNCH_FUNCTION, None, [document[2][0]], {}]


def test_data_that_rq_compressed_is_read_too() -> None:
    assert jobs.read_launch(zlib.compress(launch_data()), LAUNCH_JOB, "default", CIPHER) == LAUNCH


@pytest.mark.parametrize("options", [{"indent": 1}, {"separators": (",", ":")}, {}])
def test_any_json_of_a_job_is_read(options: dict[str, Any]) -> None:
    data = json.dumps(json.loads(launch_data()), **options).encode()
    assert jobs.read_launch(data, LAUNCH_JOB, "default", CIPHER) == LAUNCH


def test_a_cleanup_is_read_as_written() -> None:
    job = jobs.cleanup_job(CLEANUP, 1, CIPHER)
    assert job.id == identifiers.cleanup_job_id(LAUNCH_ID, 1, "delete")
    assert job.description == f"delete pod n/{CLEANUP.pod}"
    assert jobs.read_cleanup(job.data.encode(), job.id, "default", CIPHER) == CLEANUP


@pytest.mark.parametrize(
    ("job_id", "cluster"), [(f"{LAUNCH_ID}_2", "default"), (LAUNCH_JOB, "other")], ids=["attempt", "cluster"]
)
def test_a_replayed_launch_is_rejected(job_id: str, cluster: str) -> None:
    with pytest.raises(MessageError, match="belongs to another job"):
        jobs.read_launch(launch_data(), job_id, cluster, CIPHER)


@pytest.mark.parametrize("attempt", [0, 2])
def test_a_cleanup_of_another_attempt_is_rejected(attempt: int) -> None:
    job = jobs.cleanup_job(CLEANUP, attempt, CIPHER)
    with pytest.raises(MessageError, match="pod to another attempt"):
        jobs.read_cleanup(job.data.encode(), job.id, "default", CIPHER)


@pytest.mark.parametrize(
    "pod",
    ["", "p", identifiers.pod_name("p", identifiers.new_launch_id(), 1)],
    ids=["none", "of no launch", "of another launch"],
)
def test_a_cleanup_of_a_foreign_pod_is_rejected(pod: str) -> None:
    job = jobs.cleanup_job(CleanupRequest(LAUNCH_ID, "delete", "n", pod), 1, CIPHER)
    with pytest.raises(MessageError, match="name does not belong"):
        jobs.read_cleanup(job.data.encode(), job.id, "default", CIPHER)


SEALED = CIPHER.requests.encrypt(LAUNCH.encode())


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        [],
        ["os.system", None, [SEALED], {}],
        [jobs.CLEANUP_FUNCTION, None, [SEALED], {}],
        [jobs.LAUNCH_FUNCTION, None, [], {}],
        [jobs.LAUNCH_FUNCTION, None, [SEALED, SEALED], {}],
        [jobs.LAUNCH_FUNCTION, None, [7], {}],
        [jobs.LAUNCH_FUNCTION, None, SEALED, {}],
        [jobs.LAUNCH_FUNCTION, None, ["not encrypted"], {}],
    ],
)
def test_any_other_document_is_rejected(document: Any) -> None:
    with pytest.raises(MessageError):
        jobs.read_launch(json.dumps(document).encode(), LAUNCH_JOB, "default", CIPHER)


@pytest.mark.parametrize(
    "data", [b"", b"\x78", b"\x78\x9c damaged", b"\x80\x04.", b"[" * 100_000, zlib.compress(b" " * (9 << 20))]
)
def test_data_that_is_not_json_is_rejected(data: bytes) -> None:
    with pytest.raises(MessageError):
        jobs.read_launch(data, LAUNCH_JOB, "default", CIPHER)


def test_spent_data_holds_no_payload() -> None:
    assert json.loads(jobs.spent_data(jobs.LAUNCH_FUNCTION)) == [jobs.LAUNCH_FUNCTION, None, [], {}]


def test_times_have_rqs_format() -> None:
    assert jobs.rq_time(0.25) == "1970-01-01T00:00:00.250000Z"
