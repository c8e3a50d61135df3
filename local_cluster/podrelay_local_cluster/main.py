"""Start a local cluster in this process and stay until SIGTERM or SIGINT; the command line of the package.

The kubeconfig is written last: when it is there, the server answers. Exit codes: 0 after a signal, 1 after a failure of
the server itself, 2 for a command line that makes no sense.
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
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from podrelay_local_cluster.kubectl.kubeconfig import server_url
from podrelay_local_cluster.options import Options, RunnerKind
from podrelay_local_cluster.server import LocalCluster

_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{8,}")
_WANTED_FILES = 65_536
_GC_THRESHOLDS = (50_000, 20, 50)
"""Thousands of live pods are millions of live objects; collecting them as often as usual would cost most of the time."""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run by the command line's arguments; the process exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    options = _parse(argv)
    return run(options)


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
    token: str | None = None,
) -> int:
    """The same for callers inside Python; returns after SIGTERM or SIGINT. Raises ValueError for bad values."""
    if token is not None and not _TOKEN.fullmatch(token):
        raise ValueError("a token has at least 8 characters, of letters, digits and _.~-")
    options = Options(
        port=port,
        kubeconfig_out=Path(kubeconfig_out),
        namespaces=tuple(namespaces) or ("default",),
        runner=RunnerKind(runner),
        data_dir=data_dir,
        watch_window=watch_window,
        bookmark_interval_s=bookmark_interval_s,
        crash_backoff_s=crash_backoff_s,
        token=token,
    )
    return run(options)


def run(options: Options) -> int:
    """Serve until a signal comes; the process exit code."""
    with _directory(options.data_dir) as data_dir:
        return asyncio.run(_serve(options, data_dir))


async def _serve(options: Options, data_dir: Path) -> int:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    _raise_file_limit()
    cluster = LocalCluster(options, data_dir)
    await cluster.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    log.info("local cluster on %s, kubeconfig %s", server_url(cluster.port), options.kubeconfig_out)
    waits = [asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(cluster.node.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await cluster.stop()
    return 1 if cluster.node.failed.is_set() else 0


@contextlib.contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    """The data directory, locked against a second server; a temporary one, removed at the end, when none is wanted."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="local-cluster-") as temporary:
            yield Path(temporary)
        return
    wanted.mkdir(parents=True, exist_ok=True)
    with (wanted / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise SystemExit(f"another local cluster uses {wanted}") from exc
        yield wanted


def _raise_file_limit() -> None:
    """Each pod takes a few file descriptors, and so does each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _parse(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="local-cluster",
        description="The pods part of the Kubernetes API on 127.0.0.1; each pod is a local process.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--kubeconfig-out", type=Path, required=True, help="where to write the kubeconfig (mode 0600)")
    parser.add_argument(
        "--namespaces", type=_names, default=("default",), help="comma-separated; the first is the default"
    )
    parser.add_argument("--runner", type=RunnerKind, choices=list(RunnerKind), default=RunnerKind.PROCESS)
    parser.add_argument("--data-dir", type=Path, help="keep objects, logs, token and port here for a later start")
    parser.add_argument("--watch-window", type=int, default=10_000, help="events kept for watches that resume")
    parser.add_argument("--bookmark-interval-s", type=float, default=60.0)
    parser.add_argument("--crash-backoff-s", type=float, default=10.0, help="first pause of CrashLoopBackOff")
    parser.add_argument("--token", type=_token, help="bearer token; random by default")
    return Options(**vars(parser.parse_args(argv)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) or ("default",)


def _token(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise argparse.ArgumentTypeError("at least 8 characters, of letters, digits and _.~-")
    return text
