"""Sentinels that require a password and TLS, and what podrelay says at start where the options for them are wrong."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from podrelay.cli.check import run_checks
from podrelay.errors import ConfigError, RedisUnavailable
from podrelay.settings import Settings
from podrelay.store.connection import check, connect, connect_async, unavailable
from tests.harness.certificates import make_certificates
from tests.harness.redis_server import RedisServer, find_server, free_port

MASTER = "mymaster"
USER, PASSWORD = "podrelay", "of-the-sentinels"


class Sentinels:
    """Ports of Sentinels that monitor one master, which has TLS. Each wants a password, `tls` and `strict` want TLS as
    well, and `strict` a client certificate.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.plain, self.tls, self.strict = free_port(), free_port(), free_port()
        port = free_port()
        files = [
            f"tls-ca-cert-file {folder}/ca.crt",
            f"tls-cert-file {folder}/server.crt",
            f"tls-key-file {folder}/server.key",
        ]
        options = [word for line in files for word in f"--{line}".split()]
        stack.enter_context(RedisServer(folder, "--tls-port", str(port), "--tls-auth-clients", "no", *options))
        for name, own, clients in (("plain", self.plain, ""), ("tls", self.tls, "no"), ("strict", self.strict, "yes")):
            listens = [f"port {own}"] if not clients else ["port 0", f"tls-port {own}", f"tls-auth-clients {clients}"]
            conf = folder / f"{name}.conf"
            conf.write_text(
                "\n".join(
                    [
                        *listens,
                        *files,
                        "bind 127.0.0.1",
                        "tls-replication yes",
                        "sentinel resolve-hostnames yes",
                        "sentinel announce-hostnames yes",
                        f"sentinel monitor {MASTER} localhost {port} 1",
                        f"requirepass {PASSWORD}-of-the-default-user",
                        f"user {USER} on >{PASSWORD} -@all +sentinel|masters +client|setname +ping",
                        "",
                    ]
                )  # fmt: skip
            )
            process = subprocess.Popen(
                [find_server(), str(conf), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)

    def settings(self, port: int, **changes: Any) -> Settings:
        """Options that are right for that Sentinel."""
        names = {name: changes.pop(name, value) for name, value in (("ca", "ca.crt"), ("host", "localhost"))}
        certificate = f"&ssl_certfile={self.folder}/client.crt&ssl_keyfile={self.folder}/client.key"
        url = f"rediss://unused:1/0?ssl_ca_certs={self.folder}/{names['ca']}"
        right: dict[str, Any] = {
            "redis_url": url + (certificate if port == self.strict and changes.pop("certificate", True) else ""),
            "fernet_key": "", "redis_timeout_s": 1.0, "redis_sentinels": ((names["host"], port),),
            "redis_sentinel_master": MASTER, "redis_sentinel_username": USER, "redis_sentinel_password": PASSWORD,
            "redis_sentinel_tls": port != self.plain,
        }  # fmt: skip
        return Settings(**{**right, **changes})


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    find_server()
    folder = tmp_path_factory.mktemp("sentinels")
    make_certificates(folder)
    with ExitStack() as stack:
        try:
            found = Sentinels(folder, stack)
        except redis.RedisError:
            pytest.skip(f"{find_server()} was built without TLS")
        for port in (found.plain, found.tls, found.strict):
            until_ready(found.settings(port))
        yield found


def until_ready(settings: Settings) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            connect(settings).ping()
            return
        except RedisError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(unavailable(error, connect(settings))) from error
            time.sleep(0.1)


@pytest.mark.parametrize("name", ["plain", "tls", "strict"])
def test_the_master_is_found(sentinels: Sentinels, name: str) -> None:
    settings = sentinels.settings(getattr(sentinels, name))
    with connect(settings) as client:
        assert check(client) is not None
        client.set("of", "the scheduler")

    async def as_a_worker() -> Any:
        async with connect_async(settings) as client:
            return await client.get("of")

    assert asyncio.run(as_a_worker()) == b"the scheduler"


NOBODY = {"redis_sentinel_username": "", "redis_sentinel_password": ""}
MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    (
        "plain",
        {"redis_sentinel_password": "SECRET"},
        "Sentinel rejects the user or password: check .*_sentinel_password",
    ),
    ("tls", {"redis_sentinel_username": "nobody"}, "Sentinel rejects the user or password: check .*_sentinel_username"),
    ("plain", NOBODY, "Sentinel requires a password: set .podrelay. redis_sentinel_username"),
    (
        "plain",
        {"redis_sentinel_tls": True},
        "redis_sentinels does not use TLS: set .podrelay. redis_sentinel_tls to False",
    ),
    ("tls", {"redis_sentinel_tls": False}, "redis_sentinels uses TLS: set .podrelay. redis_sentinel_tls to True"),
    ("tls", {"ca": "other.crt"}, "certificate of Sentinel is not trusted .*ssl_ca_certs in .* names .*/other.crt"),
    ("tls", {"host": "127.0.0.1"}, "certificate of Sentinel is for another host .* in .podrelay. redis_sentinels"),
    ("strict", {"certificate": False}, "Sentinel requires a client certificate: set ssl_certfile and ssl_keyfile"),
]


@pytest.mark.parametrize(("name", "changes", "says"), MISTAKES, ids=[says[:40] for _, _, says in MISTAKES])
def test_a_mistake_is_named_at_start(sentinels: Sentinels, name: str, changes: dict[str, Any], says: str) -> None:
    settings = sentinels.settings(getattr(sentinels, name), **changes)
    with connect(settings) as client, pytest.raises(ConfigError, match=says) as caught:
        check(client)
    assert "SECRET" not in str(caught.value)
    assert "<redis" not in str(caught.value)


def test_a_password_that_changes_while_podrelay_runs_is_named(sentinels: Sentinels) -> None:
    with connect(sentinels.settings(sentinels.tls, redis_sentinel_password="SECRET")) as client:
        with pytest.raises(RedisError) as caught:
            client.ping()
        found = unavailable(caught.value, client)
    assert str(found) == (
        "Sentinel rejects the user or password: check [podrelay] redis_sentinel_username and redis_sentinel_password."
    )
    assert not found.answered


def test_sentinels_that_are_away_are_waited_for(sentinels: Sentinels) -> None:
    for tls in (True, False):
        settings = sentinels.settings(free_port(), redis_sentinel_tls=tls)
        with connect(settings) as client, pytest.raises(RedisUnavailable, match="No Sentinel of .* answers"):
            check(client)


def test_check_reads_the_options_from_a_command(sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a password in `airflow.cfg` or the environment does, one that a command prints reaches Redis and the Sentinels."""
    settings = sentinels.settings(sentinels.tls)
    (sentinels.folder / "url").write_text(settings.redis_url)
    (sentinels.folder / "password").write_text(PASSWORD)
    monkeypatch.delenv("AIRFLOW__PODRELAY__REDIS_URL", raising=False)
    for name, value in {
        "REDIS_URL_CMD": f"cat {sentinels.folder}/url", "REDIS_SENTINEL_PASSWORD_CMD": f"cat {sentinels.folder}/password",
        "REDIS_SENTINEL_USERNAME": USER, "REDIS_SENTINELS": f"localhost:{sentinels.tls}", "REDIS_SENTINEL_TLS": "True",
        "REDIS_SENTINEL_MASTER": MASTER,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"AIRFLOW__PODRELAY__{name}", value)
    assert [
        item.detail for item in run_checks(None) if item.name in ("[podrelay] options", "Redis") and not item.ok
    ] == []
