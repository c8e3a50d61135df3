"""Loaders of credentials, forked from a process with Airflow as the first one of a worker is: Airflow is imported once."""

from __future__ import annotations

import os
import socket

from podrelay_workers.kube import credential_loader
from podrelay_workers.kube.loader_process import LoaderProcess
from tests.harness.launcher_rig import FORKSERVER


def forked_loader() -> LoaderProcess:
    """A loader with the environment of this process, which loads at once."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = FORKSERVER.Process(target=_answer, args=(dict(os.environ), theirs))
        process.start()
    return LoaderProcess(process.pid or 0, ours.detach())


def _answer(environment: dict[str, str], link: socket.socket) -> None:
    os.environ.clear()
    os.environ.update(environment)
    credential_loader.answer_once(link, None)
