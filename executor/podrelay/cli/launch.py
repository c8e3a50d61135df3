"""What Redis knows of one launch: its ledger entry, the reports about it, and what it waits for.

Used by `airflow podrelay status --launch` and `--task`. `launch_text` renders it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import redis

from podrelay.errors import ConfigError, DecryptionError, MessageError
from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.encryption import Channel, PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.protocol.redis_values import number_of, text
from podrelay.settings import Settings
from podrelay.store.bounded_reads import fitting, read_short
from podrelay.store.connection import unless_of_another_type
from podrelay.store.overview import read_overview

# The entries of the results stream that are looked through, how many at once, and after how many bytes no more.
_ENTRIES_MOST, _ENTRIES_AT_ONCE, _BYTES_MOST = 5000, 500, 32 << 20
# By so much clocks of schedulers and of Redis may differ.
_CLOCK_S = 60.0
# A field of a ledger entry is shown to this length.
_FIELD_MAX = 4000


@dataclass(frozen=True)
class KnownLaunch:
    """One launch. entry: its ledger entry without the encrypted report; empty if the ledger does not hold it. reports: what
    Redis still holds about it, the oldest first. unreadable: why reports cannot be read; empty if they can. waits_for: what
    it waits for now; empty if it does not wait. asked_attempt: the one that was asked for by name of a pod or job.
    """

    launch_id: str
    entry: dict[str, str]
    reports: tuple[PodReport, ...] = ()
    unreadable: str = ""
    waits_for: str = ""
    asked_attempt: int | None = None

    @property
    def log_report(self) -> PodReport | None:
        """The latest report with the last lines of a log."""
        return next((report for report in reversed(self.reports) if report.log_tail), None)


def read_launch(
    client: redis.Redis, keys: RedisKeys, settings: Settings, name: str, now_s: float
) -> KnownLaunch | None:
    """The launch of this id, RQ job id or pod name; None if Redis holds nothing about it. The launch of a warm pod is found
    for as long as the results stream holds a report about it.

    :raises RedisError: Redis does not answer, or refuses.
    """
    launch_id, attempt = identifiers.launch_named(name)
    if identifiers.warm_id_of_pod(launch_id):
        launch_id = _launch_of_warm_pod(client, keys, launch_id)
    key = keys.launch(launch_id)
    found = client.hgetall(key) if fitting(client, {key: "hlen"}).get(key) else {}
    entry = {text(field): text(value) for field, value in found.items()}
    sealed = [*_sealed_reports(client, keys, launch_id, entry)]
    result = entry.pop("result", "")
    entry.pop("warm_record", None)  # encrypted, for launchers
    if result and result not in sealed:
        sealed.append(result)
    if not entry and not sealed:
        return None
    reports, unreadable = _open(sealed, settings, launch_id)
    entry = {field[:200]: value[:_FIELD_MAX] for field, value in entry.items()}
    waits_for = _waits_for(client, keys, launch_id, entry, reports, now_s)
    return KnownLaunch(launch_id, entry, reports, unreadable, waits_for, attempt)


# --- reports ------------------------------------------------------------------------------------------------------
def _sealed_reports(client: redis.Redis, keys: RedisKeys, launch_id: str, entry: dict[str, str]) -> list[str]:
    """The encrypted reports about this launch in the results stream, the oldest first, as far as its latest entries go."""
    first_ms = max(0, int((number_of(entry.get("t_offered")) - _CLOCK_S) * 1000.0))
    found = []
    for entries in _latest_entries(client, keys, first_ms):
        found += [text(item.get(b"result")) for item in entries if text(item.get(b"launch")) == launch_id]
    return found[::-1]


def _launch_of_warm_pod(client: redis.Redis, keys: RedisKeys, pod: str) -> str:
    """The launch to which, by the ledger, this warm pod was given; the name of the pod if none is found."""
    for entries in _latest_entries(client, keys, 0):
        ids = [*dict.fromkeys(filter(identifiers.is_launch_id, (text(item.get(b"launch")) for item in entries)))]
        ledger = read_short(client, [keys.launch(launch_id) for launch_id in ids], ("pod", "warm_pod"))
        for launch_id, entry in zip(ids, ledger, strict=True):
            if pod in entry.values():
                return launch_id
    return pod


def _latest_entries(client: redis.Redis, keys: RedisKeys, first_ms: int) -> Iterator[Sequence[Mapping[bytes, bytes]]]:
    """The latest entries of the results stream, since this time, in batches, the newest first."""
    before, read, size = "+", 0, 0
    while read < _ENTRIES_MOST and size < _BYTES_MOST:
        (entries,) = unless_of_another_type(
            client.pipeline(transaction=False)
            .xrevrange(keys.results, before, str(first_ms), count=_ENTRIES_AT_ONCE)
            .execute(raise_on_error=False),
            [],
        )
        yield [fields for _, fields in entries]
        size += sum(len(value) for _, fields in entries for value in fields.values())
        read += len(entries)
        if len(entries) < _ENTRIES_AT_ONCE:
            break
        before = "(" + text(entries[-1][0])


def _open(sealed: list[str], settings: Settings, launch_id: str) -> tuple[tuple[PodReport, ...], str]:
    """The reports that can be read, and why others cannot."""
    try:
        channel = PayloadCipher(settings.fernet_key, settings.deployment).reports
    except ConfigError:
        return (), "no Fernet key is configured here ([podrelay] fernet_key, or [core] fernet_key)" if sealed else ""
    reports, why = [], ""
    for item in sealed:
        try:
            report = _decoded(channel, item)
        except DecryptionError:
            why = "they are encrypted with another Fernet key than [podrelay] fernet_key, or [core] fernet_key, here"
        except MessageError as error:
            why = str(error)
        else:
            if report.launch_id == launch_id:  # the field of the entry beside it can be forged
                reports.append(report)
    return tuple(reports), why


def _decoded(channel: Channel, sealed: str) -> PodReport:
    return PodReport.decode(channel.decrypt(sealed))


# --- waits --------------------------------------------------------------------------------------------------------
def _waits_for(
    client: redis.Redis,
    keys: RedisKeys,
    launch_id: str,
    entry: dict[str, str],
    reports: tuple[PodReport, ...],
    now_s: float,
) -> str:
    state = entry.get("state")
    if state in ("offered", "waiting"):
        return "; ".join(_before_pod(client, keys, launch_id, entry, now_s))
    if state == "created":
        last = reports[-1] if reports else None
        if last is not None and last.outcome == "pending":
            return f"{last.reason}: {last.message}"
        return "the start of its pod"
    return "a launcher is creating its pod" if state == "claimed" else ""


def _before_pod(
    client: redis.Redis, keys: RedisKeys, launch_id: str, entry: dict[str, str], now_s: float
) -> Iterator[str]:
    overview = read_overview(client, keys, entry.get("cluster") or identifiers.DEFAULT_CLUSTER, now_s)
    if entry.get("state") == "waiting":
        yield f"{entry.get('reason', '')}: {entry.get('message', '')}"
    yield from _place(client, keys, entry.get("queue", ""), entry.get("owner", ""), _job_of(launch_id, entry), now_s)
    if overview["obstacle"]:
        yield overview["obstacle"]


def _job_of(launch_id: str, entry: dict[str, str]) -> str:
    return identifiers.job_id(launch_id, int(number_of(entry.get("attempt"))))


def _place(client: redis.Redis, keys: RedisKeys, queue: str, owner: str, job: str, now_s: float) -> Iterator[str]:
    """Where the job stands in its queue, or when it is tried again."""
    if not queue.startswith(keys.queue_prefix):  # the field is anybody's
        return
    fair_queue = queue + redis_keys.fair_queue_mark(owner)
    pipeline = client.pipeline(transaction=False)
    pipeline.zscore(redis_keys.rq_scheduled(queue), job)
    pipeline.lpos(redis_keys.rq_queue(queue), job)
    pipeline.lpos(redis_keys.rq_queue(fair_queue), job)
    due_s, place, fair_place = unless_of_another_type(pipeline.execute(raise_on_error=False), None)
    if due_s is not None:
        yield f"the next try is due in {max(0.0, due_s - now_s):.0f} s"
    for found, name in ((place, queue), (fair_place, fair_queue)):
        if found is not None:
            yield f"launches ahead in queue {name}: {found}"
