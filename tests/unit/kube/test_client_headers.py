"""The headers that a user's client adds to each request."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from podrelay_workers.kube.client_headers import headers_of_client, merged


@pytest.mark.parametrize(
    ("theirs", "sent"),
    [
        ("OpenAPI-Generator/33.3.0/python", "podrelay/1"),
        ("Swagger-Codegen/30.1.0/python", "podrelay/1"),
        ("corp-agent/7", "corp-agent/7 podrelay/1"),
    ],
)
def test_our_user_agent_is_appended_to_one_that_was_given(theirs: str, sent: str) -> None:
    client = SimpleNamespace(default_headers={"user-agent": theirs, "X-Gateway": "g"}, cookie="a=b")
    found = dict(headers_of_client(client, "podrelay/1"))
    assert found == {"User-Agent": sent, "X-Gateway": "g", "Cookie": "a=b"}


def test_without_a_client_only_the_user_agent_is_sent() -> None:
    assert headers_of_client(None, "podrelay/1") == [("User-Agent", "podrelay/1")]


def test_a_later_layer_replaces_names_of_any_case_and_may_repeat_its_own() -> None:
    assert merged([("accept", "x"), ("B", "1")], [("Accept", "y")], [("G", "1"), ("G", "2")]) == [
        ("B", "1"), ("Accept", "y"), ("G", "1"), ("G", "2"),
    ]  # fmt: skip
