"""Publishing the end of a pod whose ledger entry claims to know an end already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet

from podrelay.protocol import identifiers
from podrelay.protocol.encryption import PayloadCipher
from podrelay.protocol.messages import PodReport
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.settings import Settings
from podrelay.store.async_scripts import AsyncScripts
from podrelay.store.connection import connect_async
from podrelay_workers.runtime.report_publisher import Outgoing, ReportPublisher

KEYS = RedisKeys("default")
KEY, OTHER_KEY = Fernet.generate_key().decode(), Fernet.generate_key().decode()
CIPHER = PayloadCipher(KEY, "default")
END = PodReport("l", 1, "failed", "OOMKilled", pod="p")


@pytest.fixture
def client(redis_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def publish(redis_url: str, report: PodReport = END, cipher: PayloadCipher = CIPHER) -> int:
    async def run() -> int:
        connection = connect_async(Settings(redis_url=redis_url, fernet_key=KEY))
        try:
            publisher = ReportPublisher(AsyncScripts(connection), KEYS, cipher, "default", 1000)
            return await publisher.publish(Outgoing(report, f"{time.time():.3f}"))
        finally:
            await connection.aclose()

    return asyncio.run(run())


def sealed(report: PodReport, cipher: PayloadCipher = CIPHER) -> str:
    return cipher.reports.encrypt(report.encode())


WARM, OTHER_WARM = (identifiers.warm_pod_name("p", digit * 32) for digit in "ab")
HIDING: dict[str, tuple[str, str]] = {
    "not encrypted": ("x", "undecryptable"),
    "of another launch": (sealed(PodReport("another", 1, "succeeded")), "foreign"),
    "of another attempt": (sealed(PodReport("l", 0, "failed")), "foreign"),
    "without a pod": (sealed(PodReport("l", 1, "failed", "LauncherCrashed")), "foreign"),
    "no end": (sealed(PodReport("l", 1, "started")), "foreign"),
    "a request": (CIPHER.requests.encrypt(END.encode()), "undecryptable"),
    "of another deployment": (sealed(END, PayloadCipher(KEY, "another")), "undecryptable"),
    "no message": (CIPHER.reports.encrypt(b"{}"), "malformed"),
}


def entry(state: str, result: str, cipher: PayloadCipher = CIPHER) -> Mapping[str, str]:
    return {
        "state": state,
        "attempt": "1",
        "outcome": "succeeded",
        "result": result,
        "result_key": cipher.fingerprints[0],
    }


@pytest.mark.parametrize("state", ["finished", "acknowledged"])
@pytest.mark.parametrize(("result", "kind"), HIDING.values(), ids=HIDING.keys())
def test_an_end_that_is_not_genuine_is_replaced(
    client: Any, redis_url: str, state: str, result: str, kind: str
) -> None:
    client.hset(KEYS.launch("l"), mapping=entry(state, result))
    assert publish(redis_url) == 1
    ((_, published),) = client.xrange(KEYS.results)
    assert PodReport.decode(CIPHER.reports.decrypt(published["result"])) == END
    assert client.hget(KEYS.launch("l"), "result") == published["result"]
    assert client.hget(KEYS.launch("l"), "outcome") == "failed"
    ((_, quarantined),) = client.xrange(KEYS.quarantine)
    assert (quarantined["launch"], quarantined["kind"]) == ("l", kind)
    assert publish(redis_url) == 0, "now it is known"
    assert client.xlen(KEYS.results) == client.xlen(KEYS.quarantine) == 1


@pytest.mark.parametrize("state", ["finished", "acknowledged"])
def test_a_genuine_end_stays(client: Any, redis_url: str, state: str) -> None:
    genuine = sealed(PodReport("l", 1, "succeeded", pod="p"))
    client.hset(KEYS.launch("l"), mapping=entry(state, genuine))
    assert publish(redis_url) == 0
    assert client.hget(KEYS.launch("l"), "result") == genuine
    assert not client.exists(KEYS.results, KEYS.quarantine)


def test_a_report_before_the_end_replaces_no_end(client: Any, redis_url: str) -> None:
    client.hset(KEYS.launch("l"), mapping=entry("finished", "x"))
    assert publish(redis_url, PodReport("l", 1, "started")) == 0
    assert publish(redis_url, PodReport("l", 0, "failed")) == -1, "an earlier attempt"
    assert not client.exists(KEYS.results)


def test_an_end_that_another_key_encrypted_is_no_forgery(client: Any, redis_url: str) -> None:
    """During a rotation: schedulers may not be able to read it, so it is replaced, and nobody is accused."""
    other = PayloadCipher(OTHER_KEY, "default")
    client.hset(KEYS.launch("l"), mapping=entry("finished", sealed(END, other), other))
    assert publish(redis_url) == 1
    assert not client.exists(KEYS.quarantine)


@pytest.mark.parametrize("state", ["finished", "acknowledged"])
@pytest.mark.parametrize(("pod", "known"), [(WARM, OTHER_WARM), (WARM, "p"), ("p", WARM)])
def test_the_end_of_another_pod_of_the_attempt_is_replaced(
    client: Any, redis_url: str, state: str, pod: str, known: str
) -> None:
    """Both are genuine: the launch was given to a second pod, because Redis had lost its last writes."""
    client.hset(KEYS.launch("l"), mapping=entry(state, sealed(PodReport("l", 1, "failed", pod=known))))
    report = PodReport("l", 1, "succeeded", pod=pod)
    assert publish(redis_url, report) == 1
    assert PodReport.decode(CIPHER.reports.decrypt(client.hget(KEYS.launch("l"), "result"))) == report
    assert publish(redis_url, report) == 0
    assert not client.exists(KEYS.quarantine)
