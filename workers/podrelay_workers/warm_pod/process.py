"""The process of a warm pod: import what a task needs, wait for a workload, run it as Airflow does, end.

Started as ``python -m podrelay_workers.warm_pod`` with a `WarmPodConfig`: as the only argument, or in the file that
``--json-path`` names. Without a workload it ends with EXIT_UNUSED, at once on SIGTERM. From the workload on it is the process
of `airflow.sdk.execution_time.execute_workload`: its output, signals and exit code are Airflow's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from podrelay.errors import ConfigError, MessageError
from podrelay.protocol.mailbox import EXIT_UNUSED, Delivery, MailboxKey
from podrelay.protocol.messages import WarmPodConfig
from podrelay.settings import load_settings
from podrelay_workers.runtime.logs import PlainFormatter
from podrelay_workers.warm_pod import workload
from podrelay_workers.warm_pod.inbox import DataLost, Inbox
from podrelay_workers.warm_pod.preload import may_fork, preload

_TITLE = "podrelay warm pod"
_USAGE = "arguments of podrelay_workers.warm_pod: its configuration as JSON, or --json-path FILE. Launchers write them."

log = logging.getLogger("podrelay_workers.warm_pod")


def main(argv: Sequence[str] | None = None, *, execute: Callable[[str], object] | None = None) -> int:
    """Run a warm pod.

    :param argv: the arguments behind the module's name.
    :param execute: what runs a workload, given as JSON, in place of Airflow's module.
    :return: EXIT_UNUSED, or 0 after the workload.
    :raises SystemExit: and any other exception: as `execute`.
    """
    usual = signal.signal(signal.SIGTERM, _end_unused)
    _hide_arguments()
    _log_to_stderr()
    try:
        delivery, from_file = _delivery(list(sys.argv[1:] if argv is None else argv))
    except (ConfigError, MessageError, DataLost) as error:
        log.error("%s", error)
        return EXIT_UNUSED
    if delivery is None:
        return EXIT_UNUSED
    signal.signal(signal.SIGTERM, usual)
    workload.report_host_of(delivery)
    run = execute or (workload.run_as_file if from_file else workload.run_as_argument)
    run(delivery.workload)
    return 0


def _delivery(argv: list[str]) -> tuple[Delivery | None, bool]:
    """The workload, None without one; and whether a file is to hold it.

    :raises ConfigError: the arguments or the address of Redis are invalid.
    :raises MessageError: what the arguments hold is.
    :raises DataLost: Redis has lost its data.
    """
    match argv:
        case ["--delivered" | "--delivered-to-file" as option, path]:
            return workload.decode_delivery(_bytes(path)), option == "--delivered-to-file"
        case ["--json-path", path]:
            return _wait(WarmPodConfig.decode(_bytes(path)), from_file=True), True
        case [text] if not text.startswith("-"):
            return _wait(WarmPodConfig.decode(text.encode(errors="replace")), from_file=False), False
    raise ConfigError(_USAGE)


def _wait(config: WarmPodConfig, *, from_file: bool) -> Delivery | None:
    from airflow.configuration import conf

    inbox = Inbox(load_settings(conf), config.deployment, MailboxKey.from_text(config.key))
    preload()
    try:
        delivery = inbox.wait(config.idle_s)
        if delivery is None:
            inbox.resign()
            log.info("No task within %g s: this warm pod ends.", config.idle_s)
            return None
    finally:
        inbox.close()
    if not may_fork():
        workload.run_in_new_interpreter(delivery, from_file=from_file)
    return delivery


def _bytes(path: str) -> bytes:
    """:raises ConfigError: the file cannot be read."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}, which the arguments of this warm pod name, cannot be read: {error}") from error


def _end_unused(_number: int, _frame: Any) -> None:
    """At once, whatever is being imported: there is nothing to finish, and what Redis holds about this pod expires."""
    os._exit(EXIT_UNUSED)


def _hide_arguments() -> None:
    """The arguments hold the key of the mailbox, and every user of the machine can list processes."""
    try:
        from setproctitle import setproctitle
    except ImportError:  # not on every platform
        return
    setproctitle(_TITLE)


def _log_to_stderr() -> None:
    """Airflow's own logging stays as it is; it is configured when the workload runs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
