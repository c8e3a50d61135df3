"""Pure: what a typed server makes of JSON: a value of another type than its field is refused with 400, as not decodable.

Null in a list or a map becomes the empty value of its type, and null in a field is as good as no field, as on a real API
server. A null that a merge patch removes never gets here.
"""

from __future__ import annotations

from typing import Any

from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.objects.quantity import is_quantity
from podrelay_local_cluster.objects.schema import QUANTITY, Each

_INTEGER_MOST = 1 << 63
_NAMES = {str: "a string", int: "an integer", bool: "a boolean", float: "a number"}


def decoded(value: Any, schema: Any, path: str = "") -> Any:
    """The value as decoded; parts in which no null was replaced are the same objects as before.

    Raises `StatusError` 400, which names the field, for a value of another type.
    """
    if value is None:
        return None
    if isinstance(schema, type):
        if not _is(value, schema):
            raise bad_request(f"{path} must be {_NAMES[schema]}")
        return value
    if schema is QUANTITY:
        if not is_quantity(value):
            raise bad_request(f"{path}: quantities must match the regular expression of a quantity")
        return value
    return _list(value, schema[0], path) if isinstance(schema, list) else _fields(value, schema, path)


def _list(value: Any, schema: Any, path: str) -> Any:
    if not isinstance(value, list):
        raise bad_request(f"{path} must be a list")
    items = [decoded(_unless_null(item, schema), schema, f"{path}[{index}]") for index, item in enumerate(value)]
    return value if all(old is new for old, new in zip(value, items, strict=True)) else items


def _fields(value: Any, schema: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise bad_request(f"{path or 'the body'} must be an object")
    changed, nulls = {}, []
    for name, item in value.items():
        of_field = schema.values if isinstance(schema, Each) else schema.get(name)
        if of_field is None:
            continue
        if item is None and not isinstance(schema, Each):
            nulls.append(name)
            continue
        new = decoded(_unless_null(item, of_field), of_field, f"{path}.{name}" if path else name)
        if new is not item:
            changed[name] = new
    if not changed and not nulls:
        return value
    return {name: item for name, item in {**value, **changed}.items() if name not in nulls}


def _unless_null(value: Any, schema: Any) -> Any:
    if value is not None or schema is QUANTITY:
        return value
    return schema() if isinstance(schema, type) else [] if isinstance(schema, list) else {}


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and -_INTEGER_MOST <= value < _INTEGER_MOST
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)
