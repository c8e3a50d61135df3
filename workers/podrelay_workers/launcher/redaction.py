"""Takes a launch's token out of what others say about its pod. Pure; used by the launcher.

The API server, an admission webhook or a user's hook may quote the pod that they refuse, and its arguments hold a token.
What they say goes to logs, to the ledger, to the task's event log and to RQ's registry of failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

HIDDEN = "***"

# A signed token, or the part of one that was left when a message was cut. Each of its parts begins like this.
_SIGNED = re.compile(r"eyJ[\w-]{10,}(?:\.[\w-]*){0,2}")
# So much of a secret is enough to recognise it: a message may be cut in the middle of one.
_RECOGNISED = 12


def hide(text: str, args: Sequence[str]) -> str:
    """The text without the arguments of the pod that it speaks of, whole or cut, and without any signed token."""
    for secret in sorted(_secrets(args), key=len, reverse=True):
        text = _without(text, secret)
    return _SIGNED.sub(HIDDEN, text)


def _secrets(args: Sequence[str]) -> Iterator[str]:
    for before, arg in zip(("", *args), args, strict=False):
        if before == "-m":  # the name of a Python module
            continue
        try:
            document = json.loads(arg)
        except (ValueError, RecursionError):
            document = None
        # Inside quoted JSON the whole argument looks different, and its token does not.
        for secret in (arg, *_tokens(document)):
            if len(secret) >= _RECOGNISED:
                yield secret


def _tokens(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            if isinstance(value, str) and "token" in str(key).lower():
                yield value
            yield from _tokens(value)
    elif isinstance(document, list):
        for item in document:
            yield from _tokens(item)


def _without(text: str, secret: str) -> str:
    parts, begin = [], 0
    while (found := text.find(secret[:_RECOGNISED], begin)) >= 0:
        end = found + _RECOGNISED
        while end < len(text) and end - found < len(secret) and text[end] == secret[end - found]:
            end += 1
        parts += [text[begin:found], HIDDEN]
        begin = end
    return "".join([*parts, text[begin:]])
