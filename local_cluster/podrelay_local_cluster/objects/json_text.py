"""JSON values and their text, as every other module reads and writes them."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
"""A JSON object."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def to_json(value: object) -> bytes:
    """Compact JSON text, ASCII only, so that no text from a client can break the encoding."""
    return _encode(value).encode("ascii")
