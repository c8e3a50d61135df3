"""One version of one object, whose JSON text is made at most once per representation; used by the store and by watches."""

from __future__ import annotations

from podrelay_local_cluster.objects.json_text import Json, to_json
from podrelay_local_cluster.objects.managed_fields import Managers


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
    """An object at one resource version. `obj` never changes after construction: a change is a new record.

    `managers` are its managed fields, which are in its JSON text only; None: those of `previous`.
    """

    __slots__ = ("_json", "_partial_json", "_spec", "managers", "name", "namespace", "obj", "resource", "version")

    def __init__(
        self,
        resource: str,
        obj: Json,
        version: int,
        previous: Record | None = None,
        managers: Managers | None = None,
    ) -> None:
        metadata = obj["metadata"]
        self.resource = resource
        self.namespace: str = metadata.get("namespace", "")
        self.name: str = metadata["name"]
        self.version = version
        self.obj = obj
        inherited = () if previous is None else previous.managers
        self.managers: Managers = inherited if managers is None else managers
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
            head = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":%s}'
            self._partial_json = head % self._metadata_text()
        return self._partial_json

    def _encode_with_spec(self) -> bytes:
        if self._spec.text is None:
            self._spec.text = to_json(self.obj["spec"])
        head = to_json({key: value for key, value in self.obj.items() if key not in ("metadata", "spec", "status")})
        status = to_json(self.obj.get("status") or {})
        parts = (head[:-1], self._metadata_text(), self._spec.text, status)
        return b'%s,"metadata":%s,"spec":%s,"status":%s}' % parts

    def _metadata_text(self) -> bytes:
        text = to_json(self.obj["metadata"])
        if not self.managers:
            return text
        return b'%s,"managedFields":[%s]}' % (text[:-1], b",".join(self.managers))
