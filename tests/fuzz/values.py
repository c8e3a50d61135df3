"""What the parts of a campaign are made of: odd texts, numbers, bytes and JSON."""

from __future__ import annotations

import json
import zlib
from typing import Any

from hypothesis import strategies as st

_LONG = 5000
ODD_NUMBERS = (
    "0", "-0", "1", "-1", "0.5", "-7", "nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "2147483648",
    "9223372036854775807", "-9223372036854775808", "18446744073709551615", "9" * 400, "1" * _LONG, "0x10", "1_0", "\u0663",
    " 1", "1 ",
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\n", "\x00", "a\x00b", "null", "true", "[]", "{}", '"', "\\", "%s", "$(X)", "\u00e9", "\u2028", "\U0001f600",
    "../..", "x" * 300, "x" * 70_000, "[" * _LONG, '{"a":' * _LONG,
)  # fmt: skip

numbers = st.sampled_from(ODD_NUMBERS) | st.integers().map(str) | st.floats().map(repr)
texts = st.sampled_from(ODD_TEXTS) | numbers | st.text(max_size=30)


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# What no text is: not UTF-8, and data as RQ compresses it.
_blobs = st.binary(max_size=40) | st.sampled_from(
    (
        b"\xff",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\x80" * 100,
        b"\x78",
        zlib.compress(b"[]"),
        zlib.compress(b"0" * 100_000),
    )
)
raw = texts.map(_bytes_of) | _blobs

_scalars: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.sampled_from((-1, 0, 1, 2**31, 2**63, 2**64, 10**400)) | st.floats()
    | texts.filter(lambda text: len(text) < 1000)
)  # fmt: skip
jsons: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(("name", "value")), inner, max_size=3)
    ),
    max_leaves=6,
)


def to_json(value: object) -> bytes:
    """As JSON text, which may hold what only Python's encoder writes (NaN); integers of any length."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def nested(depth: int, opening: str = "[", inner: str = "") -> bytes:
    closing = {"[": "]", '{"a":': "}"}[opening]
    return (opening * depth + (inner or "0") + closing * depth).encode()


# Mutations that keep the type get further than others.
_LIKE = {
    str: texts.filter(lambda text: len(text) < 400),
    int: st.integers(-2, 1000) | st.integers(),
    bool: st.booleans(),
}


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """The document with one or two of its parts replaced, removed or renamed, at any depth."""
    changed = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 2))):
        changed = _mutate(draw, changed)
    return changed


def _mutate(draw: st.DrawFn, value: Any) -> Any:
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner:
        return draw(_LIKE.get(type(value), jsons) if draw(st.booleans()) else jsons)
    if draw(st.integers(0, 5)) == 0:
        return draw(jsons)
    place = draw(st.sampled_from(inner))
    what = draw(st.integers(0, 9))
    if what == 0:
        del value[place]
    elif what == 1 and isinstance(value, dict):
        value[draw(texts.filter(lambda text: len(text) < 400))] = value[place]
    elif what == 1:
        value.append(value[place])
    else:
        value[place] = _mutate(draw, value[place])
    return value
