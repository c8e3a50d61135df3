"""One version of one object, whose JSON text is made at most once per representation; used by the store and by watches."""

from __future__ import annotations

from podrelay_local_cluster.objects.json_text import Json, to_json


class _SpecText:
    """The JSON text of a spec, shared by all versions of an object that share the spec."""

    __slots__ = ("text",)

    def __init__(self, text: bytes | None = None) -> None:
        self.text = text


def _text_of_bound(spec: Json, old: Record) -> _SpecText:
    """The text of a spec that differs from the old record's only in its node; reuses the old text, does not encode again."""
    before, node = old.obj.get("spec"), spec.get("nodeName")
    if old._spec.text is None or not before or not node or "nodeName" in before or len(spec) != len(before) + 1:
        return _SpecText()
    if any(before.get(key) is not value for key, value in spec.items() if key != "nodeName"):
        return _SpecText()
    return _SpecText(b'{"nodeName":%s,%s' % (to_json(node), old._spec.text[1:]))


class Record:
    """An object at one resource version. `obj` never changes after construction: a change is a new record."""

    __slots__ = ("_json", "_partial_json", "_spec", "name", "namespace", "obj", "resource", "version")

    def __init__(self, resource: str, obj: Json, version: int, previous: Record | None = None) -> None:
        metadata = obj["metadata"]
        self.resource = resource
        self.namespace: str = metadata.get("namespace", "")
        self.name: str = metadata["name"]
        self.version = version
        self.obj = obj
        self._spec = _SpecText()
        if previous is not None and "spec" in obj:
            same = previous.obj.get("spec") is obj["spec"]
            self._spec = previous._spec if same else _text_of_bound(obj["spec"], previous)
        self._json: bytes | None = None
        self._partial_json: bytes | None = None

    @property
    def labels(self) -> dict[str, str]:
        return self.obj["metadata"].get("labels") or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.obj["metadata"].get("annotations") or {}

    @property
    def uid(self) -> str:
        return self.obj["metadata"].get("uid", "")

    @property
    def is_being_deleted(self) -> bool:
        return "deletionTimestamp" in self.obj["metadata"]

    def json(self) -> bytes:
        """The whole object."""
        if self._json is None:
            self._json = self._encode_with_spec() if "spec" in self.obj else to_json(self.obj)
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

    def _encode_with_spec(self) -> bytes:
        if self._spec.text is None:
            self._spec.text = to_json(self.obj["spec"])
        rest = to_json({key: value for key, value in self.obj.items() if key != "spec"})
        return b"%s,%s%s}" % (rest[:-1], b'"spec":', self._spec.text)
