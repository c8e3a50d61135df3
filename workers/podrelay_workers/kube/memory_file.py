"""Files that exist in memory only: for code that reads certificates and keys from paths, never from values.

Python's `ssl` reads a client certificate from files only, and the client libraries write what a kubeconfig holds to temporary
files. Used by `credentials` and `credential_loader`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from podrelay_workers.kube.plain_configuration import File


@contextmanager
def path_of(file: File) -> Iterator[str | None]:
    """A path at which this can be read, within the block only. Without memory files, a temporary file of this user."""
    if not isinstance(file, bytes):
        yield file
    elif hasattr(os, "memfd_create"):
        fd, path = mkstemp()
        try:
            os.write(fd, file)
            yield path
        finally:
            os.close(fd)
    else:
        with tempfile.NamedTemporaryFile() as written:
            written.write(file)
            written.flush()
            yield written.name


@contextmanager
def for_temporary_files() -> Iterator[None]:
    """What `tempfile.mkstemp` makes is in memory; without memory files, in a folder that is deleted after the block.

    For a process that has nothing else to do.
    """
    if hasattr(os, "memfd_create"):
        tempfile.mkstemp = mkstemp  # type: ignore[assignment]
        yield
    else:
        with tempfile.TemporaryDirectory() as folder:
            tempfile.tempdir = folder
            yield


def mkstemp(*_: Any, **__: Any) -> tuple[int, str]:
    """Like `tempfile.mkstemp`: Linux only, and gone when the descriptor is closed. No program that is started inherits it."""
    fd = os.memfd_create("podrelay")
    return fd, f"/proc/self/fd/{fd}"
