"""The core group's resources over HTTP: from a parsed request to the registries and to the response."""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from podrelay_local_cluster.api import pod_log
from podrelay_local_cluster.api.delete_options import parse_delete_options
from podrelay_local_cluster.api.listing import Lister, ListRequest
from podrelay_local_cluster.api.representation import Form, list_json, object_json, requested_form
from podrelay_local_cluster.api.watching import OpenWatches, WatchRequest, WatchStream
from podrelay_local_cluster.http.exchange import json_response, parse_body
from podrelay_local_cluster.http.query import is_dry_run, version
from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.kubelet.container_log import LogDirectory
from podrelay_local_cluster.objects.errors import (
    StatusError,
    method_not_allowed,
    unknown_path,
    unsupported_media_type,
)
from podrelay_local_cluster.objects.managed_fields import manager_name
from podrelay_local_cluster.objects.patching import JSON_PATCH, MERGE, STRATEGIC
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.registry.other_objects import ObjectRegistry
from podrelay_local_cluster.registry.pods import PodRegistry

_OPTIONS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}
_SUBRESOURCES = {"pods": ("", "log", "status"), "resourcequotas": ("", "status")}


class ApiCall:
    """One request on the API: what it addresses, its body, and the object that it created, for the audit log."""

    def __init__(self, request: web.BaseRequest, info: RequestInfo, raw: bytes) -> None:
        self.request = request
        self.info = info
        self.query: MultiMapping[str] = request.query
        self.content_type = request.headers.get("Content-Type", "application/json").partition(";")[0].strip().lower()
        self.raw = raw
        self._body: Any = None
        self.created: Record | None = None

    def body(self) -> Any:
        """The JSON body; None for an empty body. Raises `StatusError` 400."""
        if self._body is None:
            self._body = parse_body(self.raw)
        return self._body

    @property
    def name(self) -> str:
        """The object's name; for a creation, the name in the body."""
        if self.info.name or self.info.verb != "create":
            return self.info.name
        if self.created is not None:
            return self.created.name
        meta = None
        with contextlib.suppress(StatusError):
            body = self.body()
            meta = body.get("metadata") if isinstance(body, dict) else None
        return str(meta.get("name") or "") if isinstance(meta, dict) else ""

    @property
    def form(self) -> Form:
        """How objects appear in the response. Raises `StatusError` 406."""
        return requested_form(self.request.headers.get("Accept", ""), self.query.get("includeObject", ""))

    @property
    def manager(self) -> str:
        """Who makes this request, for the managed fields."""
        return manager_name(self.query.get("fieldManager", ""), self.request.headers.get("User-Agent", ""))

    @property
    def dry_run(self) -> bool:
        return is_dry_run(self.query.getall("dryRun", []), _OPTIONS[self.request.method])


class ResponseSink:
    """Writes the stream of one response, and can cut it."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response

    async def write(self, data: bytes) -> None:
        await self._response.write(data)

    def cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.close()


class CoreApi:
    """Everything under ``/api/v1/``."""

    def __init__(
        self, pods: PodRegistry, objects: ObjectRegistry, lister: Lister, watches: OpenWatches, logs: LogDirectory
    ) -> None:
        self._pods = pods
        self._objects = objects
        self._lister = lister
        self._watches = watches
        self._logs = logs
        self._verbs = {
            "get": self._get,
            "list": self._list,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def answer(self, call: ApiCall, gone: bool = False) -> web.StreamResponse:
        """Raises `StatusError`. `gone`: a fault makes a watch start with 410."""
        info = call.info
        if info.subresource not in _SUBRESOURCES.get(info.resource, ("",)):
            raise unknown_path()
        if info.verb == "watch":
            return await self._watch(call, gone)
        if info.verb == "log":
            return await self._log(call)
        verb = self._verbs.get(info.verb)
        if verb is None or (info.subresource and info.verb not in ("get", "update", "patch")):
            raise method_not_allowed()
        return verb(call)

    def _record(self, info: RequestInfo) -> Record:
        if info.resource == "pods":
            return self._pods.get(info.namespace, info.name)
        return self._objects.get(info.resource, info.namespace, info.name)

    def _get(self, call: ApiCall) -> web.Response:
        self._lister.check_version(version(call.query))
        return _answer(call, self._record(call.info))

    def _list(self, call: ApiCall) -> web.Response:
        form = call.form
        request = ListRequest.from_query(call.info, call.query)
        records, meta = self._lister.read(request)
        return json_response(list_json(records, call.info.resource, meta, form))

    def _create(self, call: ApiCall) -> web.Response:
        _check_json(call)
        info = call.info
        if info.name or (not info.namespace and info.resource != "namespaces"):
            raise method_not_allowed()
        if info.resource == "pods":
            record = self._pods.create(info.namespace, call.body(), call.dry_run, call.manager)
        else:
            record = self._objects.create(info.resource, info.namespace, call.body(), call.dry_run)
        call.created = record
        return _answer(call, record, 201)

    def _update(self, call: ApiCall) -> web.Response:
        _check_json(call)
        info, body = call.info, call.body()
        if info.resource != "pods":
            return _answer(call, self._objects.replace(self._record(info), body, info.subresource, call.dry_run))
        write = self._pods.replace_status if info.subresource == "status" else self._pods.replace
        return _answer(call, write(info.namespace, info.name, body, call.dry_run))

    def _patch(self, call: ApiCall) -> web.Response:
        accepted = (JSON_PATCH, MERGE, STRATEGIC)
        if call.content_type not in accepted:
            raise unsupported_media_type(accepted)
        record = self._record(call.info)
        if call.info.resource == "pods":
            changed = self._pods.patch(record, call.content_type, call.body(), call.info.subresource, call.dry_run)
        else:
            changed = self._objects.patch(record, call.content_type, call.body(), call.info.subresource, call.dry_run)
        return _answer(call, changed)

    def _delete(self, call: ApiCall) -> web.Response:
        _check_json(call)
        record, options = self._record(call.info), parse_delete_options(call.query, call.body())
        if record.resource == "pods":
            return _answer(call, self._pods.delete(record, options))
        return _answer(call, self._objects.delete(record, options))

    def _delete_collection(self, call: ApiCall) -> web.Response:
        _check_json(call)
        if call.info.resource != "pods" or not call.info.namespace:
            raise method_not_allowed()
        options = parse_delete_options(call.query, call.body())
        records, meta = self._lister.read(ListRequest.from_query(call.info, call.query))
        deleted = [self._pods.delete(record, options) for record in records]
        return json_response(list_json(deleted, "pods", meta, call.form))

    async def _watch(self, call: ApiCall, gone: bool) -> web.StreamResponse:
        form = call.form
        watch = WatchRequest.from_query(call.info, call.query, form)
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        await WatchStream(self._watches, watch, ResponseSink(call.request, response)).run(gone)
        return response

    async def _log(self, call: ApiCall) -> web.StreamResponse:
        record, options = self._record(call.info), pod_log.log_options(call.query)
        run = pod_log.select_run(record, call.query)
        if run is None:
            return web.Response(status=204)
        container, restart = run
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(call.request)
        async for text in self._logs.read(record.uid, container, restart, options):
            await response.write(text)
        return response


def _answer(call: ApiCall, record: Record, status: int = 200) -> web.Response:
    return json_response(object_json(record, call.form), status)


def _check_json(call: ApiCall) -> None:
    if call.raw and call.content_type not in ("application/json", ""):
        raise unsupported_media_type(("application/json",))
