"""The process of a warm pod while it has no workload: how it ends, and what it says. Real processes on a real Redis."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from podrelay.protocol.mailbox import EXIT_UNUSED, MailboxKey
from podrelay.protocol.messages import WarmPodConfig
from tests.harness.warm_process import Process, WarmProcess, start, until

MODULE = "podrelay_workers.warm_pod"
KEY = MailboxKey.generate().text
GOOD = WarmPodConfig("default", "0" * 32, KEY, 60.0).encode().decode()


def ended_unused(process: Process) -> str:
    """The one line of a process that has ended without a workload."""
    assert (process.ended(), process.stdout.read_text()) == (EXIT_UNUSED, "")
    (line,) = process.stderr.read_text().splitlines()
    assert KEY not in line
    return line


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "--json-path FILE"),
        (["--what", "else"], "--json-path FILE"),
        ([GOOD, GOOD], "--json-path FILE"),
        (["nonsense"], "warm_pod_config message is not JSON"),
        (['{"is": "launch", "v": 1}'], "not a warm_pod_config message"),
        ([GOOD.replace('"v":1', '"v":2')], "message of format 2, and this process reads format 1"),
        ([GOOD.replace(KEY, KEY[:10])], "the key of a mailbox"),
        ([GOOD.replace("60.0", '"60"')], "field idle_s of a warm_pod_config message is missing or invalid"),
        (["--json-path", "/none/such"], "/none/such, which the arguments of this warm pod name, cannot be read"),
        (["--json-path", "/"], "/, which the arguments of this warm pod name, cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, words: list[str], text: str) -> None:
    assert text in ended_unused(start(tmp_path, MODULE, words, {}))


@pytest.mark.parametrize(
    ("option", "value"), [("redis_url", "redis://user:of-the-test@"), ("redis_sentinels", "no port")]
)
def test_a_wrong_option_is_one_line(tmp_path: Path, option: str, value: str) -> None:
    options = {f"AIRFLOW__PODRELAY__{option.upper()}": value}
    line = ended_unused(start(tmp_path, MODULE, [GOOD], options))
    assert option in line
    assert "of-the-test" not in line


def test_without_a_workload_it_ends_after_its_time(tmp_path: Path, redis_url: str) -> None:
    pod = WarmProcess(tmp_path, redis_url, {"AIRFLOW__PODRELAY__REDIS_URL": redis_url}, idle_s=1.5)
    pod.wait_alive()
    assert ended_unused(pod.process).endswith("No task within 1.5 s: this warm pod ends.")
    assert not pod.client.exists(pod.alive)


def test_after_a_loss_of_data_it_ends(tmp_path: Path, redis_url: str) -> None:
    pod = WarmProcess(tmp_path, redis_url, {"AIRFLOW__PODRELAY__REDIS_URL": redis_url})
    pod.wait_alive()
    pod.client.flushall()
    assert "Redis has lost its data" in ended_unused(pod.process)


@pytest.mark.parametrize("importing", [True, False])
def test_sigterm_ends_it_at_once(tmp_path: Path, redis_url: str, importing: bool) -> None:
    pod = WarmProcess(tmp_path, redis_url, {"AIRFLOW__PODRELAY__REDIS_URL": redis_url})
    popen = pod.process.popen
    if importing:
        until(lambda: b"podrelay warm pod" in Path(f"/proc/{popen.pid}/cmdline").read_bytes(), "its first step")
    else:
        pod.wait_alive()
    begun_s = time.monotonic()
    popen.send_signal(signal.SIGTERM)
    assert pod.process.ended() == EXIT_UNUSED
    assert time.monotonic() - begun_s < 1, "what is being imported, and Redis, are not waited for"
    assert pod.process.output() == ""


@pytest.mark.parametrize("from_file", [False, True])
def test_while_it_waits_it_is_one_quiet_thread(tmp_path: Path, redis_url: str, from_file: bool) -> None:
    pod = WarmProcess(tmp_path, redis_url, {"AIRFLOW__PODRELAY__REDIS_URL": redis_url}, from_file=from_file)
    pod.wait_alive()
    seen = psutil.Process(pod.process.popen.pid)
    assert pod.key.text not in " ".join(seen.cmdline())
    assert seen.cmdline()[0] == "podrelay warm pod"
    assert seen.num_threads() == 1
    # Its connection to Redis, which is closed before the task begins; none to Airflow's database.
    assert [connection.raddr.port for connection in seen.net_connections()] == [int(redis_url.split(":")[2][:-2])]
    assert not [file for file in seen.open_files() if file.path.endswith(".db")]
    assert pod.process.output() == ""
    seen.terminate()
    assert pod.process.ended() == EXIT_UNUSED
