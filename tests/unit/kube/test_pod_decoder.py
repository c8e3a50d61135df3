"""Decoding only the fields that are read changes no interpretation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from podrelay_workers.kube.pod_decoder import decode_event, decode_list
from podrelay_workers.watcher.pod_state import interpret
from tests.unit.watcher.test_pod_state import _POD, ENDS, JSON, NOTHING, NOW_S, PENDING, RULES

PODS = [row[2] for row in (*ENDS, *NOTHING)] + [row[1] for row in PENDING]


@pytest.mark.parametrize("given_pod", PODS)
def test_the_same_state(given_pod: Any) -> None:
    noise = given_pod | {"metadata": given_pod["metadata"] | {"managedFields": [1]}} if given_pod else given_pod
    event = decode_event(json.dumps({"type": "MODIFIED", "object": noise}).encode())
    assert interpret("MODIFIED", event["object"], RULES, NOW_S) == interpret("MODIFIED", given_pod, RULES, NOW_S)


@pytest.mark.timeout(60)
@given(given_pod=_POD | JSON)
def test_the_same_state_of_any_json(given_pod: Any) -> None:
    event = decode_event(json.dumps({"type": "MODIFIED", "object": given_pod}).encode())
    assert interpret("MODIFIED", event["object"], RULES, NOW_S) == interpret("MODIFIED", given_pod, RULES, NOW_S)


@pytest.mark.parametrize("more", [{}, {"status": "Failure"}])
def test_error_events_are_decoded_completely(more: dict[str, str]) -> None:
    status = {"kind": "Status", "code": 410, "message": "too old", **more}
    assert decode_event(json.dumps({"type": "ERROR", "object": status}).encode())["object"] == status


def test_lists() -> None:
    document = {"kind": "PodList", "metadata": {"resourceVersion": "7", "continue": "c"},
                "items": [{"metadata": {"name": "a", "managedFields": []}}, {"metadata": {"name": "b"}}]}  # fmt: skip
    found = decode_list(json.dumps(document).encode())
    assert found["metadata"] == {"resourceVersion": "7", "continue": "c"}
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    broken = document | {"items": [3, {"metadata": []}]}
    assert decode_list(json.dumps(broken).encode())["items"] == [3, {"metadata": []}]


@pytest.mark.parametrize("text", [b"", b"{", b'{"type": "ADDED"', b"\xff\xfe"])
def test_no_json(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(text)
