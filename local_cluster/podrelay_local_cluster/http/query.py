"""Pure: single parameters of a request's query, read as the Kubernetes API reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from podrelay_local_cluster.objects.errors import bad_request, invalid_options, unsupported_value

_INTEGER, _VERSION = re.compile(r"[+-]?[0-9]{1,18}"), re.compile(r"[0-9]{1,19}")


def is_true(value: str | None) -> bool:
    """Whether a boolean parameter is set: present, and neither ``false`` nor ``0``."""
    return value is not None and value.lower() not in ("false", "0")


def integer(query: Mapping[str, str], name: str) -> int | None:
    """None for an absent or empty parameter. Raises `StatusError` 400 for text that is not a whole number."""
    value = query.get(name)
    if value is None or value == "":
        return None
    if not _INTEGER.fullmatch(value):
        raise bad_request(f'{name}: Invalid value: "{value}": must be an integer')
    return int(value)


def version(query: Mapping[str, str]) -> int | None:
    """The resource version of a request; None for an absent or empty one. Raises `StatusError` 400 for other text."""
    text = query.get("resourceVersion", "")
    if text and not _VERSION.fullmatch(text):
        raise bad_request(f'Invalid value: "{text}": resourceVersion is no version of this server')
    return int(text) if text else None


def is_dry_run(values: list[str], options: str) -> bool:
    """Raises `StatusError` 422, which names the kind of options, for any value but ``All``."""
    if any(value != "All" for value in values):
        raise invalid_options(options, unsupported_value("dryRun", values, ["All"]))
    return bool(values)
