"""Pure: the documents that kubectl reads first: versions, resources, and just enough OpenAPI for its field validation.

Other clients read only `VERSION`.
"""

from __future__ import annotations

import platform

from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.resources import KIND_OF_RESOURCE

_ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_PLAIN = ["create", "delete", "get", "list", "patch", "update", "watch"]
_READ = ["get", "list", "watch"]
_VALIDATED = ("pods", "secrets", "configmaps", "resourcequotas", "serviceaccounts")

GIT_VERSION = "v1.32.0"


def _resource(
    name: str, kind: str, verbs: list[str], namespaced: bool = True, short: str = "", singular: str = ""
) -> Json:
    entry: Json = {"name": name, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": verbs}
    if short:
        entry["shortNames"] = [short]
    if name == "pods":
        entry["categories"] = ["all"]
    return entry


VERSION: Json = {
    "major": "1",
    "minor": "32",
    "gitVersion": GIT_VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "",
    "platform": f"linux/{platform.machine()}",
}
API_VERSIONS: Json = {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
API_GROUPS: Json = {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
API_RESOURCES: Json = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [
        _resource("configmaps", "ConfigMap", _PLAIN, short="cm", singular="configmap"),
        _resource("events", "Event", _READ, short="ev", singular="event"),
        _resource("namespaces", "Namespace", _PLAIN, namespaced=False, short="ns", singular="namespace"),
        _resource("nodes", "Node", _READ, namespaced=False, short="no", singular="node"),
        _resource("pods", "Pod", _ALL, short="po", singular="pod"),
        _resource("pods/log", "Pod", ["get"]),
        _resource("pods/status", "Pod", ["get", "patch", "update"]),
        _resource("resourcequotas", "ResourceQuota", _PLAIN, short="quota", singular="resourcequota"),
        _resource("resourcequotas/status", "ResourceQuota", ["get", "patch", "update"]),
        _resource("secrets", "Secret", _PLAIN, singular="secret"),
        _resource("serviceaccounts", "ServiceAccount", _PLAIN, short="sa", singular="serviceaccount"),
    ],
}


def _patch_operation(kind: str) -> Json:
    """The PATCH operation of a kind, by which kubectl recognizes that the server validates fields."""
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldValidation")]
    return {
        "patch": {
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": {"group": "", "kind": kind, "version": "v1"},
        }
    }


OPENAPI_PATHS: Json = {"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=1"}}}
OPENAPI: Json = {
    "openapi": "3.0.0",
    "info": {"title": "Kubernetes", "version": GIT_VERSION},
    "paths": {
        **{
            f"/api/v1/namespaces/{{namespace}}/{name}/{{name}}": _patch_operation(KIND_OF_RESOURCE[name])
            for name in _VALIDATED
        },
        "/api/v1/namespaces/{name}": _patch_operation("Namespace"),
    },
}

DOCUMENTS: dict[str, Json] = {
    "/version": VERSION,
    "/api": API_VERSIONS,
    "/apis": API_GROUPS,
    "/api/v1": API_RESOURCES,
    "/openapi/v3": OPENAPI_PATHS,
    "/openapi/v3/api/v1": OPENAPI,
}
