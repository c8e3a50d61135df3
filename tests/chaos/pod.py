"""What each pod runs: take the task as a worker does, leave a line in the file of all runs, say that it ended well.

Run by `python -S -E`, for three hundred pods share two cores; so nothing but the standard library's cheapest parts.
Arguments: port of the task API, file of all runs, seconds to run, then the command that podrelay's pod was given.
"""

import json
import os
import socket
import sys
import time


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


def main() -> int:
    port, runs, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    task = json.loads(sys.argv[-1])["ti"]["id"]
    pod = os.environ["HOSTNAME"]
    if post(port, f"/run/{task}/{pod}") != 200:
        return 1
    out = os.open(runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(out, f"{task} {pod} {time.time():.3f}\n".encode())
    time.sleep(seconds)
    return 0 if post(port, f"/end/{task}/{pod}") == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
