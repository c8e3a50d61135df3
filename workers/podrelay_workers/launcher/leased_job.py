"""A job that a launcher holds by lease, and the dispositions that end it. Pure; `job_queue` claims and finishes jobs.

One function for each disposition: its arguments are those of `finish.lua`.
"""

from __future__ import annotations

import base64
import time
import zlib
from dataclasses import dataclass, field
from typing import Literal

from podrelay.protocol import identifiers
from podrelay.protocol.messages import Json
from podrelay_workers.launcher.job_clock import JobClock

Kind = Literal["launch", "cleanup"]
What = Literal["created", "done", "failed", "back", "wait", "abandon", "order"]


@dataclass
class Job:
    """A leased job. `held_at_s` (monotonic) is the latest known start of its lease; it never decreases.

    lost: another launcher holds it. unwanted: its launch was withdrawn or superseded. given: its disposition is queued.
    sent: its request was sent to the API server.
    overdue: reason and message of a wait for quota that lasted too long.
    warm: the name of the warm pod that the launch has; empty: none.
    """

    id: str
    queue: str
    kind: Kind
    execution: str
    data: bytes = field(repr=False)
    held_at_s: float
    tries: int = 0
    offered_at_s: float = 0.0
    reported_at_s: float = 0.0
    probe: bool = False
    overdue: tuple[str, str] | None = None
    clock: JobClock = field(default_factory=JobClock)
    lost: bool = False
    unwanted: bool = False
    given: bool = False
    sent: bool = False
    warm: str = ""

    @property
    def waited_s(self) -> float:
        """Seconds since the launch was offered first."""
        return max(0.0, self.clock.scheduler_s() - self.offered_at_s)

    @property
    def launch_id(self) -> str:
        parsed = identifiers.parse_job_id(self.id)
        return parsed[0] if parsed else ""


@dataclass(frozen=True)
class QuotaNotice:
    """A launch that waits for its namespace's quota, due for an event in its task's log."""

    launch_id: str
    attempt: int
    reason: str
    message: str


@dataclass(frozen=True)
class Claim:
    """The result of a claim.

    wait_s: nothing may be created before, if positive. failures: of the API server, in a row. due_s: until the next
    delayed launch, negative if there is none. more: the queues hold more jobs. dropped: superseded jobs removed.
    notices: launches whose wait for quota is to be reported. suspended: by `rq suspend`.
    """

    jobs: list[Job]
    wait_s: float = 0.0
    failures: int = 0
    due_s: float = -1.0
    more: bool = False
    dropped: int = 0
    notices: tuple[QuotaNotice, ...] = ()
    suspended: bool = False


@dataclass(frozen=True)
class Disposition:
    """What became of a job; `args` are those of `finish.lua`, built only by the functions at the end of this module."""

    job: Job
    what: What
    args: tuple[str | int, ...] = ()


def created(job: Job, pod: str, namespace: str, uid: str) -> Disposition:
    return Disposition(job, "created", (pod, namespace, uid, f"{time.time():.6f}"))


def created_pod(job: Job, pod: Json) -> Disposition:
    """:param pod: as the API server returned it."""
    metadata = pod["metadata"]
    return created(job, metadata["name"], metadata["namespace"], metadata.get("uid", ""))


def done(job: Job) -> Disposition:
    return Disposition(job, "done")


def failed(job: Job, why: str) -> Disposition:
    return Disposition(job, "failed", (base64.b64encode(zlib.compress(why.encode())).decode("ascii"),))


def back(job: Job) -> Disposition:
    """Nothing was tried: to the front of its queue."""
    return Disposition(job, "back")


def wait(job: Job, seconds: float, reason: str, message: str, report: str = "", tried: bool = True) -> Disposition:
    """Try again after some seconds.

    :param report: an encrypted pending report, if one is due.
    """
    return Disposition(job, "wait", (f"{seconds:.3f}", reason, message, report, int(tried)))
