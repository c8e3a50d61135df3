"""Random requests for the local cluster: half of them create or change pods, the rest is anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from tests.fuzz.values import jsons, mutated, nested, raw, texts, to_json

# Method, path with query, headers, body.
Request = tuple[str, str, list[tuple[str, bytes]], bytes]

_NAMESPACES = ("default", "other", "kube-system", "missing", "")
_NAMES = ("a", "b", "c", "p-1", "missing", "default")
_RESOURCES = (
    "pods", "events", "nodes", "namespaces", "secrets", "configmaps", "serviceaccounts", "resourcequotas", "services",
)  # fmt: skip
_SUBRESOURCES = ("status", "log", "exec", "binding", "eviction", "")
_METHODS = ("GET", "GET", "POST", "POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X")
_MEDIA_TYPES = (
    "application/json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/json-patch+json", "application/yaml", "text/plain", "", "application/json; charset=x",
)  # fmt: skip
_ACCEPT = (
    "application/json", "*/*", "", "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/yaml", ";;,;q=", "a/b;as=Table",
)  # fmt: skip
_PARAMETERS = (
    "labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch", "timeoutSeconds",
    "watch", "allowWatchBookmarks", "sendInitialEvents", "dryRun", "gracePeriodSeconds", "propagationPolicy", "container",
    "tailLines", "limitBytes", "sinceSeconds", "sinceTime", "timestamps", "previous", "follow", "includeObject",
    "orphanDependents", "pretty", "fieldManager", "force", "since", "id",
)  # fmt: skip
_PARAMETER_VALUES = (
    "", "0", "1", "-1", "true", "false", "All", "a=b", "a in (b,c)", "!a", "metadata.name=a", "status.phase!=Running",
    "NotOlderThan", "Exact", "base", "Background", "2026-01-01T00:00:00Z", "e30=", "W10=", "Metadata", "None",
)  # fmt: skip
# A pod runs a program: only ones that do no harm, or none.
_COMMANDS: tuple[list[str], ...] = (
    ["true"],
    ["false"],
    ["/nonexistent/program"],
    ["no-such-program", "$(A)"],
    [""],
    ["\x00"],
    [],
    ["sleep", "0.01"],
)
_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "a", "generateName": "g-", "namespace": "default", "labels": {"a": "b"}, "finalizers": [],
        "annotations": {"local-cluster/duration-s": "0.01", "local-cluster/exit-code": "0", "local-cluster/hold": "false"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "u"}], "resourceVersion": "",
        "uid": "", "deletionGracePeriodSeconds": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
    },
    "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "activeDeadlineSeconds": 5, "nodeName": "",
        "nodeSelector": {}, "hostname": "h", "dnsPolicy": "Default", "serviceAccountName": "default",
        "schedulerName": "default-scheduler", "priority": 0, "hostNetwork": False, "enableServiceLinks": True,
        "containers": [
            {
                "name": "base", "image": "i:1", "command": [], "args": [], "workingDir": "/", "imagePullPolicy": "Never",
                "env": [{"name": "A", "value": "b"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
                        {"name": "D", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c", "optional": True}}],
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "2m", "memory": "2Mi"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}], "ports": [{"containerPort": 1}],
                "terminationMessagePolicy": "FallbackToLogsOnError", "securityContext": {"runAsUser": 1},
            }
        ],
        "initContainers": [{"name": "init", "image": "i", "command": ["true"], "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "secret": {"secretName": "s", "optional": True}}, {"name": "w", "emptyDir": {}}],
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        "affinity": {"nodeAffinity": {}}, "imagePullSecrets": [{"name": "s"}], "dnsConfig": {"nameservers": ["1.1.1.1"]},
        "topologySpreadConstraints": [{"maxSkew": 1}], "securityContext": {"fsGroup": 1}, "overhead": {"cpu": "1m"},
    },
    "status": {
        "phase": "Running", "reason": "r", "message": "m", "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "base", "state": {"running": {}}, "lastState": {}, "restartCount": 0, "image": "i"}],
        "podIPs": [{"ip": "10.0.0.1"}],
    },
}  # fmt: skip
_MINIMAL = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "base", "image": "i"}]}}
_OTHERS = (
    {"metadata": {"name": "other"}, "spec": {"finalizers": ["kubernetes"]}},
    {"metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "dg=="}, "stringData": {"l": "w"}},
    {"metadata": {"name": "c"}, "data": {"k": "v"}, "binaryData": {"b": "dg=="}},
    {"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1000000", "cpu": "1k"}}, "status": {"used": {"pods": "1"}}},
    {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "a", "uid": "u"}, "reason": "r", "count": 1},
    {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "s"}]},
)
_DELETE = {"kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u", "resourceVersion": "1"},
           "propagationPolicy": "Background", "dryRun": ["All"]}  # fmt: skip
_OPERATIONS = [
    {"op": "add", "path": "/metadata/labels/a", "value": "c"}, {"op": "move", "from": "/a", "path": "/b"},
    {"op": "test", "path": "/spec/containers/0/name", "value": "base"}, {"op": "remove", "path": "/spec"},
]  # fmt: skip
_FAULT = {
    "verbs": ["create"],
    "name_prefix": "no-such-pod",
    "probability": 0.0,
    "count": 0,
    "status": 500,
    "latency_s": 0.0,
}
_ENDING = {"exit_code": 1, "signal": 9, "reason": "r", "message": "m", "container": "base", "phase": "Failed",
           "pod_reason": "r", "pod_message": "m", "conditions": [{"type": "Ready", "status": "False"}]}  # fmt: skip

_word = st.sampled_from((*_NAMES, *_NAMESPACES, *_RESOURCES, *_SUBRESOURCES)) | texts.filter(
    lambda text: len(text) < 400
)


@st.composite
def _paths(draw: st.DrawFn) -> str:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return "/" + "/".join(quote(word, safe="%:", errors="replace") for word in draw(st.lists(_word, max_size=7)))
    if kind == 1:
        odd = ("/", "/api", "/apis", "/version", "/healthz", "/readyz", "/api/v1", "//", "/api/v1/", "/local-cluster/")
        return draw(st.sampled_from(odd))
    if kind == 2:
        control = (
            "audit",
            "stats",
            "faults",
            "compact",
            "drop-streams",
            "end-pods",
            "pods/default/a/end",
            "pods/default/b/vanish",
            "x",
        )
        return "/local-cluster/" + draw(st.sampled_from(control))
    namespace, name = draw(st.sampled_from(_NAMESPACES)), draw(st.sampled_from(_NAMES) | _word)
    resource = draw(st.sampled_from(("pods", "pods", "pods", "pods", *_RESOURCES)))
    path = f"/api/v1/namespaces/{namespace}/{resource}" if draw(st.integers(0, 9)) else f"/api/v1/{resource}"
    if draw(st.booleans()):
        path += "/" + quote(name, safe="", errors="replace")
        if draw(st.integers(0, 3)) == 0:
            path += "/" + draw(st.sampled_from(_SUBRESOURCES))
    return path


@st.composite
def _queries(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 2)):
        return ""
    value = st.sampled_from(_PARAMETER_VALUES) | texts.filter(lambda text: len(text) < 400)
    pairs = draw(st.lists(st.tuples(st.sampled_from(_PARAMETERS), value), max_size=3))
    return "?" + "&".join(f"{name}={quote(value, safe='', errors='replace')}" for name, value in pairs)


def _made_safe(pod: Any, command: list[str], number: int) -> Any:
    """Whatever was made of the pod's command, this one is safe to run. Most pods have names of their own."""
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    if isinstance(metadata, dict) and metadata.get("name") == "a" and number:
        metadata["name"] = f"p{number}"
    spec = pod.get("spec") if isinstance(pod, dict) else None
    for field in ("containers", "initContainers"):
        containers = spec.get(field) if isinstance(spec, dict) else None
        for container in containers if isinstance(containers, list) else ():
            if isinstance(container, dict):
                for words in ("command", "args"):
                    if isinstance(container.get(words), list) and all(
                        isinstance(word, str) for word in container[words]
                    ):
                        container[words] = command if words == "command" else []
    return pod


