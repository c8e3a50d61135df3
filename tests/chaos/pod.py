"""What each pod runs: take the task as a worker does, leave a line in the file of all runs, say that it ended well.

Run by `python -S -E`, for three hundred pods share two cores; so nothing but the standard library's cheapest parts.
Arguments: port of the task API, file of all runs, seconds to run, socket of `tests.chaos.warm_pods` or `-`, then the command
that podrelay's pod was given. A warm pod lives in a process of that server, and this one stands for it.
"""

import json
import os
import signal
import socket
import sys
import time

WARM = "podrelay_workers.warm_pod"


def post(port: int, path: str) -> int:
    """The status of the answer; asks again while there is none, as Airflow's task SDK does."""
    for _ in range(60):
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(f"POST {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
                answer = b""
                while part := connection.recv(4096):
                    answer += part
            status = int(answer.split(b" ", 2)[1])
            if status < 500:
                return status
        except (OSError, IndexError, ValueError):
            pass
        time.sleep(0.5)
    return 0


def note(path: str, line: str) -> None:
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(out, f"{line}\n".encode())
    os.close(out)


def run_task(port: int, runs: str, seconds: float, workload: str, host: str) -> int:
    """The task of this workload, in a pod that reports this host name; the pod's exit code."""
    task = json.loads(workload)["ti"]["id"]
    note(runs + ".given", f"{task} {host}")
    if post(port, f"/run/{task}/{host}") != 200:
        return 1
    note(runs, f"{task} {host} {time.time():.3f}")
    time.sleep(seconds)
    return 0 if post(port, f"/end/{task}/{host}") == 200 else 1


def stand_for(server: str) -> int:
    """Hand arguments, environment and output to the server, pass SIGTERM on, and end as the warm pod does. When this process
    is killed, the connection closes, and the server kills the warm pod.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(server)
        order = json.dumps({"words": sys.argv[1:], "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [order], [1, 2])
        signal.signal(signal.SIGTERM, lambda *_: connection.send(b"TERM"))
        code = connection.recv(16)
    return int(code or 137)


def main() -> int:
    port, runs, seconds, server, *command = sys.argv[1:]
    if WARM in command:
        return stand_for(server)
    return run_task(int(port), runs, float(seconds), command[-1], os.environ["HOSTNAME"])


if __name__ == "__main__":
    sys.exit(main())
