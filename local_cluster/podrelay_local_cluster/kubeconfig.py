"""The kubeconfig by which every client reaches the local cluster; used by `server`.

The address contains the token as its first path segment, in addition to the user's bearer token: kubectl and every other
client-go program send no bearer token over plain HTTP, but all clients keep the path prefix of the server's address.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

NAME = "local-cluster"
TOKEN_PREFIX = "/token/"


def server_url(port: int) -> str:
    """The address for clients that send the bearer token."""
    return f"http://127.0.0.1:{port}"


def text(port: int, token: str, namespace: str) -> str:
    """A kubeconfig as JSON, which is also valid YAML."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": f"{server_url(port)}{TOKEN_PREFIX}{token}"}}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}],
        "current-context": NAME,
    }
    return json.dumps(config, indent=2) + "\n"


def write_private(path: Path, content: str) -> None:
    """Replace the file atomically, mode 0600: a reader sees the old or the new content, never a part. Makes no folder."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
