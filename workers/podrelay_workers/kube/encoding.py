"""Reads the answers of the API server, and names fields as it does. Pure; used by `client` and `connection`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from podrelay.protocol.messages import Json
from podrelay_workers.kube.errors import Unreachable

# A continuation, the longest of such texts, names the last object of a page.
_PLAIN_MAX = 10_000


def decode_answer(text: bytes, decoder: Callable[[bytes], Any]) -> Json:
    """The JSON object of a complete answer.

    :raises Unreachable: it is something else, so it does not come from the API server.
    """
    try:
        document = decoder(text)
    except (ValueError, RecursionError) as error:
        raise Unreachable("the answer from the API server is not JSON", status=200) from error
    if not isinstance(document, dict):
        raise Unreachable("the answer from the API server is not a JSON object", status=200)
    return document


def decode_watch_line(line: bytes, decoder: Callable[[bytes], Any]) -> Json:
    """One event of a watch.

    :raises Unreachable: the line is not a complete event.
    """
    try:
        event = decoder(line)
    except (ValueError, RecursionError) as error:
        raise Unreachable("the watch ended within an event") from error
    if not isinstance(event, dict):
        raise Unreachable("the watch sent something that is not an event")
    return event


def metadata_of(document: Any) -> Json:
    """The metadata of an object; empty where it has none, as in an answer that a gateway made up."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def checked_pod(document: Any, name: str) -> Json:
    """The document, if it is the pod of this name as far as podrelay reads it: texts and maps in its metadata, its status.

    :raises Unreachable: it is something else, so it does not come from the API server.
    """
    metadata = metadata_of(document)
    texts = (metadata.get("namespace"), metadata.get("uid", ""), metadata.get("resourceVersion", ""))
    maps = (metadata.get("labels"), metadata.get("annotations"), document.get("status"))
    are_maps = all(part is None or isinstance(part, dict) for part in maps)
    if metadata.get("name") != name or not all(map(is_plain, texts)) or not are_maps:
        raise Unreachable("the answer from the API server is not the pod", status=200)
    return dict(document)


def is_plain(value: Any) -> bool:
    """Is this a text as the API server's names, ids and versions are: short, of printable ASCII? Others break a request."""
    return (
        isinstance(value, str) and len(value) <= _PLAIN_MAX and value.isascii() and (not value or value.isprintable())
    )


def camel_case(options: Any) -> Any:
    """The options with field names as in the API (`grace_period_seconds` becomes `gracePeriodSeconds`), at every depth."""
    if not isinstance(options, dict):
        return options
    return {
        re.sub("_([a-z])", lambda found: found[1].upper(), key): camel_case(value) for key, value in options.items()
    }
