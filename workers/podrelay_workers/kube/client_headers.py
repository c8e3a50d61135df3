"""Pure: the headers that a user's Kubernetes client or kubeconfig adds to each request. Used by `credentials`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from podrelay.errors import ConfigError

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


def impersonation(user: Mapping[str, Any]) -> Headers:
    """Headers for `as`, `as-groups`, `as-uid` and `as-user-extra` of a kubeconfig's user. Both libraries ignore them.

    :raises ConfigError: fields of the wrong type, or groups without a user.
    """
    name, uid = user.get("as") or "", user.get("as-uid") or ""
    groups, extra = user.get("as-groups") or [], user.get("as-user-extra") or {}
    fits = isinstance(name, str) and isinstance(uid, str) and _are_texts(groups)
    if not fits or not isinstance(extra, dict) or not all(_are_texts(values) for values in extra.values()):
        raise ConfigError("as, as-groups, as-uid or as-user-extra of its user has the wrong type")
    if not name:
        if groups or uid or extra:
            raise ConfigError("as-groups, as-uid and as-user-extra of its user need as")
        return []
    found = [("Impersonate-User", name)]
    if uid:
        found.append(("Impersonate-Uid", uid))
    found += [("Impersonate-Group", group) for group in groups]
    for key, values in extra.items():
        found += [(f"Impersonate-Extra-{quote(str(key).lower(), safe='')}", value) for value in values]
    return found


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
