"""Lists: selectors, chunks with a consistent snapshot, and resource versions in a list request.

Follows "API concepts": all chunks of a list show the state at the first one. A continue token that is too old is 410 Expired,
with a token for the rest of the list in its current state. A real API server with a watch cache serves old tokens from it, so
that there a token expires with the compaction of etcd only after a restart, which `drop_snapshots` stands for.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from podrelay_local_cluster.http.query import integer
from podrelay_local_cluster.http.query import version as read_version
from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.objects import selectors
from podrelay_local_cluster.objects.errors import (
    StatusError,
    bad_request,
    expired,
    forbidden_value,
    invalid,
    version_too_large,
    version_too_old,
)
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.record import Record
from podrelay_local_cluster.objects.selectors import Selector
from podrelay_local_cluster.storage.store import ObjectStore

_SNAPSHOT_LIFE_S = 300.0  # etcd is compacted every five minutes
_MAX_SNAPSHOTS = 64


@dataclass(frozen=True)
class ListRequest:
    """The parameters of a list."""

    resource: str
    namespace: str
    selector: Selector
    limit: int
    token: str
    version: int | None
    version_match: str

    @classmethod
    def from_query(cls, info: RequestInfo, query: Mapping[str, str]) -> ListRequest:
        """Raises `StatusError` 400 or 422."""
        selector = selectors.parse(info.resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version, version_match = read_version(query), query.get("resourceVersionMatch", "")
        limit = integer(query, "limit") or 0
        if version_match and version is None:
            reason = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", reason)])
        if version_match == "Exact" and version == 0:
            reason = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            raise invalid(info.resource, "", [forbidden_value("resourceVersionMatch", reason)])
        token = query.get("continue", "")
        if token and version:
            raise bad_request("specifying resource version is not allowed when using continue")
        return cls(info.resource, info.namespace, selector, max(0, limit), token, version, version_match)


@dataclass(frozen=True)
class _Snapshot:
    records: list[Record]
    version: int
    made_at: float


class Lister:
    """Reads lists from the store and keeps the snapshots that later chunks need."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._snapshots: OrderedDict[int, _Snapshot] = OrderedDict()
        self._next_id = 1

    def read(self, request: ListRequest) -> tuple[list[Record], Json]:
        """The records and the list's metadata. Raises `StatusError` 400, 410 or 504."""
        if request.token:
            return self._next_chunk(request)
        self._check_versions(request)
        return self._first_chunk(request, self._select(request), self._store.version)

    def drop_snapshots(self) -> None:
        """Compact: every continue token issued so far is 410 from now on."""
        self._snapshots.clear()

    def _select(self, request: ListRequest, after: tuple[str, str] | None = None) -> list[Record]:
        name = request.selector.single_name
        if name and request.namespace:
            one = self._store.get(request.resource, request.namespace, name)
            found = [] if one is None else [one]
        else:
            found = self._store.records(request.resource, request.namespace)
        if request.selector:
            found = [record for record in found if request.selector.matches(record.obj)]
        return found if after is None else [item for item in found if (item.namespace, item.name) > after]

    def check_version(self, version: int | None) -> None:
        """Raises `StatusError` 504 for a version of the future."""
        if version is not None and version > self._store.version:
            raise version_too_large(version, self._store.version)

    def _check_versions(self, request: ListRequest) -> None:
        self.check_version(request.version)
        if request.version_match == "Exact" and request.version != self._store.version:
            raise version_too_old(request.version or 0, self._store.version)

    def _first_chunk(self, request: ListRequest, records: list[Record], version: int) -> tuple[list[Record], Json]:
        meta: Json = {"resourceVersion": str(version)}
        if not request.limit or len(records) <= request.limit:
            return records, meta
        snapshot_id, self._next_id = self._next_id, self._next_id + 1
        self._snapshots[snapshot_id] = _Snapshot(records, version, time.monotonic())
        while len(self._snapshots) > _MAX_SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return self._chunk(request, records, meta, snapshot_id, 0)

    def _next_chunk(self, request: ListRequest) -> tuple[list[Record], Json]:
        token = _decode(request.token)
        last = (token["namespace"], token["name"])
        if token["id"] == 0:
            return self._first_chunk(request, self._select(request, after=last), self._store.version)
        snapshot = self._snapshots.get(token["id"])
        if snapshot is None or time.monotonic() - snapshot.made_at > _SNAPSHOT_LIFE_S:
            text = (
                "The provided continue parameter is too old; start a new list, or go on inconsistently with this token"
            )
            raise expired(text, {"continue": _encode(0, 0, *last)})
        if snapshot.version != token["version"]:
            raise _bad_token()
        meta: Json = {"resourceVersion": str(snapshot.version)}
        return self._chunk(request, snapshot.records, meta, token["id"], token["start"])

    @staticmethod
    def _chunk(
        request: ListRequest, records: list[Record], meta: Json, snapshot_id: int, start: int
    ) -> tuple[list[Record], Json]:
        end = start + request.limit if request.limit else len(records)
        chunk = records[start:end]
        if end < len(records):
            last = chunk[-1]
            version = int(meta["resourceVersion"])
            meta["continue"] = _encode(snapshot_id, version, last.namespace, last.name, end)
            if not request.selector:
                meta["remainingItemCount"] = len(records) - end
        return chunk, meta


def _encode(snapshot_id: int, version: int, namespace: str, name: str, start: int = 0) -> str:
    token = {"id": snapshot_id, "version": version, "namespace": namespace, "name": name, "start": start}
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode("ascii").rstrip("=")


def _decode(text: str) -> Json:
    try:
        token = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if [type(token[key]) for key in ("id", "version", "namespace", "name", "start")] != [int, int, str, str, int]:
            raise _bad_token()
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise _bad_token() from exc
    return dict(token)


def _bad_token() -> StatusError:
    return bad_request("continue key is not valid")
