"""Pure: the checks of a real API server on the resources that a container requests and is limited to."""

from __future__ import annotations

from collections.abc import Iterator

from podrelay_local_cluster.objects.errors import FieldError, invalid_value, required
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.quantity import amount, canonical_values

_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"


def check_resources(path: str, resources: Json) -> list[FieldError]:
    """Check names and amounts of valid quantities. What is limited and not requested counts as requested."""
    limits = canonical_values(resources.get("limits") or {})
    requests = {**limits, **canonical_values(resources.get("requests") or {})}
    return [*_values(f"{path}.limits", limits), *_values(f"{path}.requests", requests), *_pairs(path, requests, limits)]


def _values(path: str, values: Json) -> Iterator[FieldError]:
    for name, value in values.items():
        field = f"{path}[{name}]"
        if "/" not in name and not _is_standard(name):
            yield invalid_value(field, name, "must be a standard resource type or fully qualified")
            yield invalid_value(field, name, "must be a standard resource for containers")
        if amount(value) < 0:
            yield invalid_value(field, value, "must be greater than or equal to 0")
        if not _is_standard(name) and amount(value).denominator != 1:
            yield invalid_value(field, value, "must be an integer")


def _pairs(path: str, requests: Json, limits: Json) -> Iterator[FieldError]:
    """What is requested beside its limit."""
    for name, value in requests.items():
        divisible = name in _STANDARD
        if name not in limits:
            if not divisible:
                yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        elif not divisible and amount(value) != amount(limits[name]):
            yield invalid_value(f"{path}.requests", value, f"must be equal to {name} limit of {limits[name]}")
        elif amount(value) > amount(limits[name]):
            yield invalid_value(
                f"{path}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}"
            )


def _is_standard(name: str) -> bool:
    return name in _STANDARD or name.startswith(_HUGE_PAGES)
