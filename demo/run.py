"""`make demo` and `make up`: start the stack, run the demo DAG, show the result, then clean up or keep running."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import redis

from demo import progress
from demo.airflow_api import AirflowApi, ApiError, TaskState
from demo.processes import StackError
from demo.stack import TROUBLED_NAMESPACES, USER, Shape, Stack
from podrelay.protocol.redis_keys import RedisKeys

DAG_ID = "podrelay_demo"
TROUBLES_DAG_ID = "podrelay_troubles"
_RUN_LIMIT_S = 300.0
_OVER = ("success", "failed")


class _Stopped(BaseException):
    """A stop signal arrived. Not an Exception, so that no handler of errors catches it."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number


class Screen:
    """Shows progress: in place on a terminal, otherwise one line for each change."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._last = ""

    def show(self, text: str, *, changed: bool = True) -> None:
        """:param changed: whether anything but the time differs from the last call. If not, plain output skips it."""
        if self._in_place:
            print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
            self._last = text
        elif changed:
            print(text, flush=True)

    def print(self, text: str) -> None:
        """Print lines that stay on the screen."""
        if self._last:
            print()
        self._last = ""
        print(text, flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--stay", action="store_true", help="keep everything running, with rq-dashboard, until Ctrl-C"
    )
    stay: bool = arguments.parse_args().stay
    home = Path(tempfile.mkdtemp(prefix="podrelay-"))
    screen = Screen()
    keep_logs = False
    try:
        _on_stop_signals(_stop)
        stack = Stack(
            home, Shape(dashboard=stay, namespaces=TROUBLED_NAMESPACES), lambda what: screen.show(f"starting: {what}")
        )
        try:
            keep_logs = not _run(stack, screen, stay)
        finally:
            _on_stop_signals(signal.SIG_IGN)
            stack.stop()
    except _Stopped as stopped:
        screen.print("stopped; nothing is left running")
        return 128 + stopped.signal_number
    except (StackError, ApiError) as error:
        screen.print(f"podrelay: {error}")
        keep_logs = True
    finally:
        if keep_logs:
            screen.print(f"The logs are in {home / 'processes'} (processes) and {home / 'logs'} (tasks).")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return 1 if keep_logs else 0


def _run(stack: Stack, screen: Screen, stay: bool) -> bool:
    """Start the stack, run the DAG, print the table; with `stay` wait for a signal. Returns whether the run succeeded."""
    began = time.monotonic()
    stack.start()
    stack.processes.wait_for("The demo DAG", lambda: _dag_is_there(stack.api), 60, pause_s=0.5)
    screen.print(f"started in {time.monotonic() - began:.0f} s; triggering {DAG_ID}")
    run_id = stack.api.trigger(DAG_ID)
    state, tasks = _follow(stack, run_id, screen)
    _let_pods_end(stack.redis_url, run_id)
    screen.print(progress.table(read_launches(stack.redis_url, run_id), tasks))
    if state == "success":
        screen.print(f"The run succeeded: {len(tasks)} tasks.")
    else:
        screen.print(f"The run ended as {state}: {_what_failed(tasks)}.")
    if stay:
        screen.print(
            f"Airflow:      {stack.airflow_url}  (user {USER}, password {stack.password})\n"
            f"podrelay:     {stack.airflow_url}/plugin/podrelay  (what waits and why, processes, the last 24 hours)\n"
            f"rq-dashboard: {stack.dashboard_url}  (same user and password)\n"
            f"In another terminal:\n  . {shlex.quote(str(stack.environment_file))}\n"
            "  airflow podrelay status\n"
            f"  airflow dags trigger {TROUBLES_DAG_ID}   # tasks that wait and fail for the usual reasons\n"
            "  kubectl get pods,events\n"
            "Press Ctrl-C to stop everything."
        )
        while True:
            stack.processes.check()
            time.sleep(1)
    return state == "success"


def _follow(stack: Stack, run_id: str, screen: Screen) -> tuple[str, list[TaskState]]:
    """Show the progress of the run until it ends; return its state and its tasks.

    :raises StackError: a process exited, or the run takes too long.
    """
    began = time.monotonic()
    last: object = None
    while True:
        stack.processes.check()
        state = stack.api.run_state(DAG_ID, run_id)
        tasks = stack.api.tasks(DAG_ID, run_id)
        steps = progress.count(tasks, read_launches(stack.redis_url, run_id))
        elapsed_s = time.monotonic() - began
        screen.show(progress.line(elapsed_s, steps), changed=steps != last)
        last = steps
        if state in _OVER:
            return state, tasks
        if elapsed_s > _RUN_LIMIT_S:
            waiting = ", ".join(f"{task.label} {task.state}" for task in tasks if task.state not in _OVER)
            raise StackError(f"the run did not finish within {_RUN_LIMIT_S:g} s: {waiting}")
        time.sleep(0.5)


def _let_pods_end(redis_url: str, run_id: str) -> None:
    """Wait a short time for the ends of the pods, which the table shows: a pod ends a few seconds after its task."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not all(launch.t_finished for launch in read_launches(redis_url, run_id)):
        time.sleep(0.3)


def read_launches(redis_url: str, run_id: str) -> list[progress.Launch]:
    """The launches of one run, from the ledger. Scans all of it: the ledger of the demo is small."""
    with redis.Redis.from_url(redis_url, decode_responses=True, socket_timeout=2) as client:
        prefix = RedisKeys().launch_prefix
        keys = list(client.scan_iter(match=prefix + "*", count=1000))
        return progress.Launch.of_run({key.removeprefix(prefix): client.hgetall(key) for key in keys}, run_id)


def _dag_is_there(api: AirflowApi) -> bool:
    errors = api.import_errors()
    if errors:
        raise StackError(f"the DAG cannot be imported:\n{errors[0]}")
    return api.dag_is_known(DAG_ID)


def _what_failed(tasks: list[TaskState]) -> str:
    failed = [task.label for task in tasks if task.state == "failed"]
    return f"{', '.join(failed)} failed" if failed else "no task failed"


def _on_stop_signals(action: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, action)


def _stop(number: int, _: FrameType | None) -> None:
    # Stopping takes seconds and has its own time limits: a second Ctrl-C must not interrupt it.
    _on_stop_signals(signal.SIG_IGN)
    raise _Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
