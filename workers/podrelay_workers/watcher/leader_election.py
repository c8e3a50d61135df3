"""Leader election among the watchers of a cluster: a lease in Redis with a fencing number. Used by the watcher's process.

Nothing depends on noticing a lost lease in time: Redis rejects what a former leader publishes, by its fence.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import text
from podrelay.store import scripts
from podrelay.store.async_scripts import AsyncScripts

# What a log line may hold of a leader's name, which anybody with access to Redis can write.
_LEADER_MAX = 300


@dataclass(frozen=True)
class Term:
    """One leader's term, within one life of Redis' data (`epoch`). `leader` and `fence` accompany all it publishes."""

    leader: str
    fence: str
    epoch: str


class LeaderElection:
    """:raises RedisUnavailable: from every method; the leader is then unknown, and the present term continues."""

    def __init__(self, runner: AsyncScripts, keys: RedisKeys, cluster: str, lease_s: float) -> None:
        self.me = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.leader = ""
        self._epoch = ""
        self._lost_at: float | None = None
        self._runner = runner
        self._keys = keys
        self._cluster = cluster
        self._lease_s = lease_s

    async def claim(self, fields: Mapping[str, str] | None = None) -> Term | None:
        """Acquire or renew leadership, and write `fields` to the watch hash with it; None if another watcher leads."""
        call = scripts.lead(
            self._keys,
            cluster=self._cluster,
            candidate=self.me,
            lease_s=self._lease_s,
            fresh_epoch=secrets.token_hex(16),
            known_epoch="" if self.leader == self.me else self._epoch,
            fields=fields or {},
        )
        leads, fence, leader, epoch = await self._runner.run(call)
        self.leader = text(leader)[:_LEADER_MAX]
        self._observe(text(epoch))
        return Term(self.me, text(fence), self._epoch) if leads else None

    def _observe(self, epoch: str) -> None:
        """Accept a new epoch: at once if a watcher leads in it, else after a lease. The former leader may hold results that
        were lost with the data, so it gets the first chance.
        """
        if epoch == self._epoch:
            self._lost_at = None
        elif not self._epoch or self.leader:
            self._epoch, self._lost_at = epoch, None
        elif self._lost_at is None:
            self._lost_at = time.monotonic()
        elif time.monotonic() - self._lost_at >= self._lease_s:
            self._epoch, self._lost_at = epoch, None

    async def leave(self) -> None:
        """Give up leadership, so that a standby takes over at once."""
        call = scripts.resign(self._keys, cluster=self._cluster, candidate=self.me, fresh_epoch=secrets.token_hex(16))
        await self._runner.run(call)
