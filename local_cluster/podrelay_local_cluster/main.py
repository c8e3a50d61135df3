"""The command line: start a local cluster in this process and serve until SIGTERM or SIGINT.

The kubeconfig is written last: once it exists, the server accepts requests. Exit codes: 0 after a signal, 1 after an internal
error, 2 for options with which it cannot start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from podrelay_local_cluster.kubeconfig import server_url
from podrelay_local_cluster.options import ClusterOptions, Runner, StartError
from podrelay_local_cluster.server import ClusterServer

_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{8,}")
_TOKEN_RULE = "a token has at least 8 characters: letters, digits and _.~-"
_WANTED_FILES = 65_536
_GC_THRESHOLDS = (50_000, 20, 50)
"""Thousands of live pods are millions of live objects; the usual thresholds would spend most of the time on collections."""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the process exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        return run(_parse(argv))
    except StartError as exc:
        print(f"local cluster: {exc}", file=sys.stderr)
        return 2


def run_local_cluster(
    port: int,
    kubeconfig_out: Path,
    *,
    namespaces: Sequence[str] = ("default",),
    runner: str = "process",
    data_dir: Path | None = None,
    watch_window: int = 10_000,
    bookmark_interval_s: float = 60.0,
    crash_backoff_s: float = 10.0,
    pod_start_delay_s: float = 0.0,
    token: str | None = None,
) -> int:
    """Serve from Python code; returns the exit code after SIGTERM or SIGINT.

    Raises ValueError or `StartError` for invalid values.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise ValueError(_TOKEN_RULE)
    options = ClusterOptions(
        port=port,
        kubeconfig_out=Path(kubeconfig_out),
        namespaces=tuple(namespaces) or ("default",),
        runner=Runner(runner),
        data_dir=data_dir,
        watch_window=watch_window,
        bookmark_interval_s=bookmark_interval_s,
        crash_backoff_s=crash_backoff_s,
        pod_start_delay_s=pod_start_delay_s,
        token=token,
    )
    return run(options)


def run(options: ClusterOptions) -> int:
    """Serve until a signal; returns the process exit code. Raises `StartError`."""
    options.check()
    with _locked_directory(options.data_dir) as data_dir:
        return asyncio.run(_serve(options, data_dir))


async def _serve(options: ClusterOptions, data_dir: Path) -> int:
    stopped = _stop_on_signals()
    _raise_file_limit()
    cluster = ClusterServer(options, data_dir)
    try:
        await cluster.start()
    except StartError:
        await cluster.stop()
        raise
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    log.info("Local cluster ready at %s; kubeconfig: %s", server_url(cluster.port), options.kubeconfig_out)
    waits = [
        asyncio.create_task(stopped.wait(), name="wait for a signal"),
        asyncio.create_task(cluster.failed.wait(), name="wait for an internal error"),
    ]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await cluster.stop()
    return 1 if cluster.failed.is_set() else 0


def _stop_on_signals() -> asyncio.Event:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped


@contextlib.contextmanager
def _locked_directory(data_dir: Path | None) -> Iterator[Path]:
    """The data directory, locked against a second server; without one, a temporary directory that is removed at the end."""
    if data_dir is None:
        with tempfile.TemporaryDirectory(prefix="local-cluster-") as temporary:
            yield Path(temporary)
        return
    with _open_lock(data_dir) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StartError(f"another local cluster uses {data_dir}") from exc
        yield data_dir


def _open_lock(data_dir: Path) -> IO[str]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return (data_dir / "lock").open("w")
    except OSError as exc:
        raise StartError(f"--data-dir {data_dir} cannot be used: {exc.strerror}") from exc


def _raise_file_limit() -> None:
    """Each pod and each client takes a few file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parse(argv: Sequence[str] | None) -> ClusterOptions:
    parser = argparse.ArgumentParser(
        prog="podrelay-local-cluster",
        description="Serve the pods part of the Kubernetes API on 127.0.0.1, with each pod a local process.",
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="TCP port; 0 (the default) takes a free port")
    add("--kubeconfig-out", type=Path, required=True, metavar="FILE", help="where to write the kubeconfig (mode 0600)")
    add(
        "--namespaces",
        type=_names,
        default=("default",),
        metavar="NAME[,NAME...]",
        help="namespaces to create; the kubeconfig selects the first",
    )
    add(
        "--runner",
        choices=[runner.value for runner in Runner],
        default=Runner.PROCESS.value,
        help="process (the default): each container is a local process; simulate: each container is a timer",
    )
    add(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="keep objects, logs, token, certificate, port here for the next start",
    )
    add("--watch-window", type=int, default=10_000, metavar="N", help="events kept for watches that resume (10000)")
    add("--bookmark-interval-s", type=float, default=60.0, metavar="S", help="seconds between bookmarks (60)")
    add(
        "--crash-backoff-s",
        type=float,
        default=10.0,
        metavar="S",
        help="first pause of CrashLoopBackOff in seconds (10)",
    )
    add(
        "--pod-start-delay-s",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds that each pod stays ContainerCreating, in place of an image pull and init containers (0)",
    )
    add("--token", type=_token, help="bearer token; random if not set")
    values = vars(parser.parse_args(argv))
    return ClusterOptions(**{**values, "runner": Runner(values["runner"])})


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) or ("default",)


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise argparse.ArgumentTypeError(_TOKEN_RULE)
    return text
