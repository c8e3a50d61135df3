"""What `airflow podrelay ...` does. Each command ends with one clear line, not a traceback, when an option is wrong.

The workers are imported by name and only here, when one is to be run: the scheduler's side does not depend on them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from podrelay.errors import ConfigError, PodrelayError

USAGE_ERROR = 2


def _one_line_errors(command: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], None]:
    @wraps(command)
    def run(args: argparse.Namespace) -> None:
        try:
            code = command(args)
        except ConfigError as error:
            print(f"podrelay: {error}", file=sys.stderr)
            sys.exit(USAGE_ERROR)
        except PodrelayError as error:
            print(f"podrelay: {error}", file=sys.stderr)
            sys.exit(1)
        sys.exit(code or 0)

    return run


def _worker(module: str) -> Any:
    return importlib.import_module(f"podrelay_workers.{module}")


def _log_to_stderr() -> None:
    """A worker's log is plain lines on stderr: it is run by a supervisor or in a container."""
    from airflow.configuration import conf

    level = conf.get("logging", "logging_level", fallback="INFO").upper()
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )


@_one_line_errors
def launcher(args: argparse.Namespace) -> int:
    """Run one launcher until SIGTERM."""
    _log_to_stderr()
    return int(_worker("launcher.process").run(team=args.team))


@_one_line_errors
def watcher(args: argparse.Namespace) -> int:
    """Run one watcher until SIGTERM."""
    _log_to_stderr()
    return int(_worker("watcher.process").run(team=args.team))


@_one_line_errors
def local_cluster(args: argparse.Namespace) -> int:
    """Run the local cluster until SIGTERM."""
    argv = ["--port", str(args.port), "--kubeconfig-out", args.kubeconfig_out, "--namespaces", args.namespaces]
    argv += ["--runner", args.runner] + (["--data-dir", args.data_dir] if args.data_dir else [])
    try:
        local_cluster_main = importlib.import_module("podrelay_local_cluster.main")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "The local cluster is not installed: run `pip install ./local_cluster` in a checkout of podrelay."
        ) from error
    return int(local_cluster_main.main(argv) or 0)


@_one_line_errors
def dashboard(args: argparse.Namespace) -> int:
    """Run rq-dashboard with our serializer."""
    from podrelay.cli.dashboard import run_dashboard

    return run_dashboard(args.bind, args.port)


@_one_line_errors
def status(args: argparse.Namespace) -> int:
    """Print what Redis knows of everything or of one launch, or whether the processes of this host are ready."""
    from podrelay.cli.status import describe_launch, overview, probe, render_launch, render_overview

    if args.probe:
        alive, line = probe(args.probe, args.team)
        print(line)
        return 0 if alive else 1
    if args.launch:
        entry = describe_launch(args.launch)
        if not entry:
            print(
                f"podrelay: no launch {args.launch} in the ledger; it forgets launches after [podrelay] ledger_ttl_s."
            )
            return 1
        print(json.dumps(entry, indent=2) if args.json else render_launch(entry))
        return 0
    found = overview(args.team, time.time())
    print(json.dumps(found, indent=2) if args.json else render_overview(found))
    return 0


@_one_line_errors
def check(args: argparse.Namespace) -> int:
    """Try each thing that podrelay needs, say what is wrong with it, and exit with 1 if anything is."""
    from podrelay.cli.check import run_checks

    failed = 0
    for item in run_checks(args.team, args.process):
        print(f"{'ok  ' if item.ok else 'FAIL'} {item.what}: {item.detail}")
        failed += not item.ok
    return 1 if failed else 0
