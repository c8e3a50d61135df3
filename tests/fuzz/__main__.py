"""Feed random input to everything that podrelay must not trust, and judge what became of it. Prints one row per part."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import tests.conftest  # noqa: F401 - the environment of the tests, before anything imports Airflow
from tests.fuzz import api_part, cluster_part, redis_part, watch_part
from tests.fuzz.part import HEAD, Report

PARTS: dict[str, Callable[[Path, int, int], Report]] = {
    "redis": redis_part.run,
    "watch": watch_part.run,
    "api": api_part.run,
    "local-cluster": cluster_part.run,
}


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`, which end what was started
    _prepare()
    bad = False
    print(HEAD, flush=True)
    for part in PARTS if options.part == "all" else (options.part,):
        with tempfile.TemporaryDirectory(prefix="podrelay-fuzz-", ignore_cleanup_errors=True) as folder:
            report = PARTS[part](Path(folder) / part, options.count, options.seed)
        print(report.line(), flush=True)
        for text in (*report.notes, *report.wrong):
            print(f"  {text}", file=sys.stderr)
        bad = bad or bool(report.wrong)
    return 1 if bad else 0


def _prepare() -> None:
    from airflow import settings
    from airflow.utils.db import initdb

    settings.initialize()
    initdb()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--part", default="all", choices=["all", *PARTS], help="default: all, one after another")
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each part (default 10000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs (default 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
