"""Pure: the headers that a user's Kubernetes client adds to each request. Used by `credentials`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Headers = list[tuple[str, str]]

# What the client libraries call themselves as long as nobody names them.
_GENERATED = ("OpenAPI-Generator/", "Swagger-Codegen/")


def headers_of_client(client: Any, user_agent: str) -> Headers:
    """Default headers, cookie and user agent of a client, as they are now; `user_agent` is appended to the client's.

    :param client: an `ApiClient` of either library; None for no client.
    """
    defaults = getattr(client, "default_headers", None) or {}
    cookie = getattr(client, "cookie", None)
    found = [(str(name), str(value)) for name, value in defaults.items() if value is not None]
    theirs = next((value for name, value in found if name.lower() == "user-agent"), "")
    if theirs and not theirs.startswith(_GENERATED):
        user_agent = f"{theirs} {user_agent}"
    if cookie:
        found = merged(found, [("Cookie", str(cookie))])
    return merged(found, [("User-Agent", user_agent)])


def merged(*layers: Iterable[tuple[str, str]]) -> Headers:
    """A header of a later layer replaces those of that name in earlier ones; within a layer a name may be repeated."""
    found: Headers = []
    for layer in layers:
        entries = list(layer)
        names = {name.lower() for name, _ in entries}
        found = [entry for entry in found if entry[0].lower() not in names] + entries
    return found
