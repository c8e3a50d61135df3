"""JSON in a fifth of the time that json takes, which does what msgspec refuses: half of a surrogate pair. Pure.

Used for messages and jobs in Redis, and by launchers and watchers for what they exchange with the API server.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def encoded(value: Any) -> bytes:
    """The value as JSON without spaces, in UTF-8.

    :raises TypeError, ValueError, RecursionError: JSON cannot represent it.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        return json.dumps(value, separators=(",", ":")).encode()


def parsed(text: bytes | str) -> Any:
    """The document.

    :raises ValueError, RecursionError: the text is not JSON.
    """
    try:
        return msgspec.json.decode(text)
    except (ValueError, msgspec.MsgspecError):
        return json.loads(text)
