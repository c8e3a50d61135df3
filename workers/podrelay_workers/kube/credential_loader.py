"""The process that loads credentials for a worker.

`loader_process` starts it and reads its messages, one JSON document a line:

waiting      `seconds` so far, the option (`source`) and the `program` that is waited for; again every few seconds
error        text for a ConfigError
here         true: only a client in the worker itself can be used, see `provider_client.load`
credentials  what `Credentials` is made of

The last three end it. A worker that ends closes the socket, which ends this process and the plugins that it has started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from podrelay.errors import ConfigError
from podrelay.protocol.messages import Json
from podrelay.teams import has_client_factory
from podrelay_workers.kube import exec_expiry, memory_file
from podrelay_workers.kube.plain_configuration import PlainConfiguration
from podrelay_workers.kube.unbounded_call import until_returned
from podrelay_workers.runtime import kubernetes_on_demand, logs

log = logging.getLogger(__name__)


def answer(descriptor: int) -> NoReturn:
    """What `LoaderProcess.start` runs: answer the question on this socket, and end."""
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)
    with link.makefile("rb") as lines:
        question = json.loads(lines.read())
    import airflow.settings  # noqa: F401 - configures logging when first imported, so import it before we do

    logs.configure(logs.LogOptions(**question["log"]))
    answer_once(link, question["team"])


def answer_once(link: socket.socket, team: str | None) -> NoReturn:
    """Load the credentials in this process, which has imported Airflow, report them on this socket, and end."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the worker handles the Ctrl-C that both get
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

        def report(**message: Json) -> None:
            link.sendall(json.dumps(message).encode() + b"\n")

        with memory_file.for_temporary_files():
            found = asyncio.run(_load(team, report))
        report(**found)
        code = 0
    except ConnectionError:
        log.debug("The worker has ended")
    except BaseException:  # noqa: BLE001 - the top of a process
        log.exception("Cannot load the credentials for the API server")
    finally:
        logging.shutdown()
        os._exit(code)  # threads that hang must not keep it


async def _load(team: str | None, report: Callable[..., None]) -> Json:
    kubernetes_on_demand.install()
    from podrelay_workers.kube import provider_client

    def wait(seconds: float, program: str) -> None:
        report(waiting={"seconds": seconds, "program": program, "source": provider_client.source(team)})

    def load() -> Json:
        credentials = asyncio.run(provider_client.load(team))
        configuration = credentials.configuration
        if not isinstance(configuration, PlainConfiguration):
            return {"here": True}
        found = {
            "configuration": configuration.as_json(),
            "keepalive": credentials.keepalive,
            "impersonated": credentials.impersonated,
            "lifetime_s": exec_expiry.lifetime_s(),
            "limits": {name: getattr(credentials, name) for name in ("connect_s", "request_s", "read_s")},
        }
        return {"credentials": found}

    if has_client_factory(team):
        return {"here": True}
    try:
        exec_expiry.record()
        return await until_returned(load, wait)
    except ConfigError as error:
        return {"error": str(error)}
