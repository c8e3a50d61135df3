"""Clients are configured from redis_url and the Sentinel options; no connection is opened."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from podrelay.errors import ConfigError
from podrelay.settings import Settings
from podrelay.store.connection import connect, connect_async

both = pytest.mark.parametrize("make", [connect, connect_async])


def settings(url: str, **more: Any) -> Settings:
    return Settings(redis_url=url, fernet_key="", **more)


@both
@pytest.mark.parametrize(
    "url", ["redis://:hun/ter2@host/0", "redis://user:hun#ter2@host", "redis://user:hun?ter2@host"]
)
def test_an_error_about_the_address_shows_no_password(make: Callable[[Settings], Any], url: str) -> None:
    with pytest.raises(ConfigError, match="redis_url is invalid") as caught:
        make(settings(url))
    assert "hun" not in "".join(traceback.format_exception(caught.value))
    assert "%2F" in str(caught.value)


@both
def test_tls_and_options_of_the_address_apply_under_sentinel(make: Callable[[Settings], Any]) -> None:
    url = "rediss://user:p%40ss@unused:1/3?ssl_ca_certs=/ca.pem"
    client = make(settings(url, redis_sentinels=(("a", 26379),), redis_sentinel_master="m"))
    pool = client.connection_pool
    assert issubclass(pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
    found = {name: pool.connection_kwargs[name] for name in ("username", "password", "db", "ssl_ca_certs")}
    assert found == {"username": "user", "password": "p@ss", "db": 3, "ssl_ca_certs": "/ca.pem"}


@both
def test_sentinel_alone_does_not_turn_tls_on(make: Callable[[Settings], Any]) -> None:
    client = make(settings("redis://x/0", redis_sentinels=(("a", 26379),), redis_sentinel_master="m"))
    assert not issubclass(client.connection_pool.connection_class, (redis.SSLConnection, redis.asyncio.SSLConnection))
