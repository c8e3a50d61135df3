"""Which Fernet keys each process has: announced in Redis by fingerprint, and compared. Used by every process, status, check.

Processes with other keys cannot read each other's messages. Without this comparison, that looks like a forgery.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Any

from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, rows, text
from podrelay.store.bounded_reads import fitting
from podrelay.store.script_table import ScriptCall

# A process announces its keys this often; an announcement is obsolete after several of these.
ANNOUNCE_S, OBSOLETE_S = 5.0, 30.0
# So many processes are compared with each other, and so many sentences returned: anybody may have announced some.
_COMPARED_MOST, _SENTENCES_MOST = 300, 100
REMEDY = (
    "Give all schedulers, launchers and watchers the same keys, in [podrelay] fernet_key or [core] fernet_key, and restart "
    "those that differ."
)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one process, by fingerprint; it encrypts with the first. `process` begins with its role."""

    process: str
    fingerprints: tuple[str, ...]

    @property
    def reads(self) -> bool:
        """Watchers only encrypt."""
        return not self.process.startswith("watcher ")


def key_ring(process: str, cipher: PayloadCipher) -> KeyRing:
    return KeyRing(process, cipher.fingerprints)


def announce(keys: RedisKeys, ring: KeyRing) -> ScriptCall:
    """Announce a process' keys and read those of all. `read_rings` reads the reply."""
    return ScriptCall("announce", [keys.key_rings], [ring.process, ",".join(ring.fingerprints), OBSOLETE_S])


def announced(client: Any, keys: RedisKeys) -> list[KeyRing]:
    """The key rings of the processes that run, for a command that announces none and may not write."""
    seconds, _ = client.time()
    if not fitting(client, {keys.key_rings: "hlen"}).get(keys.key_rings):
        return []
    return rings_of({text(name): text(value) for name, value in client.hgetall(keys.key_rings).items()}, seconds)


def rings_of(announcements: Mapping[str, str], now_s: float) -> list[KeyRing]:
    """Pure: the key rings in the fields of `key_rings`, without obsolete ones. `now_s` is Redis' clock."""
    found = []
    for process, announcement in announcements.items():
        fingerprints, _, at_s = announcement.partition(" ")
        if number_of(at_s) > now_s - OBSOLETE_S:
            found += [process, fingerprints]
    return read_rings(found)


def read_rings(reply: Sequence[Any]) -> list[KeyRing]:
    """The key rings in a reply to `announce`. Anybody with access to Redis may have written them."""
    return [KeyRing(text(process)[:200], tuple(text(prints)[:1000].split(","))) for process, prints in rows(reply, 2)]


def mismatches(rings: Sequence[KeyRing], own: KeyRing | None = None) -> list[str]:
    """Pure: one sentence for each process that cannot read what another encrypts; of very many, the first.

    :param own: only what concerns this one; it need not be among `rings`.
    """
    others = [ring for ring in rings if own is None or ring.process != own.process]
    if own is None:
        return list(islice(_sentences(permutations(others[:_COMPARED_MOST], 2)), _SENTENCES_MOST))
    return list(_sentences(pair for other in others for pair in ((own, other), (other, own))))


def _sentences(pairs: Iterable[tuple[KeyRing, KeyRing]]) -> Iterator[str]:
    """:param pairs: each of a writer and a reader."""
    return (
        f"{reader.process} does not have the key {writer.fingerprints[0]}, with which {writer.process} encrypts"
        for writer, reader in pairs
        if reader.reads and writer.fingerprints[0] not in reader.fingerprints and _exchange(writer, reader)
    )


def _exchange(writer: KeyRing, reader: KeyRing) -> bool:
    """Does this reader get messages of this writer? Schedulers read no schedulers, launchers no watchers."""
    roles = {ring.process.partition(" ")[0] for ring in (writer, reader)}
    return roles != {"scheduler"} and roles != {"launcher", "watcher"}
