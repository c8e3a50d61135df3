"""Reading a container's log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.cluster_api import NamespaceApi, held, pod, status_of

TWO = [
    {"name": "a", "image": "i", "command": ["echo", "from a"]},
    {"name": "b", "image": "i", "command": ["echo", "from b"]},
]


@pytest.fixture
def lines(api: NamespaceApi) -> NamespaceApi:
    """A pod p that has written the lines one, two, three, and four without a newline."""
    api.create(pod("p", "sh", "-c", "echo one; echo two >&2; echo three; printf four"))
    api.wait_phase("p", "Succeeded")
    return api


def test_whole(lines: NamespaceApi) -> None:
    assert lines.log("p") == "one\ntwo\nthree\nfour\n"
    assert lines.log("p", follow="true") == "one\ntwo\nthree\nfour\n"


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"tailLines": "2"}, "three\nfour\n"),
        ({"tailLines": "0"}, ""),
        ({"tailLines": "99"}, "one\ntwo\nthree\nfour\n"),
        ({"limitBytes": "6"}, "one\ntw"),
        ({"tailLines": "2", "limitBytes": "5"}, "three"),
        ({"sinceSeconds": "600"}, "one\ntwo\nthree\nfour\n"),
        ({"sinceTime": "2999-01-01T00:00:00Z"}, ""),
        ({"container": "base"}, "one\ntwo\nthree\nfour\n"),
    ],
)
def test_parts(lines: NamespaceApi, params: dict[str, str], text: str) -> None:
    assert lines.log("p", **params) == text


def test_timestamps(lines: NamespaceApi) -> None:
    stamped = lines.log("p", timestamps="true", tailLines="1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z four\n", stamped)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"container": "none"}, "container none is not valid for pod p"),
        ({"previous": "true"}, 'previous terminated container "base" in pod "p" not found'),
        ({"tailLines": "x"}, "tailLines"),
        ({"tailLines": "-1"}, "tailLines"),
        ({"limitBytes": "0"}, "limitBytes"),
        ({"sinceTime": "yesterday"}, "sinceTime"),
    ],
)
def test_refused(lines: NamespaceApi, params: dict[str, str], text: str) -> None:
    status = status_of(lines.request("GET", "/p/log", params=params), 400, "BadRequest")
    assert text in status["message"]


def test_missing_pod(api: NamespaceApi) -> None:
    status_of(api.request("GET", "/none/log"), 404, "NotFound")


def test_several_containers(api: NamespaceApi) -> None:
    api.create(pod("p", containers=TWO))
    api.wait_phase("p", "Succeeded")
    status = status_of(api.request("GET", "/p/log"), 400, "BadRequest")
    assert "a container name must be specified for pod p, choose one of: [a b]" in status["message"]
    assert api.log("p", container="b") == "from b\n"


def test_waiting_container(api: NamespaceApi) -> None:
    api.create(held())
    status = status_of(api.request("GET", "/p/log"), 400, "BadRequest")
    assert status["message"] == 'container "base" in pod "p" is waiting to start: ContainerCreating'


def test_follow_sends_each_line_when_it_is_written(api: NamespaceApi, tmp_path: Path) -> None:
    program = f"for n in 1 2 3; do echo $n; while ! test -e {tmp_path}/$n; do sleep 0.05; done; done"
    api.create(pod("p", "sh", "-c", program))
    api.wait_phase("p", "Running")
    with api.client.stream("GET", f"{api.path}/p/log", params={"follow": "true"}) as response:
        lines = response.iter_lines()
        for number in "123":  # the container continues only after its line was read
            assert next(lines) == number
            (tmp_path / number).touch()
        assert list(lines) == []


def test_long_lines_and_bytes_that_are_not_text(api: NamespaceApi) -> None:
    api.create(
        pod("p", "python", "-c", r"import sys; sys.stdout.buffer.write(b'\xff' * 3 + b'x' * 50_000 + b'\nend\n')")
    )
    api.wait_phase("p", "Succeeded")
    content = api.request("GET", "/p/log").content
    assert content.replace(b"\n", b"") == b"\xff" * 3 + b"x" * 50_000 + b"end"


def test_much_output(api: NamespaceApi) -> None:
    api.create(pod("p", "sh", "-c", "seq 200000"))
    api.wait_phase("p", "Succeeded")
    assert api.log("p").splitlines()[-1] == "200000"
    assert len(api.log("p").splitlines()) == 200_000
