"""Pure: label and field selectors, as the API documentation defines them ("Labels and Selectors", "Field Selectors")."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.objects.json_text import Json

Labels = Mapping[str, str]
Requirement = Callable[[Labels], bool]

_LABEL_KEY = re.compile(r"([a-zA-Z0-9]([-a-zA-Z0-9.]*[a-zA-Z0-9])?/)?[a-zA-Z0-9]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?")
_LABEL_VALUE = re.compile(r"([a-zA-Z0-9]([-_.a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)?")
_SET_BASED = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(r"(?P<key>[^\s=!]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s=!]*)")
_FIELD_TERM = re.compile(r"(?P<field>[A-Za-z0-9./_-]+)\s*(?P<operator>==|=|!=)\s*(?P<value>.*)")

_FIELDS_OF_ANY = ("metadata.name", "metadata.namespace")
_FIELDS = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "events": (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "secrets": ("type",),
}


@dataclass(frozen=True)
class Selector:
    """Both selectors of a request. Two empty selectors match everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[str, str, bool], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, obj: Json) -> bool:
        if self.labels:
            labels = obj["metadata"].get("labels") or {}
            if not all(requirement(labels) for requirement in self.labels):
                return False
        return all((_field(obj, path) == value) is equal for path, value, equal in self.fields)

    @property
    def single_name(self) -> str | None:
        """The only name that the field selector allows; None when it allows several."""
        names = [value for path, value, equal in self.fields if path == "metadata.name" and equal]
        return names[0] if names else None


def parse(resource: str, label_selector: str, field_selector: str) -> Selector:
    """Raises `StatusError` 400 for text that is not a selector and for unsupported fields."""
    return Selector(parse_labels(label_selector), parse_fields(resource, field_selector))


def parse_labels(text: str) -> tuple[Requirement, ...]:
    return tuple(_label_requirement(term, text) for term in _split(text))


def parse_fields(resource: str, text: str) -> tuple[tuple[str, str, bool], ...]:
    """Each term as path, value, and whether the two must be equal."""
    allowed = _FIELDS_OF_ANY + _FIELDS.get(resource, ())
    terms = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = _FIELD_TERM.fullmatch(term)
        if match is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        if match["field"] not in allowed:
            raise bad_request(f"field label not supported: {match['field']}")
        terms.append((match["field"], match["value"], match["operator"] != "!="))
    return tuple(terms)


def _split(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    terms, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            terms.append(text[start:position])
            start = position + 1
    terms.append(text[start:])
    return [term.strip() for term in terms if term.strip()]


def _label_requirement(term: str, text: str) -> Requirement:
    set_based = _SET_BASED.fullmatch(term)
    if set_based:
        key = _key(set_based["key"], text)
        values = frozenset(_value(value.strip(), text) for value in set_based["values"].split(","))
        if set_based["operator"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    equality = _EQUALITY.fullmatch(term)
    if equality:
        key, value = _key(equality["key"], text), _value(equality["value"], text)
        if equality["operator"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if term.startswith("!"):
        absent = _key(term[1:].strip(), text)
        return lambda labels: absent not in labels
    present = _key(term, text)
    return lambda labels: present in labels


def _key(key: str, text: str) -> str:
    prefix, _, name = key.rpartition("/")
    if not _LABEL_KEY.fullmatch(key) or len(name) > 63 or len(prefix) > 253:
        raise bad_request(f"unable to parse requirement: invalid label key {key!r} in selector {text!r}")
    return key


def _value(value: str, text: str) -> str:
    if not _LABEL_VALUE.fullmatch(value):
        raise bad_request(f"unable to parse requirement: invalid label value {value!r} in selector {text!r}")
    return value


def _field(obj: Json, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path in ("spec.hostNetwork", "spec.unschedulable") else ""
    return str(value)
