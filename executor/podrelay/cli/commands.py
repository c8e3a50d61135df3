"""What each `airflow podrelay ...` command does. A wrong option ends a command with one line instead of a traceback.

The workers are imported by name, and only when one is to run: the scheduler's side does not depend on them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from podrelay.cli.optional import import_optional
from podrelay.cli.plain_text import printable, require_text
from podrelay.errors import ConfigError, DatabaseUnavailable, PodrelayError, RedisUnavailable

if TYPE_CHECKING:
    from podrelay.cli.task_launch import TaskTry

FAILURE = 1
USAGE_ERROR = 2
# Of `status`: whether all is well is unknown.
UNKNOWN = 2


def _one_line_errors(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], None]:
    """Turn podrelay's errors into one line on stderr, and the result into the exit code."""

    @wraps(command)
    def run(args: argparse.Namespace) -> None:
        try:
            require_text(vars(args).values())
            code = command(args)
        except PodrelayError as error:
            print(f"podrelay: {printable(str(error))}", file=sys.stderr)
            code = USAGE_ERROR if isinstance(error, ConfigError) else FAILURE
        sys.exit(code)

    return run


@_one_line_errors
def launcher(args: argparse.Namespace) -> int:
    """Run one launcher until SIGTERM."""
    return _run_worker("podrelay_workers.launcher.start", args.team)


@_one_line_errors
def watcher(args: argparse.Namespace) -> int:
    """Run one watcher until SIGTERM."""
    return _run_worker("podrelay_workers.watcher.start", args.team)


def _run_worker(module: str, team: str | None) -> int:
    for number in (signal.SIGHUP, signal.SIGUSR1):  # the worker handles them once it has started
        signal.signal(number, signal.SIG_IGN)
    worker: Any = importlib.import_module(module)
    return int(worker.run(team=team))


@_one_line_errors
def local_cluster(args: argparse.Namespace) -> int:
    """Run the local cluster until SIGTERM."""
    main = import_optional(
        "podrelay_local_cluster.main", "run `pip install ./local_cluster` in a checkout of podrelay."
    )
    argv = ["--port", str(args.port), "--kubeconfig-out", args.kubeconfig_out, "--namespaces", args.namespaces]
    argv += ["--runner", args.runner] + (["--data-dir", args.data_dir] if args.data_dir else [])
    return int(main.main(argv) or 0)


@_one_line_errors
def dashboard(args: argparse.Namespace) -> int:
    """Run rq-dashboard on podrelay's Redis until interrupted."""
    from podrelay.cli.dashboard import run_dashboard

    return run_dashboard(args.bind, args.port, args.read_only)


@_one_line_errors
def status(args: argparse.Namespace) -> int:
    """Show one cluster, one launch (`--launch`, `--task`), or the readiness of the processes of this host (`--probe`).

    The exit code is 0 if all is well, 1 if something is wrong, and 2 if that is unknown.
    """
    if args.probe:
        return _probe(args.probe, args.team)
    try:
        return _show_launch(args) if args.launch or args.task else _show_overview(args)
    except (RedisUnavailable, DatabaseUnavailable) as error:
        print(f"podrelay: {printable(str(error))}", file=sys.stderr)
        return UNKNOWN


def _show_overview(args: argparse.Namespace) -> int:
    from podrelay.cli.status import overview

    if args.watch:
        from podrelay.cli.status_live import watch

        watch(lambda: overview(args.team, time.time()), args.interval, as_json=args.json)
        return 0
    found = overview(args.team, time.time())
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        from rich.console import Console

        from podrelay.cli.status_text import overview_view, plain

        console = Console()
        console.print(overview_view(found)) if console.is_terminal else print(plain(overview_view(found)))
    return 0 if found["ok"] else FAILURE


def _probe(kind: str, team: str | None) -> int:
    from airflow.configuration import conf

    from podrelay.cli.probe import probe
    from podrelay.settings import load_settings

    ready, line = probe(kind, team, load_settings(conf, conf.get("core", "fernet_key", fallback="")).place)
    print(line)
    return 0 if ready else FAILURE


def _show_launch(args: argparse.Namespace) -> int:
    from podrelay.cli.launch import KnownLaunch
    from podrelay.cli.launch_text import launch_as_json, render_launch
    from podrelay.cli.status import describe_launch

    tries = _tries_of(args.task) if args.task else []
    name = args.launch or next(one.launch_id for one in reversed(tries) if one.launch_id)
    found = describe_launch(name, time.time()) or (KnownLaunch(name, {}) if tries else None)
    if found is None:
        raise PodrelayError(
            f"no launch {name[:100]} in the ledger. An entry expires [podrelay] ledger_ttl_s after the result was "
            "acknowledged; where a scheduler runs, --task DAG TASK RUN shows what Airflow's event log holds. The name of a "
            "warm pod says nothing about its launch: its label podrelay/launch-id does."
        )
    print(json.dumps(launch_as_json(found, tries), indent=2) if args.json else render_launch(found, time.time(), tries))
    return 0


def _tries_of(task: Sequence[str]) -> list[TaskTry]:
    from podrelay.cli.task_launch import tries_of

    if len(task) not in (3, 4) or not all(re.fullmatch(r"-?\d{1,9}", index) for index in task[3:]):
        raise ConfigError("--task takes a DAG id, a task id, a run id and, of a mapped task, its map index")
    dag_id, task_id, run_id = task[:3]
    return tries_of(dag_id, task_id, run_id, int(task[3]) if task[3:] else None)


@_one_line_errors
def drain(args: argparse.Namespace) -> int:
    """Order launchers to take nothing more."""
    from podrelay.cli.drain import drain as drained
    from podrelay.protocol.orders import EXIT, GO_ON, HOLD

    if bool(args.launcher) == args.all:
        raise ConfigError("name the launchers to drain, or use --all; airflow podrelay status lists them")
    if args.hold and args.undo:
        raise ConfigError("--undo ends --hold: use one of them")
    order = HOLD if args.hold else GO_ON if args.undo else EXIT
    for line in drained(args.launcher, args.team, order, args.timeout if args.wait else None):
        print(printable(line), flush=True)
    return 0


@_one_line_errors
def acl(args: argparse.Namespace) -> int:
    """Print the users of Redis."""
    from podrelay.cli.acl import acl_lines

    source = sys.stdin if args.password_stdin else None
    for line in acl_lines(args.team, args.process, args.format, redis_6=args.redis_6, password_from=source):
        print(line)
    return 0


@_one_line_errors
def check(args: argparse.Namespace) -> int:
    """Run every check and print it; exit with 1 if one failed."""
    from podrelay.cli.check import run_checks

    results = []
    for result in run_checks(args.team, args.process):
        results.append(result)
        if args.json:
            continue
        print(f"{'ok  ' if result.ok else 'FAIL'} {result.name}: {result.detail}")
        for warning in result.warnings:
            print(f"warn {result.name}: {warning}")
    ok = all(result.ok for result in results)
    if args.json:
        print(json.dumps({"ok": ok, "checks": [result.as_json() for result in results]}, indent=2))
    return 0 if ok else FAILURE
