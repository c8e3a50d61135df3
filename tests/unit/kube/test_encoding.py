"""What is sent to the API server is what json would send, whatever a pod holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podrelay.protocol.json_text import encoded, parsed
from podrelay.protocol.messages import Json
from podrelay_workers.kube.encoding import checked_pod, decode_answer, decode_watch_line
from podrelay_workers.kube.errors import Unreachable
from podrelay_workers.kube.pod_decoder import decode_event, decode_list

text = st.text(st.characters())  # halves of surrogate pairs too
keys = text | st.integers() | st.booleans() | st.none()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(text, values, max_size=4))
@example({"env": "half of a pair: \ud800"})
@example({"large": 2**70, "labels": {True: "yes", None: "none", 7: "seven"}})
def test_a_body_says_what_json_says(body: dict[str, object]) -> None:
    assert json.loads(encoded(body)) == json.loads(json.dumps(body))


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("decoder", [parsed, decode_event, json.loads])
@pytest.mark.parametrize("line", [DEEP, b'{"type":"ADDED","object":' + DEEP + b"}", b"1" * 5000])
def test_a_watch_event_that_is_too_deep_or_long_is_a_broken_event(line: bytes, decoder: Callable[[bytes], Any]) -> None:
    with pytest.raises(Unreachable):
        decode_watch_line(line, decoder)


@pytest.mark.parametrize("decoder", [parsed, decode_list, json.loads])
def test_an_answer_that_is_too_deep_is_none_of_the_api_server(decoder: Callable[[bytes], Any]) -> None:
    with pytest.raises(Unreachable):
        decode_answer(b'{"items":' + DEEP + b"}", decoder)


GOOD: Json = {"metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "1"}}


def test_a_pod_is_the_pod_that_was_asked_for() -> None:
    assert checked_pod(GOOD, "p") == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"name": "q"}, {"name": None}, {"namespace": 1}, {"namespace": None}, {"uid": []}, {"resourceVersion": "\ud800"},
        {"labels": []}, {"annotations": "x"}, {"uid": "x" * 100_000},
    ],
)  # fmt: skip
def test_what_only_resembles_a_pod_is_none(change: Json) -> None:
    with pytest.raises(Unreachable, match="not the pod"):
        checked_pod({"metadata": {**GOOD["metadata"], **change}}, "p")
