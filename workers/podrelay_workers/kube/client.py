"""The pods part of the Kubernetes API: one HTTP request per function, raw JSON in and out.

The only worker module that talks to the API server. It raises the errors of `api_errors` and retries nothing, except
once after a 401, with credentials read again. Used by the launcher and the watcher.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from podrelay import __version__
from podrelay.errors import ConfigError
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.errors import (
    MESSAGE_MAX,
    Conflict,
    Refused,
    Silent,
    Unauthorized,
    Unreachable,
    error_of,
)
from podrelay_workers.kube.pod_decoder import decode_event, decode_list
from podrelay_workers.kube.send_guard import GuardedBody, body_of

log = logging.getLogger(__name__)

Json = dict[str, Any]

# The API server begins to answer a list or a watch at once; who has not heard from it after this time asks again. A
# request that hangs must not outlive an outage.
ANSWER_S = 20.0
# Credentials that are refused are read again at most this often: an exec plugin may be a costly login.
RELOAD_PAUSE_S = 5.0
# Each warning of the server is told once, and no more than so many of them.
_WARNED_MAX = 100
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Page:
    """A part of a list. `version` is the whole list's; `continuation` is empty on the last page."""

    items: list[Json]
    version: str
    continuation: str = ""


class PodClient:
    """Connections to one API server, with credentials that renew themselves. Make and close it inside the loop.

    Every function raises an ApiError of `api_errors`; `Unreachable` leaves open whether the request had an effect.
    """

    def __init__(self, access: Credentials, limit: int = 100, role: str = "client") -> None:
        """:param limit: connections at once; further requests wait for one.
        :param role: who asks, for the API server's audit log: launcher or watcher.
        """
        self._access = access
        self._agent = f"podrelay-{role}/{__version__} ({socket.gethostname()}, {os.getpid()})"
        self._limit = limit
        self._session = access.session(limit)
        self._retired: aiohttp.ClientSession | None = None
        self._reload = asyncio.Lock()
        self._reloaded_at: float | None = None
        self._warned: set[str] = set()

    @classmethod
    async def connect(cls, team: str | None = None, limit: int = 100, role: str = "client") -> PodClient:
        """Read `[kubernetes_executor]`; opens no connection yet.

        :raises ConfigError: names the option to change.
        """
        return cls(await load_credentials(team), limit, role)

    async def close(self) -> None:
        for session in filter(None, (self._session, self._retired)):
            await session.close()

    async def __aenter__(self) -> PodClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- pods -----------------------------------------------------------------------------------------------------

    async def create_pod(self, namespace: str, pod: Json) -> Json:
        return await self._json("POST", _pods(namespace), body=pod, decode=_decoded)

    async def get_pod(self, namespace: str, name: str) -> Json:
        found = await self._json("GET", _pod(namespace, name))
        if (found.get("metadata") or {}).get("name") != name:
            raise Unreachable("the answer of the API server is not a pod", status=200)
        return found

    async def list_page(
        self,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continuation: str = "",
        brief: bool = False,
    ) -> Page:
        """One page of pods, as new as any write that was answered before; namespace None means all.

        :param brief: only the fields that `brief` names; several times as fast.
        :raises Gone: the continuation is too old; begin again.
        """
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit) if limit else ""}
        query["continue"] = continuation
        decode = decode_list if brief else json.loads
        limits = self._timeout(read_s=ANSWER_S)
        document = await self._json("GET", _pods(namespace), query=query, decode=decode, timeout=limits)
        metadata = document.get("metadata") or {}
        version = str(metadata.get("resourceVersion") or "")
        if not version:  # each list has one; what a gateway makes up must not look like an empty cluster
            raise Unreachable("the answer of the API server is not a list", status=200)
        return Page(
            items=document.get("items") or [],
            version=version,
            continuation=str(metadata.get("continue") or ""),
        )

    async def watch_stream(
        self,
        namespace: str | None,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        silence_s: float = 75.0,
        timeout_s: float = 300.0,
        brief: bool = False,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Json, None]:
        """The events of one watch request, decoded, until the server ends it. Bookmarks and ERROR events are included.

        :param silence_s: longest time without a byte. The server sends a bookmark about once a minute, but none of a
            version that it has told of: where nothing changes in a whole cluster, silence says nothing.
        :param timeout_s: after this time the server ends the request by itself.
        :param brief: only the fields that `brief` names; several times as fast.
        :param opened: called when the server has agreed to tell, before its first event.
        :raises Silent: nothing came for `silence_s`.
        :raises Unreachable: the stream broke, also in the middle of an event.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        query |= {"timeoutSeconds": str(max(1, int(timeout_s))), "labelSelector": labels, "fieldSelector": fields}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._access.connect_s, sock_read=silence_s)
        request: dict[str, Any] = {"query": query, "timeout": timeout, "head_s": ANSWER_S}
        async with self._answer("GET", _pods(namespace), **request) as answer:
            if opened is not None:
                opened()
            decode, rest = (decode_event if brief else json.loads), b""
            async for chunk in answer.content.iter_any():
                # One read often holds many events, and one large event may need many reads.
                *lines, rest = (rest + chunk if rest else chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _event(line, decode)
            if rest.strip():
                yield _event(rest, decode)

    async def patch_pod(self, namespace: str, name: str, patch: Json) -> Json:
        """JSON merge patch: `{"metadata": {"labels": {...}}}`; null removes a field.

        :raises Conflict: the patch names a uid in its metadata, and the pod of this name has another one.
        """
        media_type = "application/merge-patch+json"
        try:
            return await self._json("PATCH", _pod(namespace, name), body=patch, content_type=media_type)
        except Refused as error:
            # Only an update and a deletion have preconditions: of a patch the server takes the uid for a change of it.
            if error.status == 422 and "metadata.uid" in error.message:
                raise Conflict(error.message, status=409, reason="Conflict") from error
            raise

    async def delete_pod(
        self,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        version: str = "",
        grace_s: int | None = None,
        options: Json | None = None,
    ) -> Json:
        """Delete one pod, with `uid` only if it is still that one, and with `version` only if it has not changed since.

        :param options: further DeleteOptions, named as in `delete_option_kwargs` or as in the API.
        :raises Conflict: the pod of this name has another uid or version.
        """
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1"}
        body |= _camel(options or {})
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        conditions = {"uid": uid, "resourceVersion": version}
        if any(conditions.values()):
            given = {name: value for name, value in conditions.items() if value}
            body["preconditions"] = {**(body.get("preconditions") or {}), **given}
        return await self._json("DELETE", _pod(namespace, name), body=body)

    async def read_log_tail(
        self, namespace: str, name: str, *, container: str = "", tail_lines: int = 20, limit_bytes: int = 8192
    ) -> list[str]:
        """The last lines of a container's log, at most `limit_bytes` of them (the end, not the beginning)."""
        query = {"container": container, "tailLines": str(tail_lines)}
        async with self._answer("GET", _pod(namespace, name) + "/log", query=query, accept="*/*") as answer:
            tail = b""
            # The server's own limitBytes cuts the end off, which is what matters here.
            async for chunk in answer.content.iter_chunked(65536):
                tail = (tail + chunk)[-limit_bytes:]
        return tail.decode("utf-8", "replace").splitlines()[-tail_lines:]

    async def list_events(self, namespace: str, *, name: str = "", uid: str = "", limit: int = 50) -> list[Json]:
        """Kubernetes' events about one pod (the scheduler's and the kubelet's messages)."""
        about = {"involvedObject.kind": "Pod", "involvedObject.name": name, "involvedObject.uid": uid}
        query = {"fieldSelector": ",".join(f"{key}={value}" for key, value in about.items() if value)}
        query["limit"] = str(limit)
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/events"
        document = await self._json("GET", path, query=query)
        return document.get("items") or []

    async def server_version(self) -> Json:
        """Say which Kubernetes answers: the cheapest proof that address and credentials are right."""
        return await self._json("GET", "/version")

    # --- one request ----------------------------------------------------------------------------------------------

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        decode: Callable[[bytes], Any] = json.loads,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> Json:
        data = None if body is None else body_of(encoded(body))
        request: dict[str, Any] = {"query": query, "data": data, "content_type": content_type}
        async with self._answer(method, path, timeout=timeout, **request) as answer:
            text = await answer.read()
        try:
            document = decode(text)
        except ValueError as error:
            raise Unreachable("the answer of the API server is not JSON", status=200) from error
        if not isinstance(document, dict):
            raise Unreachable("the answer of the API server is not an object", status=200)
        return document

    @asynccontextmanager
    async def _answer(
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
        """The answer of a request that succeeded, and every failure (also while it is being read) as an ApiError.

        :param head_s: the answer must begin within this time, however long its body may be silent.
        """
        timeout = timeout or self._timeout()
        headers = {"Accept": accept, "User-Agent": self._agent}
        if data is not None:
            headers["Content-Type"] = content_type
        params = {key: value for key, value in (query or {}).items() if value}
        try:
            sending = self._send(method, path, params=params, data=data, headers=headers, timeout=timeout)
            async with await (asyncio.wait_for(sending, head_s) if head_s else sending) as answer:
                if answer.status >= 300:
                    body = await answer.read()
                    raise error_of(answer.status, answer.reason or "", answer.headers, body)
                self._warn(method, answer)
                yield answer
        except aiohttp.SocketTimeoutError as error:
            raise Silent(f"the API server said nothing for {timeout.sock_read:g} s") from error
        except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the API server is not reached: {_why(error)}") from error

    def _warn(self, method: str, answer: aiohttp.ClientResponse) -> None:
        """Tell once what the server warns of in an answer (RFC 9111, code 299): deprecations, a policy that only warns."""
        for line in answer.headers.getall("Warning", ()):
            found = _WARNING.match(line)
            if found and found[1] not in self._warned and len(self._warned) < _WARNED_MAX:
                self._warned.add(found[1])
                log.warning("The API server warns (%s): %s", method, re.sub(r"\\(.)", r"\1", found[1])[:MESSAGE_MAX])

    def _timeout(self, read_s: float | None = None) -> aiohttp.ClientTimeout:
        access = self._access
        read_s = access.read_s or read_s
        return aiohttp.ClientTimeout(access.request_s, sock_connect=access.connect_s, sock_read=read_s)

    async def _send(self, method: str, path: str, *, headers: dict[str, str], **request: Any) -> aiohttp.ClientResponse:
        """Send it, and once more after a 401, or to a server that is not trusted, where newer credentials could be read."""
        access, session = self._access, self._session
        try:
            answer = await self._send_as(access, session, method, path, headers, request)
        except aiohttp.ClientConnectorCertificateError:  # its authority may have been replaced
            if not await self._read_credentials_again(access, trust=True):
                raise
        else:
            if answer.status != 401 or not await self._read_credentials_again(access):
                return answer
            answer.release()
        return await self._send_as(self._access, self._session, method, path, headers, request)

    @staticmethod
    async def _send_as(
        access: Credentials,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        headers: dict[str, str],
        request: dict[str, Any],
    ) -> aiohttp.ClientResponse:
        from yarl import URL

        try:
            credentials = await access.headers()
        except Exception as error:  # noqa: BLE001 - a user's refresh hook may raise anything
            raise Unauthorized(f"the credentials cannot be renewed: {_why(error)}", status=401) from error
        url = URL(access.host + path, encoded=True)
        # A redirect leads to a page for people, and would make a GET of a POST.
        request |= {"allow_redirects": False, **access.request_options()}
        return await session.request(method, url, headers=headers | credentials, **request)

    async def _read_credentials_again(self, refused: Credentials, trust: bool = False) -> bool:
        """True where there are credentials newer than the refused ones. Many requests at once read them once.

        :param trust: only another authority to know the server by would help.
        """
        async with self._reload:
            if self._access is not refused:
                return True
            now = time.monotonic()
            if self._reloaded_at is not None and now - self._reloaded_at < RELOAD_PAUSE_S:
                return False
            self._reloaded_at = now
            try:
                access = await load_credentials(refused.team)
                if trust and access.authority == refused.authority:
                    return False
                session = access.session(self._limit)
            except ConfigError as error:
                log.warning("Our credentials for the API server cannot be read again: %s", error)
                return False
            log.info("The API server and our credentials do not go together any more: read them again.")
            retired, self._retired = self._retired, self._session
            self._access, self._session = access, session
        if retired is not None:  # two changes old: whatever still used it connects again
            await retired.close()
        return True


def _pods(namespace: str | None) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else "/api/v1/pods"


def _pod(namespace: str, name: str) -> str:
    return f"{_pods(namespace)}/{quote(name, safe='')}"


def encoded(body: Json) -> bytes:
    """JSON, several times as fast as json makes it; what msgspec does not take (half of a surrogate pair, say) json does."""
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return json.dumps(body, separators=(",", ":")).encode()


def _decoded(text: bytes) -> Any:
    """The same in the other direction.

    :raises ValueError: it is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (ValueError, msgspec.MsgspecError):
        return json.loads(text)


def _camel(options: Any) -> Any:
    """The same with the API's names of fields, at every depth."""
    if not isinstance(options, dict):
        return options
    return {re.sub("_([a-z])", lambda found: found[1].upper(), key): _camel(value) for key, value in options.items()}


def _event(line: bytes, decode: Callable[[bytes], Any]) -> Json:
    try:
        event = decode(line)
    except ValueError as error:
        raise Unreachable("the watch broke in the middle of an event") from error
    if not isinstance(event, dict):
        raise Unreachable("the watch brought something that is not an event")
    return event


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300] if str(error) else type(error).__name__
