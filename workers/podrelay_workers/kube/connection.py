"""HTTP requests to one API server: connections, renewed credentials, errors. Used by `client`.

Nothing is retried, except once after a 401 or an untrusted certificate, with credentials that were loaded again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp

from podrelay import __version__
from podrelay.errors import ConfigError
from podrelay.protocol.json_text import encoded, parsed
from podrelay.protocol.messages import Json
from podrelay_workers.kube.client_headers import Headers
from podrelay_workers.kube.connection_pool import ConnectionPool, Limits, ReadTimeout, encode_headers
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.encoding import decode_answer
from podrelay_workers.kube.errors import MESSAGE_MAX, Silent, Unreachable, error_of
from podrelay_workers.kube.http_answer import Answer
from podrelay_workers.kube.send_guard import guarded_body

log = logging.getLogger(__name__)

# Rejected credentials are loaded again at most this often: an exec plugin may be a costly login.
RELOAD_PAUSE_S = 5.0
# Those that expire soon are in use still, so their renewal has time.
RENEW_PAUSE_S = 30.0
# A rejected request waits so long for new credentials, which are loaded beside it and may take any time.
RELOAD_WAIT_S = 5.0
# Each warning of the server is logged once, and at most this many warnings.
_WARNINGS_MAX = 100
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
_CAUSE_MAX = 300
_EXPIRING = "Credentials expire soon"
# Sets of request headers whose encoded form is kept: one for each kind of request, and new ones with each token.
_ENCODED_MAX = 64

_Sent = TypeVar("_Sent", Answer, aiohttp.ClientResponse)


class _Access(NamedTuple):
    """Credentials, and the connections that are opened with them: for answers of any length, and for short ones.

    pool: None where a proxy is in between, which only aiohttp can use.
    """

    credentials: Credentials
    session: aiohttp.ClientSession
    pool: ConnectionPool | None

    @classmethod
    def with_credentials(cls, credentials: Credentials, limit: int) -> _Access:
        """:raises ConfigError: a certificate or key cannot be read."""
        session = credentials.session(limit)
        if credentials.proxy or urlsplit(credentials.host).username:
            return cls(credentials, session, None)
        tls = credentials.tls if isinstance(credentials.tls, ssl.SSLContext) else None
        name = credentials.request_options().get("server_hostname")
        pool = ConnectionPool(
            credentials.host, tls, limit=limit, server_name=name, socket_options=credentials.keepalive
        )
        return cls(credentials, session, pool)

    async def close(self) -> None:
        await self.session.close()
        if self.pool is not None:
            await self.pool.close()


class ApiConnection:
    """A pool of connections to one API server, with credentials that renew themselves. Create and close it in the loop."""

    def __init__(self, credentials: Credentials, limit: int, role: str) -> None:
        """:param limit: connections at once; further requests wait for one.
        :param role: part of the User-Agent, which the API server's audit log records.
        """
        self._access = _Access.with_credentials(credentials, limit)
        self._user_agent = f"podrelay-{role}/{__version__} ({socket.gethostname()}, {os.getpid()})"
        self._limit = limit
        self._retired: _Access | None = None
        self._reload: asyncio.Task[None] | None = None
        self._trouble = ""
        self._reloaded_at_s: float | None = None
        self._warnings: set[str] = set()
        # By the identity of a list of headers, which stays the same while nothing in it changes.
        self._encoded: dict[int, tuple[Headers, bytes]] = {}

    @property
    def trouble(self) -> str:
        """What is wrong with the credentials; empty if the server accepts them."""
        return self._trouble or self._access.credentials.authorization.trouble

    async def close(self) -> None:
        if self._reload is not None:
            self._reload.cancel()
            await asyncio.wait({self._reload})
        await self._access.credentials.authorization.close()
        for access in filter(None, (self._access, self._retired)):
            await access.close()

    def timeout(self, read_s: float | None = None) -> aiohttp.ClientTimeout:
        """The configured timeouts of one request. `read_s` bounds the silence within it where nothing is configured."""
        credentials = self._access.credentials
        return aiohttp.ClientTimeout(
            credentials.request_s, sock_connect=credentials.connect_s, sock_read=credentials.read_s or read_s
        )

    def stream_timeout(self, silence_s: float) -> aiohttp.ClientTimeout:
        """For a request without a time limit, which fails after `silence_s` without a byte."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._access.credentials.connect_s, sock_read=silence_s)

    async def request_object(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json | list[Json] | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
    ) -> Json:
        """Send one request whose answer is a single object, and decode it.

        :raises ApiError: the request failed; `Unreachable` leaves open whether it had an effect.
        """
        data = None if body is None else encoded(body)
        headers = {"Accept": accept} if data is None else {"Accept": accept, "Content-Type": content_type}
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            answer = await self._send(lambda access: self._exchange(access, method, target, headers, data))
        except (ReadTimeout, aiohttp.SocketTimeoutError) as error:
            raise Silent(f"no data from the API server for {self._access.credentials.read_s:g} s") from error
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"cannot reach the API server: {_cause(error)}") from error
        if answer.status >= 300:
            raise error_of(answer.status, answer.reason, answer.headers, answer.body)
        self._log_warnings(method, answer.values_of(b"warning"))
        return decode_answer(answer.body, parsed)

    async def request_list(
        self,
        path: str,
        *,
        query: dict[str, str],
        decoder: Callable[[bytes], Any],
        timeout: aiohttp.ClientTimeout,
    ) -> Json:
        """Read a document of any length.

        :raises ApiError: the request failed.
        """
        async with self.request("GET", path, query=query, timeout=timeout) as answer:
            text = await answer.read()
        return decode_answer(text, decoder)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str],
        accept: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
        head_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request without a body, and return the answer, to be read piece by piece, if it succeeded.

        :param head_s: the answer must begin within this time, however long its body may be silent.
        :raises ApiError: the request failed, or reading the answer in the block failed.
        """
        timeout = timeout or self.timeout()
        target = f"{path}?{urlencode({key: value for key, value in query.items() if value})}"
        try:
            sending = self._send(lambda access: self._open(access, method, target, {"Accept": accept}, None, timeout))
            async with await (asyncio.wait_for(sending, head_s) if head_s else sending) as answer:
                if answer.status >= 300:
                    body = await answer.read()
                    raise error_of(answer.status, answer.reason or "", answer.headers, body)
                self._log_warnings(method, answer.headers.getall("Warning", ()))
                yield answer
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"no data from the API server for {timeout.sock_read:g} s") from error
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"cannot reach the API server: {_cause(error)}") from error

    async def _exchange(
        self, access: _Access, method: str, target: str, headers: dict[str, str], data: bytes | None
    ) -> Answer:
        """Send one request and read the whole answer."""
        if access.pool is None:
            async with await self._open(access, method, target, headers, data, self.timeout()) as answer:
                return Answer(answer.status, answer.reason or "", list(answer.raw_headers), await answer.read())
        credentials = access.credentials
        lines = self._lines(await credentials.all_headers(self._user_agent, headers))
        limits = Limits(credentials.request_s, credentials.connect_s, credentials.read_s)
        return await access.pool.request(method, target, lines, data, limits)

    def _lines(self, headers: Headers) -> bytes:
        """The encoded headers."""
        known = self._encoded.get(id(headers))
        if known is None:
            if len(self._encoded) >= _ENCODED_MAX:
                self._encoded.clear()
            known = self._encoded[id(headers)] = headers, encode_headers(headers)
        return known[1]

    async def _open(
        self,
        access: _Access,
        method: str,
        target: str,
        headers: dict[str, str],
        data: bytes | None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send one request with aiohttp."""
        from yarl import URL

        credentials = access.credentials
        sent = await credentials.all_headers(self._user_agent, headers)
        # A redirect leads to a page for people and would turn a POST into a GET.
        return await access.session.request(
            method, URL(credentials.host + target, encoded=True), headers=sent, timeout=timeout, allow_redirects=False,
            data=None if data is None else guarded_body(data), **credentials.request_options(),
        )  # fmt: skip

    def _log_warnings(self, method: str, lines: Iterable[str]) -> None:
        """Log the warnings in an answer (RFC 9111, code 299): deprecations, policies that only warn."""
        for line in lines:
            found = _WARNING.match(line)
            if found and found[1] not in self._warnings and len(self._warnings) < _WARNINGS_MAX:
                self._warnings.add(found[1])
                text = re.sub(r"\\(.)", r"\1", found[1])[:MESSAGE_MAX]
                log.warning("Warning from the API server (%s): %s", method, text)

    # --- credentials --------------------------------------------------------------------------------------------------
    async def _send(self, send: Callable[[_Access], Awaitable[_Sent]]) -> _Sent:
        """Send a request; send it again after a 401 or an untrusted certificate, if newer credentials could be loaded."""
        credentials = self._access.credentials
        if time.monotonic() >= credentials.renew_at_s:
            self._begin_reload(credentials, _EXPIRING, RENEW_PAUSE_S)
        try:
            answer = await send(self._access)
        except ssl.SSLCertVerificationError:  # the server's authority may have been replaced
            if not await self._reload_credentials(credentials, for_trust=True):
                raise
        else:
            if answer.status != 401:
                self._accepted(credentials)
                return answer
            if not await self._reload_credentials(credentials):
                self._trouble = self._trouble or "the API server rejects the credentials (401)"
                return answer
            if isinstance(answer, aiohttp.ClientResponse):
                answer.release()
        answer = await send(self._access)
        if answer.status == 401:
            self._trouble = self._trouble or "the API server rejects the credentials (401), also after a reload"
        else:
            self._accepted(self._access.credentials)
        return answer

    def _accepted(self, credentials: Credentials) -> None:
        if self._trouble and credentials is self._access.credentials and self._reload is None:
            log.info("The API server accepts the credentials again")
            self._trouble = ""

    async def _reload_credentials(self, rejected: Credentials, for_trust: bool = False) -> bool:
        """True if there are newer credentials than the rejected ones. Concurrent requests load them once.

        :param for_trust: only a different certificate authority would help.
        """
        if self._access.credentials is not rejected:
            return True
        reason = "Server certificate untrusted" if for_trust else "Credentials rejected"
        self._begin_reload(rejected, reason, RELOAD_PAUSE_S, for_trust)
        if self._reload is None:
            return False
        await asyncio.wait({self._reload}, timeout=RELOAD_WAIT_S)
        return self._access.credentials is not rejected

    def _begin_reload(self, old: Credentials, reason: str, pause_s: float, for_trust: bool = False) -> None:
        """Unless one is in progress, or began less than `pause_s` ago."""
        now_s = time.monotonic()
        if self._reload is None and (self._reloaded_at_s is None or now_s - self._reloaded_at_s >= pause_s):
            self._reloaded_at_s = now_s
            self._reload = asyncio.create_task(self._load_again(old, reason, for_trust), name="load the credentials")

    async def _load_again(self, old: Credentials, reason: str, for_trust: bool) -> None:
        """Replace the old credentials, however long it takes to load others; requests go on with the old ones."""

        def report(trouble: str) -> None:
            if self._trouble or reason != _EXPIRING:  # else they are accepted still
                self._trouble = trouble[:_CAUSE_MAX]

        try:
            credentials = await load_credentials(old.team, report)
            if for_trust and credentials.authority == old.authority:
                return
            access = _Access.with_credentials(credentials, self._limit)
        except ConfigError as error:
            log.warning("Cannot reload the credentials for the API server: %s", error)
            report(f"cannot reload the credentials: {error}")
            return
        finally:
            self._reload = None
        log.info("%s; credentials reloaded", reason)
        retired, self._retired = self._retired, self._access
        self._access, self._trouble = access, ""
        await old.authorization.close()
        if retired is not None:  # from two reloads ago: a request that still uses it connects again
            await retired.close()


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_CAUSE_MAX] if str(error) else type(error).__name__
