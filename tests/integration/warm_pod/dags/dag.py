"""Tasks that say what they see of their process, and end in different ways."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, task

BEGUN_S = time.time()


def reaches_database() -> list[str]:
    """What ways to Airflow's database there are."""
    ways = {
        "session": "from airflow.utils.session import create_session\nwith create_session() as s: s.connection()",
        "engine": "from airflow import settings; settings.engine.connect()",
        "scoped session": "from airflow import settings; settings.Session()",
        "configuration": "from airflow.configuration import conf; conf.get('database', 'sql_alchemy_conn').index('sqlite')",
    }
    found = []
    for name, code in ways.items():
        try:
            exec(code, {})
        except (RuntimeError, AttributeError, ValueError):
            continue
        found.append(name)
    return found


def seen(ti: Any) -> dict[str, Any]:
    """The process, its parent and its environment, as the task's code sees them."""
    descriptors = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            kind = str(path.readlink()).partition(":")[0]
        except OSError:  # that of the list itself
            continue
        descriptors.append("file" if Path(kind).exists() else kind)
    handlers = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    return {
        "argv": sys.argv,
        "original argv": sys.orig_argv,
        "main": sys.modules["__main__"].__spec__.name,  # type: ignore[union-attr]
        "main file": sys.modules["__main__"].__file__,
        "path": sys.path,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "host": ti.hostname,
        "signals": [getattr(handler, "__qualname__", str(handler)) for handler in handlers.values()],
        "threads": threading.active_count(),
        "descriptors": sorted(descriptors),
        "title of the supervisor": Path(f"/proc/{os.getppid()}/cmdline").read_bytes().rstrip(b"\0").decode(),
        "own group": os.getpgrp() == os.getpid(),
        "ways to the database": reaches_database(),
    }


class Stubborn(BaseOperator):
    """Runs until it is killed."""

    def execute(self, context: Any) -> None:
        Path(os.environ["NOTE"]).write_text(json.dumps({"began": True}))
        time.sleep(60)

    def on_kill(self) -> None:
        Path(os.environ["NOTE"]).write_text(json.dumps({"killed": True}))
        sys.exit(3)


def look(ti: Any = None) -> None:
    note = Path(os.environ["NOTE"])
    note.write_text(json.dumps({"module_s": BEGUN_S, "own_code_s": time.time(), **seen(ti)}))


def fail() -> None:
    raise ValueError("this task fails")


def die() -> None:
    os._exit(4)


for function in (look, fail, die):
    with DAG(function.__name__, schedule=None, start_date=datetime(2026, 1, 1)):
        task(task_id="own_code")(function)()
with DAG("stay", schedule=None, start_date=datetime(2026, 1, 1)):
    Stubborn(task_id="own_code")
