"""The pods part of the Kubernetes API, and Secrets: one HTTP request per method, raw JSON in and out.

Used by launcher and watcher.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from podrelay.protocol.messages import Json
from podrelay_workers.kube.connection import ApiConnection
from podrelay_workers.kube.credentials import Credentials, load_credentials
from podrelay_workers.kube.encoding import (
    camel_case,
    checked_pod,
    decode_watch_line,
    is_plain,
    metadata_of,
)
from podrelay_workers.kube.errors import Conflict, Refused, Unreachable
from podrelay_workers.kube.loader_process import LoaderProcess
from podrelay_workers.kube.paced_reading import PacedReader
from podrelay_workers.kube.pod_decoder import decode_event, decode_list

# The API server begins to answer a list or a watch at once; without an answer after this time the request fails, so that a
# request that hangs does not outlive an outage.
ANSWER_S = 20.0
# No object is larger: etcd stores 1.5 MB.
_EVENT_MAX = 16 << 20
# Of a pod that was just created or deleted, its metadata are enough; a server that cannot send them alone sends the pod.
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
# Log tails are read in pieces of this many bytes.
_LOG_CHUNK = 65536


@dataclass(frozen=True)
class Page:
    """A part of a list. `version` is the version of the whole list; `continuation` is empty on the last page."""

    items: list[Json]
    version: str
    continuation: str = ""


class PodClient:
    """The pods of one API server. Create and close it inside the event loop.

    Every method raises an `ApiError` (`kube.errors`); `Unreachable` leaves open whether the request had an effect.
    """

    def __init__(self, credentials: Credentials, limit: int = 100, role: str = "client") -> None:
        """:param limit: connections at once; further requests wait for one.
        :param role: who sends the requests, for the API server's audit log: launcher or watcher.
        """
        self._connection = ApiConnection(credentials, limit, role)

    @classmethod
    async def connect(
        cls,
        team: str | None = None,
        limit: int = 100,
        role: str = "client",
        on_wait: Callable[[str], None] | None = None,
        first_load: LoaderProcess | None = None,
    ) -> PodClient:
        """Load `[kubernetes_executor]`, however long that takes; no connection is opened yet.

        :param on_wait: called every few seconds while the credentials are waited for, with what is waited for.
        :param first_load: a process that loads the credentials already.
        :raises ConfigError: names the option to change.
        """
        return cls(await load_credentials(team, on_wait, first_load), limit, role)

    @property
    def trouble(self) -> str:
        """Why the API server gets no valid credentials; empty if it does."""
        return self._connection.trouble

    async def close(self) -> None:
        await self._connection.close()

    async def __aenter__(self) -> PodClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # --- write --------------------------------------------------------------------------------------------------------
    async def create_pod(self, namespace: str, pod: Json) -> Json:
        """:return: at least its metadata."""
        found = await self._connection.request_object("POST", _pods_path(namespace), body=pod, accept=METADATA)
        return checked_pod(found, pod["metadata"]["name"])

    async def patch_pod(self, namespace: str, name: str, patch: Json) -> Json:
        """Apply a JSON merge patch: `{"metadata": {"labels": {...}}}`; null removes a field.

        :raises Conflict: the patch names a uid in its metadata, and the pod of this name has another one.
        """
        media_type = "application/merge-patch+json"
        path = _pod_path(namespace, name)
        try:
            found = await self._connection.request_object("PATCH", path, body=patch, content_type=media_type)
            return checked_pod(found, name)
        except Refused as error:
            # A patch has no preconditions: the server takes a different uid for an attempt to change it.
            if error.status == 422 and "metadata.uid" in error.message:
                raise Conflict(error.message, status=409, reason="Conflict") from error
            raise

    async def test_and_patch_pod(self, namespace: str, name: str, operations: list[Json]) -> Json:
        """Apply a JSON patch (RFC 6902), completely or not at all: its `test` operations are preconditions.

        :raises Refused: 422 if a test fails or a path is missing, or if the result would not be a valid pod.
        """
        media_type = "application/json-patch+json"
        path = _pod_path(namespace, name)
        return checked_pod(
            await self._connection.request_object("PATCH", path, body=operations, content_type=media_type), name
        )

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
        """Delete one pod; with `uid` only if it is still that pod, with `version` only if it has not changed since.

        :param options: further DeleteOptions, named as in `delete_option_kwargs` or as in the API.
        :return: the metadata of the pod, the pod or a Status.
        :raises Conflict: the pod of this name has another uid or version.
        """
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1"}
        body |= camel_case(options or {})
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        conditions = {"uid": uid, "resourceVersion": version}
        if any(conditions.values()):
            given = {name: value for name, value in conditions.items() if value}
            body["preconditions"] = {**(body.get("preconditions") or {}), **given}
        return await self._connection.request_object("DELETE", _pod_path(namespace, name), body=body, accept=METADATA)

    async def create_secret(self, namespace: str, secret: Json) -> Json:
        return await self._connection.request_object("POST", _secrets_path(namespace), body=secret)

    async def delete_secret(self, namespace: str, name: str) -> Json:
        path = f"{_secrets_path(namespace)}/{quote(name, safe='')}"
        return await self._connection.request_object("DELETE", path)

    # --- read ---------------------------------------------------------------------------------------------------------
    async def get_pod(self, namespace: str, name: str) -> Json:
        return checked_pod(await self._connection.request_object("GET", _pod_path(namespace, name)), name)

    async def list_page(
        self,
        namespace: str | None,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continuation: str = "",
        partial: bool = False,
    ) -> Page:
        """One page of pods, as new as any write that was answered before; namespace None means all.

        :param partial: decode only the fields in `pod_decoder`; several times as fast.
        :raises Gone: the continuation has expired; list again from the beginning.
        """
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(limit) if limit else ""}
        query["continue"] = continuation
        document = await self._connection.request_list(
            _pods_path(namespace),
            query=query,
            decoder=decode_list if partial else json.loads,
            timeout=self._connection.timeout(read_s=ANSWER_S),
        )
        metadata, items = metadata_of(document), document.get("items") or []
        version, more = metadata.get("resourceVersion"), metadata.get("continue") or ""
        # Every list has a version; an answer made up by a gateway must not look like an empty cluster.
        if not version or not is_plain(version) or not is_plain(more) or not isinstance(items, list):
            raise Unreachable("the answer from the API server is not a list", status=200)
        return Page(items, version, more)

    async def watch_stream(
        self,
        namespace: str | None,
        *,
        version: str,
        labels: str = "",
        fields: str = "",
        silence_s: float = 75.0,
        timeout_s: float = 300.0,
        pause_s: float = 0.0,
        partial: bool = False,
        opened: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Json, None]:
        """The decoded events of one watch request, including bookmarks and ERROR events, until the server ends it.

        :param silence_s: longest time without a byte. The server sends a bookmark about once a minute, but none for a
            version that it has sent already: while nothing changes in the whole cluster, silence means nothing.
        :param timeout_s: after this time the server ends the request.
        :param pause_s: the events of this time come together, but for the first after a silence.
        :param partial: decode only the fields in `pod_decoder`; several times as fast.
        :param opened: called when the server has accepted the watch, before its first event.
        :raises Silent: nothing arrived for `silence_s`.
        :raises Unreachable: the stream broke, perhaps within an event.
        """
        query = {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version}
        query |= {"timeoutSeconds": str(max(1, int(timeout_s))), "labelSelector": labels, "fieldSelector": fields}
        timeout = self._connection.stream_timeout(silence_s)
        path = _pods_path(namespace)
        async with self._connection.request("GET", path, query=query, timeout=timeout, head_s=ANSWER_S) as answer:
            if opened is not None:
                opened()
            decoder, rest = (decode_event if partial else json.loads), b""
            reader = PacedReader(answer, pause_s)
            while chunk := await reader.read():
                # One read often holds many events, and one large event may need many reads.
                *lines, rest = (rest + chunk if rest else chunk).split(b"\n")
                if len(rest) > _EVENT_MAX:
                    raise Unreachable("the watch sent an event of endless length")
                for line in lines:
                    if line.strip():
                        yield decode_watch_line(line, decoder)
            if rest.strip():
                yield decode_watch_line(rest, decoder)

    async def read_log_tail(
        self, namespace: str, name: str, *, container: str = "", tail_lines: int = 20, limit_bytes: int = 8192
    ) -> list[str]:
        """The last lines of a container's log, at most the last `limit_bytes` of them."""
        query = {"container": container, "tailLines": str(tail_lines)}
        path = _pod_path(namespace, name) + "/log"
        async with self._connection.request("GET", path, query=query, accept="*/*") as answer:
            tail = b""
            # The server's own limitBytes would cut off the end, which is what matters here.
            async for chunk in answer.content.iter_chunked(_LOG_CHUNK):
                tail = (tail + chunk)[-limit_bytes:]
        # Not splitlines(): JSON may contain what Unicode counts as the end of a line.
        text = tail.decode("utf-8", "replace").removesuffix("\n")
        return [line.removesuffix("\r") for line in text.split("\n")][-tail_lines:] if text else []

    async def list_events(self, namespace: str, *, name: str = "", uid: str = "", limit: int = 50) -> list[Json]:
        """Kubernetes' events about one pod: messages of its scheduler and its kubelet."""
        about = {"involvedObject.kind": "Pod", "involvedObject.name": name, "involvedObject.uid": uid}
        query = {"fieldSelector": ",".join(f"{key}={value}" for key, value in about.items() if value)}
        query["limit"] = str(limit)
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/events"
        items = (await self._connection.request_object("GET", path, query=query)).get("items")
        return items if isinstance(items, list) else []

    async def get_namespace(self, namespace: str) -> Json:
        """:raises NotFound: it does not exist."""
        return await self._connection.request_object("GET", f"/api/v1/namespaces/{quote(namespace, safe='')}")

    async def server_version(self) -> Json:
        """The version of Kubernetes: the cheapest proof that address and credentials are right."""
        return await self._connection.request_object("GET", "/version")


@lru_cache(maxsize=64)  # a worker uses few namespaces
def _pods_path(namespace: str | None) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else "/api/v1/pods"


def _secrets_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets"


def _pod_path(namespace: str, name: str) -> str:
    return f"{_pods_path(namespace)}/{quote(name, safe='')}"
