"""Pure: single parameters of a request's query, read as the Kubernetes API reads them."""

from __future__ import annotations

from collections.abc import Mapping

from podrelay_local_cluster.objects.errors import bad_request, invalid_options, unsupported_value


def is_true(value: str | None) -> bool:
    """Whether a boolean parameter is set: present, and neither ``false`` nor ``0``."""
    return value is not None and value.lower() not in ("false", "0")


def integer(query: Mapping[str, str], name: str) -> int | None:
    """None for an absent or empty parameter. Raises `StatusError` 400 for text that is not a whole number."""
    value = query.get(name)
    if value is None or value == "":
        return None
    try:
        return int(value)
    except ValueError as exc:
        raise bad_request(f'{name}: Invalid value: "{value}": must be an integer') from exc


def is_dry_run(values: list[str], options: str) -> bool:
    """Raises `StatusError` 422, which names the kind of options, for any value but ``All``."""
    if any(value != "All" for value in values):
        raise invalid_options(options, unsupported_value("dryRun", values, ["All"]))
    return bool(values)
