"""A copy of this process, which has imported what this one has, and answers through sockets.

Used by `command` to read the options, and by the start of each worker for what else needs Airflow then.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

_STDERR = 2


@dataclass(frozen=True)
class Copy:
    """A child process. `descriptors` are the sockets to it: whoever reads the last of them also waits for its end."""

    pid: int
    descriptors: tuple[int, ...]


def copy_process(work: Callable[..., int], links: int) -> Copy:
    """Call `work` with one end of each of so many sockets in a copy of this process, which ends with the code it returns.

    Ctrl-C in a terminal ends the copy; this process closes its ends then, or when it ends.
    """
    pairs = [socket.socketpair() for _ in range(links)]
    pid = os.fork()
    if pid == 0:
        _end_with(work, pairs)
    for _, theirs in pairs:
        theirs.close()
    return Copy(pid, tuple(ours.detach() for ours, _ in pairs))


def _end_with(work: Callable[..., int], pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    code = 1
    try:
        gc.disable()  # it would touch, and so copy, all memory that both still share
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for ours, _ in pairs:
            ours.close()
        code = work(*(theirs for _, theirs in pairs))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except ConnectionError:  # the process that was copied has ended
        pass
    except BaseException:  # noqa: BLE001 - the top of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without the rest of what the copied process would do at its end


def print_to_stderr() -> None:
    """From here on in a copy: plugins print warnings on stdout, which is for what a command answers."""
    sys.stdout.flush()
    os.dup2(_STDERR, 1)
