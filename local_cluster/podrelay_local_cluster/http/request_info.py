"""Pure: what a request addresses, read from its method, path and query; used for routing, faults and the audit log.

The verbs are those of the API documentation ("API concepts", resource URIs), plus ``log`` for reading a pod's log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from podrelay_local_cluster.http.query import is_true
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE, NAMESPACED

_VERB_ON_OBJECT = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
_VERB_ON_COLLECTION = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}


@dataclass(frozen=True)
class RequestInfo:
    """One request. `resource` is empty for discovery, health and other paths that name no resource."""

    verb: str
    path: str
    resource: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether the response may last: the audit log records such a request at its start."""
        return self.verb in ("watch", "log")


def parse(method: str, path: str, query: Mapping[str, str]) -> RequestInfo | None:
    """None for a path of the core group that names nothing on this server."""
    if not path.startswith("/api/v1/"):
        return RequestInfo(verb=method.lower(), path=path)
    parts = [unquote(part) for part in path[len("/api/v1/") :].strip("/").split("/")]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) >= 3 and parts[2] in NAMESPACED:
        namespace, parts = parts[1], parts[2:]
    resource, name, subresource = (parts + ["", "", ""])[:3]
    if len(parts) > 3 or resource not in KIND_OF_RESOURCE:
        return None
    if resource in NAMESPACED and name and not namespace:
        return None
    verb = (_VERB_ON_OBJECT if name else _VERB_ON_COLLECTION).get(method, method.lower())
    if verb == "list" and is_true(query.get("watch")):
        verb = "watch"
    elif verb == "get" and subresource == "log":
        verb = "log"
    return RequestInfo(verb, path, resource, namespace, name, subresource)
