"""redis-py's asyncio connections, which pack commands in C as its blocking ones do. Used by `connection`.

In Python, packing a report's command takes as long as encrypting the report. The names are those of redis-py's module.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio.connection
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer

__all__ = ["AbstractConnection", "Connection", "SSLConnection", "UnixDomainSocketConnection"]

_SERIALIZER = HiredisRespSerializer()


class _Packs:
    def pack_command(self, *args: Any) -> list[bytes]:
        """The command as it is sent: the same bytes as redis-py's own.

        :raises DataError: an argument is neither text, bytes nor a number.
        """
        packed: list[bytes] = _SERIALIZER.pack(*args)
        return packed


class Connection(_Packs, redis.asyncio.connection.Connection):
    pass


class SSLConnection(_Packs, redis.asyncio.connection.SSLConnection):
    pass


class UnixDomainSocketConnection(_Packs, redis.asyncio.connection.UnixDomainSocketConnection):
    pass
