"""One version of one object, with its JSON text made at most once per representation; read by the store and its watchers."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def to_json(value: object) -> bytes:
    """Compact JSON text; ASCII only, so that no text a client sent can break the encoding."""
    return _encode(value).encode("ascii")


class _Text:
    """The JSON text of a spec, shared by all versions of an object that share the spec."""

    __slots__ = ("text",)

    def __init__(self, text: bytes | None = None) -> None:
        self.text = text


def _text_of_bound(spec: Json, old: Record) -> _Text:
    """The text of a spec that differs from the old record's only in the node it is bound to, without encoding it again."""
    before, node = old.obj.get("spec"), spec.get("nodeName")
    if old._spec.text is None or not before or not node or "nodeName" in before or len(spec) != len(before) + 1:
        return _Text()
    if any(before.get(key) is not value for key, value in spec.items() if key != "nodeName"):
        return _Text()
    return _Text(b'{"nodeName":%s,%s' % (to_json(node), old._spec.text[1:]))


class Record:
    """An object as it was at one resource version. Nobody changes `obj` after construction: a change is a new record."""

    __slots__ = ("_json", "_partial_json", "_spec", "name", "namespace", "obj", "resource", "version")

    def __init__(self, resource: str, obj: Json, version: int, previous: Record | None = None) -> None:
        metadata = obj["metadata"]
        self.resource = resource
        self.namespace: str = metadata.get("namespace", "")
        self.name: str = metadata["name"]
        self.version = version
        self.obj = obj
        self._spec: _Text = _Text()
        if previous is not None and "spec" in obj:
            same = previous.obj.get("spec") is obj["spec"]
            self._spec = previous._spec if same else _text_of_bound(obj["spec"], previous)
        self._json: bytes | None = None
        self._partial_json: bytes | None = None

    @property
    def labels(self) -> dict[str, str]:
        return self.obj["metadata"].get("labels") or {}

    @property
    def uid(self) -> str:
        return self.obj["metadata"].get("uid", "")

    def json(self) -> bytes:
        """The whole object."""
        if self._json is None:
            if "spec" in self.obj:
                if self._spec.text is None:
                    self._spec.text = to_json(self.obj["spec"])
                rest = to_json({key: value for key, value in self.obj.items() if key != "spec"})
                self._json = b"%s,%s%s}" % (rest[:-1], b'"spec":', self._spec.text)
            else:
                self._json = to_json(self.obj)
        return self._json

    def partial_json(self) -> bytes:
        """The object as `PartialObjectMetadata`."""
        if self._partial_json is None:
            partial = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": self.obj["metadata"],
            }
            self._partial_json = to_json(partial)
        return self._partial_json
