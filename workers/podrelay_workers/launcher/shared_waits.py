"""Waits that concern more than one launch: every launcher of the cluster observes them. Used by `launch_job`."""

from __future__ import annotations

import logging
import time

from podrelay.protocol.messages import Json, LaunchRequest
from podrelay_workers.launcher.error_policy import QUOTA_FIRST_S, QUOTA_MOST_S, ErrorPolicy, shared_message
from podrelay_workers.launcher.job_queue import PROBE_S, JobQueue
from podrelay_workers.launcher.leased_job import Job
from podrelay_workers.launcher.throttle import Throttle

log = logging.getLogger(__name__)


class SharedWaits:
    """Begins and ends them.

    :raises RedisUnavailable: from every method; each may be repeated.
    """

    def __init__(self, queue: JobQueue, throttle: Throttle) -> None:
        self._queue = queue
        self._throttle = throttle

    async def share(self, request: LaunchRequest, pod: Json, policy: ErrorPolicy) -> float:
        """Make every launcher concerned wait, and return the wait in seconds."""
        if policy.scope == "launch":
            return policy.seconds or 0.0
        if policy.scope == "namespace":
            began_s = time.monotonic()
            message = shared_message(policy.message, pod["metadata"]["name"])
            seconds = await self._queue.throttle(
                "refused", request.namespace, QUOTA_FIRST_S, QUOTA_MOST_S, policy.reason, message
            )
            self._throttle.pause_namespace(request.namespace, began_s, seconds)
            return seconds
        paused = self._throttle.launches.remaining_s > 0
        seconds = await self._throttle.publish_pause(self._queue, policy)
        self._throttle.failures = max(1, self._throttle.failures)
        if not paused:
            log.warning("Pod creation paused for %.1f s (%s: %s)", seconds, policy.reason, policy.message)
        return seconds

    async def end(self, job: Job, request: LaunchRequest) -> None:
        """Let the other launchers go on, if they wait for a creation that succeeds."""
        if job.probe:
            await self._queue.throttle("passed", request.namespace, 1.25, PROBE_S)
        if self._throttle.failures:
            self._throttle.failures = 0
            await self._queue.throttle("recover")
            log.info("API server available again")
