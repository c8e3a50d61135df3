"""Which watcher of a cluster leads: a lease in Redis with a fencing number. Used by the watcher.

Nothing depends on noticing in time that the lead is lost: what a former leader publishes is refused by its fence.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

from podrelay.protocol.redis_keys import RedisKeys
from podrelay_workers.runtime.scripts import AsyncScripts


@dataclass(frozen=True)
class Term:
    """One turn of one leader, over one life of Redis' data (`epoch`). `leader` and `fence` go with all it publishes."""

    leader: str
    fence: str
    epoch: str


class LeaderElection:
    """:raises RedisUnavailable: from every method; who leads is then unknown, and a term goes on until told otherwise."""

    def __init__(self, scripts: AsyncScripts, keys: RedisKeys, cluster: str, lease_s: float) -> None:
        self.me = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.leader = ""
        self._epoch = ""
        self._lost_at: float | None = None
        self._scripts = scripts
        self._keys = [keys.watch(cluster), keys.epoch]
        self._lease_s = lease_s

    async def claim(self, fields: Mapping[str, str] | None = None) -> Term | None:
        """Take or keep the lead; None where another has it. `fields` are written into the watch hash with it."""
        known = "" if self.leader == self.me else self._epoch
        said = [part for item in (fields or {}).items() for part in item]
        args = [self.me, f"{self._lease_s:.3f}", secrets.token_hex(16), "", known, *said]
        leads, fence, leader, epoch = await self._scripts.run("lead", self._keys, args)
        self.leader = leader.decode()
        self._learn(epoch.decode())
        return Term(self.me, fence.decode(), self._epoch) if leads else None

    def _learn(self, epoch: str) -> None:
        """Believe in a new epoch: at once where somebody leads in it, else after a lease, so that the former leader, who
        may hold results that went with the data, can come first.
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
        """Let a standby take over at once."""
        await self._scripts.run("lead", self._keys, [self.me, "0", secrets.token_hex(16), "leave", ""])
