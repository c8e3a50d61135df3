"""Pure: quantities of resources ("Quantity" in the API reference), such as `500m`, `1.5Gi` or the number 1."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from podrelay_local_cluster.objects.json_text import Json

_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([eE][+-]?[0-9]{1,3}|[numkMGTPE]|[KMGTPE]i)?")
_DECIMAL = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_THOUSANDS = {suffix: power for power, suffix in _DECIMAL.items()}
_SMALLEST = Fraction(1, 10**9)
_THOUSANDTH = Fraction(1, 1000)


def is_quantity(value: object) -> bool:
    """Whether the value is a quantity: text of that form, a number, or null, which is 0."""
    return not isinstance(value, (bool, dict, list)) and _parts(value) is not None


def amount(value: object, step: Fraction = _SMALLEST) -> Fraction:
    """The number that a quantity stands for, rounded up to a multiple of `step`. Raises ValueError."""
    parts = _parts(value)
    if parts is None:
        raise ValueError(f"not a quantity: {value!r}")
    number, suffix = parts
    exact = Fraction(number) * _factor(suffix)
    steps = math.ceil(abs(exact) / step)
    return step * (steps if exact >= 0 else -steps)


def canonical(value: object, step: Fraction = _SMALLEST) -> str:
    """The text by which an API server returns the quantity: the largest suffix without a fraction. Raises ValueError."""
    number, parts = amount(value, step), _parts(value)
    suffix = parts[1] if parts else ""
    if suffix.endswith("i") and number.denominator == 1 and abs(number) >= 1024:
        return _scaled(int(number), 1024, _BINARY)
    nanos = int(number / _SMALLEST)
    power = -3
    while nanos and nanos % 1000 == 0 and power < max(_DECIMAL):
        nanos, power = nanos // 1000, power + 1
    if nanos == 0:
        return "0"
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return f"{nanos}e{power * 3}" if power else str(nanos)
    return f"{nanos}{_DECIMAL[power]}"


def canonical_values(values: Json) -> Json:
    """A copy of a resource list, such as the `limits` of a container: canonical, rounded up to thousandths."""
    return {name: canonical(value, _THOUSANDTH) for name, value in values.items()}


def _scaled(number: int, base: int, suffixes: tuple[str, ...]) -> str:
    power = 0
    while number % base == 0 and power < len(suffixes) - 1:
        number, power = number // base, power + 1
    return f"{number}{suffixes[power]}"


def _parts(value: Any) -> tuple[str, str] | None:
    match = _QUANTITY.fullmatch("0" if value is None else str(value).strip())
    return (match[1], match[2] or "") if match else None


def _factor(suffix: str) -> Fraction:
    if suffix in _THOUSANDS:
        return Fraction(1000) ** _THOUSANDS[suffix]
    if suffix in _BINARY:
        return Fraction(1024) ** _BINARY.index(suffix)
    return Fraction(10) ** int(suffix[1:])
