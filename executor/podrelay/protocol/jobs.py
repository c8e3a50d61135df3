"""RQ jobs as podrelay writes and reads them: the JSON of a job's data, with one encrypted payload as its only argument.

Pure. The executor and the launchers write jobs, launchers read them. Job ids are named in `identifiers`.
"""

from __future__ import annotations

import json
import zlib
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple

from podrelay.errors import DecryptionError, ForeignMessage, MessageError, OversizedMessage
from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.json_text import parsed
from podrelay.protocol.messages import CleanupRequest, LaunchRequest
from podrelay.protocol.sizes import JOB_MAX

# The function names in our RQ jobs. Nothing imports them: a launcher compares the text and rejects any other.
LAUNCH_FUNCTION = "podrelay_workers.launcher.launch"
CLEANUP_FUNCTION = "podrelay_workers.launcher.clean_up"

# The data of a job as json.dumps writes it: around the function's name and the encrypted payload, which need no escaping.
_BEGINNING, _MIDDLE, _END = '["', '", null, ["', '"], {}]'


class CleanupJob(NamedTuple):
    """A clean-up job, in the order in which the scripts take its parts."""

    id: str
    data: str
    description: str


def launch_data(request: LaunchRequest, cipher: PayloadCipher) -> str:
    """The `data` field of a launch job."""
    return _data(LAUNCH_FUNCTION, cipher.requests.encrypt(request.encode()))


def cleanup_job(request: CleanupRequest, attempt: int, cipher: PayloadCipher) -> CleanupJob:
    """The job for one clean-up of one attempt's pod."""
    return CleanupJob(
        id=identifiers.cleanup_job_id(request.launch_id, attempt, request.action, request.unless_started),
        data=_data(CLEANUP_FUNCTION, cipher.requests.encrypt(request.encode())),
        description=f"{request.action} pod {request.namespace}/{request.pod}",
    )


def spent_data(function: str) -> str:
    """Replaces the data of a finished job, so that no token stays in Redis after its use."""
    return json.dumps([function, None, [], {}])


def read_launch(data: bytes, job_id: str, cluster: str, cipher: PayloadCipher) -> LaunchRequest:
    """Decrypt and verify the data of a launch job.

    :raises MessageError: forged, damaged, of another cluster, or replayed under another job id.
    """
    request = LaunchRequest.decode(_payload(data, LAUNCH_FUNCTION, cipher))
    if identifiers.job_id(request.launch_id, request.attempt) != job_id or request.cluster != cluster:
        raise ForeignMessage("the payload belongs to another job")
    return request


def read_cleanup(data: bytes, job_id: str, cluster: str, cipher: PayloadCipher) -> CleanupRequest:
    """Decrypt and verify the data of a clean-up job.

    The name of a warm pod does not say whose it is: unless `proves_pod`, its labels have to be compared.

    :raises MessageError: forged, damaged, of another cluster, or its pod belongs to another launch or attempt.
    """
    request = CleanupRequest.decode(_payload(data, CLEANUP_FUNCTION, cipher))
    # An executor may have read the pod's name from the ledger, which is not encrypted.
    attempt = identifiers.attempt_of_pod(request.pod, request.launch_id)
    if attempt is None and identifiers.warm_id_of_pod(request.pod):
        attempt = identifiers.attempt_of_job(job_id) if request.attempt is None else request.attempt
    if attempt is None:
        raise ForeignMessage("the pod's name does not belong to the launch")
    if request.attempt not in (None, attempt):
        raise ForeignMessage("the pod's name belongs to another attempt")
    expected = identifiers.cleanup_job_id(request.launch_id, attempt, request.action, request.unless_started)
    if expected != job_id or request.cluster != cluster:
        raise ForeignMessage("the payload belongs to another job, or its pod to another attempt")
    return request


def proves_pod(request: CleanupRequest) -> bool:
    """Is it certain that this pod is of the launch, without a look at its labels?"""
    return request.attempt is not None or identifiers.attempt_of_pod(request.pod, request.launch_id) is not None


def rq_time(at_s: float) -> str:
    """A wall-clock time (seconds since the epoch) in RQ's format."""
    return datetime.fromtimestamp(at_s, timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _data(function: str, encrypted: str) -> str:
    return f"{_BEGINNING}{function}{_MIDDLE}{encrypted}{_END}"


def _payload(data: bytes, function: str, cipher: PayloadCipher) -> bytes:
    beginning, end = f"{_BEGINNING}{function}{_MIDDLE}".encode(), _END.encode()
    payload = data[len(beginning) : -len(end)]
    if len(data) <= JOB_MAX and data == beginning + payload + end and b'"' not in payload:
        with suppress(DecryptionError):  # it may be no JSON: what follows decides
            return cipher.requests.decrypt(payload)
    document = _parse(data)
    if not isinstance(document, list) or len(document) != 4 or document[0] != function:
        raise MessageError("the job calls a function that is not podrelay's")
    arguments = document[2]
    if not isinstance(arguments, list) or len(arguments) != 1 or not isinstance(arguments[0], str):
        raise MessageError("the job's arguments are not an encrypted payload")
    return cipher.requests.decrypt(arguments[0])


def _parse(data: bytes) -> Any:
    """JSON as we wrote it, or as RQ compressed it (after a requeue from rq-dashboard)."""
    try:
        if data[:1] == b"\x78":
            data = zlib.decompressobj().decompress(data, JOB_MAX + 1)
        if len(data) > JOB_MAX:  # RQ compresses what it queues again; a forged job could inflate to any size
            raise OversizedMessage(f"the job's data inflates to more than {JOB_MAX} bytes")
        return parsed(data)
    except (ValueError, zlib.error, RecursionError) as error:
        raise MessageError("the job's data is not JSON") from error
