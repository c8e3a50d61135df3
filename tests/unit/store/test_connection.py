"""Clients are configured from redis_url and the Sentinel options; no connection is opened."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError as NotConnected
from redis.sentinel import MasterNotFoundError

from podrelay.errors import ConfigError
from podrelay.settings import Settings
from podrelay.store.connection import connect, connect_async, unavailable
from tests.harness.certificates import KEY_PASSWORD, make_certificates

both = pytest.mark.parametrize("make", [connect, connect_async])
Make = Callable[[Settings], Any]
SENTINELS = {"redis_sentinels": (("a", 26379),), "redis_sentinel_master": "m"}


def settings(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, fernet_key="", **more)


@both
@pytest.mark.parametrize("sentinels", [{}, SENTINELS], ids=["alone", "sentinel"])
def test_tls_and_options_of_the_address_apply(make: Make, sentinels: dict[str, Any], tmp_path: Path) -> None:
    make_certificates(tmp_path)
    ca = str(tmp_path / "ca.crt")
    pool = make(settings(f"rediss://user:p%40ss@unused:1/3?ssl_ca_certs={ca}", **sentinels)).connection_pool
    assert issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    assert {name: pool.connection_kwargs[name] for name in ("db", "ssl_ca_certs")} == {"db": 3, "ssl_ca_certs": ca}
    assert pool.connection_kwargs["credential_provider"].get_credentials() == ("user", "p@ss")
    # redis-py 5 checks no host name unless asked to.
    assert pool.connection_kwargs["ssl_check_hostname"] is True


@both
@pytest.mark.parametrize("sentinels", [{}, SENTINELS], ids=["alone", "sentinel"])
def test_no_print_of_a_client_shows_a_secret(make: Make, sentinels: dict[str, Any], tmp_path: Path) -> None:
    """redis-py 6 and 7 print the options of each connection wherever a client or a pool is printed."""
    make_certificates(tmp_path)
    files = f"ssl_certfile={tmp_path}/client.crt&ssl_keyfile={tmp_path}/client.key"
    login = {**sentinels, "redis_sentinel_username": "u", "redis_sentinel_password": "SECRET"} if sentinels else {}
    clients = [make(settings("redis://user:SECRET@host/0", **login)), make(settings("redis://:SECRET@host/0", **login))]
    if "ssl_password" in inspect.signature(connections_of(make).SSLConnection.__init__).parameters:
        clients.append(make(settings(f"rediss://u:SECRET@host/0?{files}&ssl_password=SECRET", **login)))
    if not sentinels:
        clients.append(make(settings("unix:///r.sock?password=SECRET")))
    for client in clients:
        pools = [client.connection_pool, *(item.connection_pool for item in sentinels_of(client))]
        printed = [client, *pools, *(pool.connection_kwargs for pool in pools)]
        printed += [f"{name}={value}" for pool in pools for name, value in pool.connection_kwargs.items()]
        assert "SECRET" not in "".join(f"{item}{item!r}" for item in printed)


def connections_of(make: Make) -> Any:
    return redis.connection if make is connect else redis.asyncio.connection


def sentinels_of(client: Any) -> list[Any]:
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    return list(manager.sentinels) if manager else []


@both
def test_sentinels_are_contacted_as_configured(make: Make, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    url = f"rediss://user:p@unused:1/3?ssl_ca_certs={tmp_path}/ca.crt"
    (plain,) = sentinels_of(make(settings(url, **SENTINELS)))
    assert not issubclass(plain.connection_pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    assert "credential_provider" not in plain.connection_pool.connection_kwargs
    login = {"redis_sentinel_username": "s", "redis_sentinel_password": "q", "redis_sentinel_tls": True}
    (secured,) = sentinels_of(make(settings(url, **SENTINELS, **login)))
    assert issubclass(secured.connection_pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    options = secured.connection_pool.connection_kwargs
    assert options["credential_provider"].get_credentials() == ("s", "q")
    assert (options["host"], options["port"], options["ssl_ca_certs"]) == ("a", 26379, f"{tmp_path}/ca.crt")
    assert "db" not in options


@both
def test_sentinel_alone_does_not_turn_tls_on(make: Make) -> None:
    client = make(settings("redis://x/0", **SENTINELS))
    assert not issubclass(client.connection_pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))


@both
def test_a_socket_needs_no_sentinels(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"names a Unix socket, and \[podrelay\] redis_sentinels is set"):
        make(settings("unix:///r.sock", **SENTINELS))


@both
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("ssl_ca_certs={0}/nope.pem", r"ssl_ca_certs=.*nope.pem cannot be read \(No such file"),
        ("ssl_ca_certs={0}", "ssl_ca_certs=.* cannot be read"),
        ("ssl_ca_certs={0}/text", "ssl_ca_certs=.*text cannot be used"),
        ("ssl_ca_certs={0}/ca.key", "ssl_ca_certs=.*ca.key cannot be used"),
        ("ssl_ca_path={0}/nope", r"ssl_ca_path=.*nope cannot be read \(No such"),
        ("ssl_ca_path={0}/ca.crt", "ssl_ca_path=.*ca.crt cannot be read"),
        ("ssl_certfile={0}/nope.crt", "ssl_certfile=.*nope.crt cannot be read"),
        ("ssl_certfile={0}/client.crt", "ssl_certfile=.*client.crt cannot be used .*set ssl_keyfile as well"),
        ("ssl_certfile={0}/client.crt&ssl_keyfile={0}/nope.key", "ssl_keyfile=.*nope.key cannot be read"),
        ("ssl_certfile={0}/client.crt&ssl_keyfile={0}/server.key", "cannot be used .*mismatch.* with ssl_keyfile="),
        ("ssl_certfile={0}/client.crt&ssl_keyfile={0}/locked.key", "an encrypted key needs ssl_password"),
        ("ssl_ciphers=NOPE", "ssl_ciphers=NOPE cannot be used"),
    ],
)  # fmt: skip
def test_a_file_that_tls_cannot_use_is_named(make: Make, options: str, says: str, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    (tmp_path / "text").write_text("not a certificate")
    with pytest.raises(ConfigError, match=says):
        make(settings("rediss://host?" + options.format(tmp_path)))


@both
def test_a_key_with_its_password_is_read(make: Make, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    files = f"ssl_certfile={tmp_path}/client.crt&ssl_keyfile={tmp_path}/locked.key"
    url = f"rediss://host?{files}&ssl_password={KEY_PASSWORD.decode()}"
    if "ssl_password" in inspect.signature(connections_of(make).SSLConnection.__init__).parameters:
        make(settings(url))
        return
    with pytest.raises(ConfigError, match="does not know ssl_password: run `pip install -U redis`"):
        make(settings(url))


@pytest.mark.parametrize(
    "error",
    [
        MasterNotFoundError(
            "No master found for 'm' : <redis.client.Redis(<redis.ConnectionPool(password=SECRET)>)> - x"
        ),
        NotConnected("<redis.connection.Connection(host=h,password=SECRET)> is away"),
    ],
)
def test_a_message_quotes_no_client_of_redis_py(error: Exception) -> None:
    text = str(unavailable(error))
    assert "<" not in text
    assert "SECRET" not in text
    assert "[podrelay] redis_" in text
