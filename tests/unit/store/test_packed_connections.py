"""The asyncio client sends the same bytes as redis-py's own connections."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio.connection
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import DataError

from podrelay.settings import Settings
from podrelay.store import packed_connections
from podrelay.store.connection import connect_async

ARGUMENTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers() | st.floats(), max_size=8
)


@given(arguments=ARGUMENTS, name=st.sampled_from(["EVALSHA", "SCRIPT LOAD", "CLIENT SETNAME"]))
def test_the_same_bytes(arguments: list[Any], name: str) -> None:
    ours, theirs = packed_connections.Connection(), redis.asyncio.connection.Connection()
    assert b"".join(ours.pack_command(name, *arguments)) == b"".join(theirs.pack_command(name, *arguments))


@pytest.mark.parametrize("argument", [None, {}, [1]])
def test_what_redis_cannot_take_is_refused_alike(argument: Any) -> None:
    for connection in (packed_connections.Connection(), redis.asyncio.connection.Connection()):
        with pytest.raises(DataError):
            connection.pack_command("SET", "key", argument)


@pytest.mark.parametrize("url", ["redis://localhost", "rediss://localhost", "unix:///tmp/redis.sock"])
def test_workers_use_them(url: str) -> None:
    client = connect_async(Settings(url, Fernet.generate_key().decode()))
    assert client.connection_pool.connection_class.__module__ == packed_connections.__name__
