"""HTTP requests to one API server: connections, renewed credentials, errors. Used by `client`.

Nothing is retried, except once after a 401 or an untrusted certificate, with credentials that were loaded again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from podrelay import __version__
from podrelay.errors import ConfigError
from podrelay.protocol.messages import Json
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.encoding import decode_answer, encode
from podrelay_workers.kube.errors import MESSAGE_MAX, Silent, Unreachable, error_of
from podrelay_workers.kube.send_guard import GuardedBody, guarded_body

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


class ApiConnection:
    """A pool of connections to one API server, with credentials that renew themselves. Create and close it in the loop."""

    def __init__(self, credentials: Credentials, limit: int, role: str) -> None:
        """:param limit: connections at once; further requests wait for one.
        :param role: part of the User-Agent, which the API server's audit log records.
        """
        self._credentials = credentials
        self._user_agent = f"podrelay-{role}/{__version__} ({socket.gethostname()}, {os.getpid()})"
        self._limit = limit
        self._session = credentials.session(limit)
        self._retired: aiohttp.ClientSession | None = None
        self._reload: asyncio.Task[None] | None = None
        self._trouble = ""
        self._reloaded_at_s: float | None = None
        self._warnings: set[str] = set()

    @property
    def trouble(self) -> str:
        """What is wrong with the credentials; empty if the server accepts them."""
        return self._trouble or self._credentials.authorization.trouble

    async def close(self) -> None:
        if self._reload is not None:
            self._reload.cancel()
            await asyncio.wait({self._reload})
        await self._credentials.authorization.close()
        for session in filter(None, (self._session, self._retired)):
            await session.close()

    def timeout(self, read_s: float | None = None) -> aiohttp.ClientTimeout:
        """The configured timeouts of one request. `read_s` bounds the silence within it where nothing is configured."""
        credentials = self._credentials
        return aiohttp.ClientTimeout(
            credentials.request_s, sock_connect=credentials.connect_s, sock_read=credentials.read_s or read_s
        )

    def stream_timeout(self, silence_s: float) -> aiohttp.ClientTimeout:
        """For a request without a time limit, which fails after `silence_s` without a byte."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self._credentials.connect_s, sock_read=silence_s)

    async def request_json(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json | list[Json] | None = None,
        content_type: str = "application/json",
        decoder: Callable[[bytes], Any] = json.loads,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Json:
        """Send one request and decode its answer.

        :raises ApiError: the request failed; `Unreachable` leaves open whether it had an effect.
        """
        data = None if body is None else guarded_body(encode(body))
        async with self.request(
            method, path, query=query, data=data, content_type=content_type, timeout=timeout
        ) as answer:
            text = await answer.read()
        return decode_answer(text, decoder)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        data: bytes | GuardedBody | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
        head_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request, and return the answer if it succeeded.

        :param head_s: the answer must begin within this time, however long its body may be silent.
        :raises ApiError: the request failed, or reading the answer in the block failed.
        """
        timeout = timeout or self.timeout()
        headers = {"Accept": accept}
        if data is not None:
            headers["Content-Type"] = content_type
        params = {key: value for key, value in (query or {}).items() if value}
        try:
            sending = self._send(method, path, params=params, data=data, headers=headers, timeout=timeout)
            async with await (asyncio.wait_for(sending, head_s) if head_s else sending) as answer:
                if answer.status >= 300:
                    body = await answer.read()
                    raise error_of(answer.status, answer.reason or "", answer.headers, body)
                self._log_warnings(method, answer)
                yield answer
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"no data from the API server for {timeout.sock_read:g} s") from error
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"cannot reach the API server: {_cause(error)}") from error

    def _log_warnings(self, method: str, answer: aiohttp.ClientResponse) -> None:
        """Log the warnings in an answer (RFC 9111, code 299): deprecations, policies that only warn."""
        for line in answer.headers.getall("Warning", ()):
            found = _WARNING.match(line)
            if found and found[1] not in self._warnings and len(self._warnings) < _WARNINGS_MAX:
                self._warnings.add(found[1])
                text = re.sub(r"\\(.)", r"\1", found[1])[:MESSAGE_MAX]
                log.warning("Warning from the API server (%s): %s", method, text)

    # --- credentials --------------------------------------------------------------------------------------------------
    async def _send(self, method: str, path: str, *, headers: dict[str, str], **request: Any) -> aiohttp.ClientResponse:
        """Send it; send it again after a 401 or an untrusted certificate, if newer credentials could be loaded."""
        credentials, session = self._credentials, self._session
        if time.monotonic() >= credentials.renew_at_s:
            self._begin_reload(credentials, _EXPIRING, RENEW_PAUSE_S)
        try:
            answer = await self._send_as(credentials, session, method, path, headers, request)
        except aiohttp.ClientConnectorCertificateError:  # the server's authority may have been replaced
            if not await self._reload_credentials(credentials, for_trust=True):
                raise
        else:
            if answer.status != 401:
                self._accepted(credentials)
                return answer
            if not await self._reload_credentials(credentials):
                self._trouble = self._trouble or "the API server rejects the credentials (401)"
                return answer
            answer.release()
        answer = await self._send_as(self._credentials, self._session, method, path, headers, request)
        if answer.status == 401:
            self._trouble = self._trouble or "the API server rejects the credentials (401), also after a reload"
        else:
            self._accepted(self._credentials)
        return answer

    def _accepted(self, credentials: Credentials) -> None:
        if self._trouble and credentials is self._credentials and self._reload is None:
            log.info("The API server accepts the credentials again")
            self._trouble = ""

    async def _send_as(
        self,
        credentials: Credentials,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        headers: dict[str, str],
        request: dict[str, Any],
    ) -> aiohttp.ClientResponse:
        from yarl import URL

        sent = await credentials.all_headers(self._user_agent, headers)
        url = URL(credentials.host + path, encoded=True)
        # A redirect leads to a page for people and would turn a POST into a GET.
        request |= {"allow_redirects": False, **credentials.request_options()}
        return await session.request(method, url, headers=sent, **request)

    async def _reload_credentials(self, rejected: Credentials, for_trust: bool = False) -> bool:
        """True if there are newer credentials than the rejected ones. Concurrent requests load them once.

        :param for_trust: only a different certificate authority would help.
        """
        if self._credentials is not rejected:
            return True
        reason = "Server certificate untrusted" if for_trust else "Credentials rejected"
        self._begin_reload(rejected, reason, RELOAD_PAUSE_S, for_trust)
        if self._reload is None:
            return False
        await asyncio.wait({self._reload}, timeout=RELOAD_WAIT_S)
        return self._credentials is not rejected

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
            session = credentials.session(self._limit)
        except ConfigError as error:
            log.warning("Cannot reload the credentials for the API server: %s", error)
            report(f"cannot reload the credentials: {error}")
            return
        finally:
            self._reload = None
        log.info("%s; credentials reloaded", reason)
        retired, self._retired = self._retired, self._session
        self._credentials, self._session, self._trouble = credentials, session, ""
        await old.authorization.close()
        if retired is not None:  # from two reloads ago: a request that still uses it connects again
            await retired.close()


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:_CAUSE_MAX] if str(error) else type(error).__name__