_pods = st.builds(
    _made_safe,
    mutated(_POD) | mutated(_POD) | mutated(_MINIMAL) | mutated(_POD),
    st.sampled_from(_COMMANDS),
    st.integers(0, 300),
)
_bodies = (
    _pods.map(to_json)
    | _pods.map(to_json)
    | st.sampled_from(_OTHERS).flatmap(mutated).map(to_json)
    | mutated(_DELETE).map(to_json)
    | mutated(_OPERATIONS).map(to_json)
    | mutated(_ENDING).map(to_json)
    | jsons.map(to_json)
    | raw
    | st.sampled_from((b"", b"{}", b"[]", b"null", nested(500), nested(100_000), nested(50_000, '{"a":')))
)
_faults = mutated(
    {
        "rules": [_FAULT],
        "images": [{"pattern": "no-such", "message": "m"}],
        "quota": {"x": 1},
        "seed": 1,
        "pod_start_delay_s": 0.1,
    }
)


_POD_PATHS = ("default/pods/a", "default/pods/b", "other/pods/a")
_PATCHES = {
    "application/merge-patch+json": _pods.map(to_json),
    "application/strategic-merge-patch+json": _pods.map(to_json),
    "application/json-patch+json": mutated(_OPERATIONS).map(to_json) | st.lists(
        st.builds(
            lambda op, path, value: {"op": op, "path": path, "from": path, "value": value},
            st.sampled_from(("add", "remove", "replace", "move", "copy", "test", "x")),
            st.sampled_from(("", "/", "/metadata", "/metadata/labels/a", "/spec/containers/0/name", "/spec/containers/-",
                             "/spec/containers/x", "/status", "/spec/containers/99", "/metadata/finalizers/0")),
            jsons,
        ), max_size=3,
    ).map(to_json),
}  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Half of them create or change pods, as the API wants it but for what is in the body; the rest is anything."""
    chance = draw(st.integers(0, 9))
    json_type = [("Content-Type", b"application/json")]
    if chance < 4:
        namespace = draw(st.sampled_from(("default", "other")))
        return "POST", f"/api/v1/namespaces/{namespace}/pods{draw(_queries())}", json_type, draw(_pods.map(to_json))
    if chance < 6:
        path = "/api/v1/namespaces/" + draw(st.sampled_from(_POD_PATHS)) + draw(st.sampled_from(("", "", "/status")))
        if draw(st.booleans()):
            return "PUT", path, json_type, draw(_pods.map(to_json))
        kind = draw(st.sampled_from(list(_PATCHES)))
        return "PATCH", path, [("Content-Type", kind.encode())], draw(_PATCHES[kind])
    if chance == 6:
        path = "/api/v1/namespaces/" + draw(st.sampled_from(_POD_PATHS))
        return "DELETE", path + draw(_queries()), json_type, draw(mutated(_DELETE).map(to_json) | st.just(b""))
    if chance == 7:
        resource = draw(st.sampled_from(("secrets", "configmaps", "resourcequotas", "events", "serviceaccounts")))
        body = draw(st.sampled_from(_OTHERS).flatmap(mutated).map(to_json))
        return "POST", f"/api/v1/namespaces/default/{resource}", json_type, body
    return draw(_any_requests())


@st.composite
def _any_requests(draw: st.DrawFn) -> Request:
    method, path = draw(st.sampled_from(_METHODS)), draw(_paths())
    kind = draw(st.sampled_from(_MEDIA_TYPES)).encode()
    headers = [("Content-Type", kind if draw(st.integers(0, 2)) == 0 else b"application/json")]
    if draw(st.integers(0, 4)) == 0:
        headers.append(("Accept", draw(st.sampled_from(_ACCEPT)).encode()))
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(("User-Agent", "X-Any", "If-Match", "Accept-Encoding", "Expect", "Range")))
        headers.append((name, re.sub(rb"[\x00-\x1f\x7f]", b"?", draw(raw))[:2000]))
    body = draw(_faults.map(to_json)) if path.endswith("/faults") else draw(_bodies) if method != "GET" else b""
    return method, path + draw(_queries()), headers, body


def variants(request: Request) -> Iterator[Request]:
    """The request; a pod that is created is also put and patched in the place of others: what Hypothesis draws is costly."""
    yield request
    if request[0] == "POST" and "/pods" in request[1]:
        for path in _POD_PATHS[:2]:
            yield "PUT", f"/api/v1/namespaces/{path}", request[2], request[3]
            for kind in ("application/merge-patch+json", "application/strategic-merge-patch+json"):
                yield "PATCH", f"/api/v1/namespaces/{path}", [("Content-Type", kind.encode())], request[3]
        yield "PUT", f"/api/v1/namespaces/{_POD_PATHS[0]}/status", request[2], request[3]
