"""Remove a launch's token from messages about its pod. Pure; used by `launch_job`.

The API server, an admission webhook or a user's hook may quote the pod that it refuses, whose arguments hold a token. Their
messages reach logs, the ledger, the task's event log and RQ's registry of failed jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from podrelay_workers.launcher.workload_secret import encoded

REDACTED = "***"

# A signed token, or what is left of one in a truncated message. Each of its parts begins like this.
_SIGNED = re.compile(r"eyJ[\w-]{10,}(?:\.[\w-]*){0,2}")
# This many characters identify a secret, because a message may be truncated within one.
_PREFIX = 12


def redact(text: str, args: Sequence[str]) -> str:
    """The text without the arguments of the pod that it is about, whole or truncated, and without any signed token."""
    for secret in sorted(_secrets(args), key=len, reverse=True):
        text = _without(text, secret)
    return _SIGNED.sub(REDACTED, text)


def _secrets(args: Sequence[str]) -> Iterator[str]:
    for before, arg in zip(("", *args), args, strict=False):
        if before == "-m":  # the name of a Python module
            continue
        try:
            document = json.loads(arg)
        except (ValueError, RecursionError):
            document = None
        # Quoting JSON inside JSON changes the argument, but not the token in it. A Secret holds it in base64.
        for secret in (arg, *_tokens(document), encoded(arg) if document is not None else ""):
            if len(secret) >= _PREFIX:
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
    while (found := text.find(secret[:_PREFIX], begin)) >= 0:
        end = found + _PREFIX
        while end < len(text) and end - found < len(secret) and text[end] == secret[end - found]:
            end += 1
        parts += [text[begin:found], REDACTED]
        begin = end
    return "".join([*parts, text[begin:]])
