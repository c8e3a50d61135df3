"""The headers that a user's client or kubeconfig adds to each request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from podrelay.errors import ConfigError
from podrelay_workers.kube.client_headers import headers_of_client, impersonation, merged


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


def test_impersonation() -> None:
    user = {"as": "jane", "as-uid": "u1", "as-groups": ["dev", "ops"], "as-user-extra": {"Scopes/x": ["a", "b"]}}
    assert impersonation(user) == [
        ("Impersonate-User", "jane"), ("Impersonate-Uid", "u1"), ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"), ("Impersonate-Extra-scopes%2Fx", "a"), ("Impersonate-Extra-scopes%2Fx", "b"),
    ]  # fmt: skip
    assert impersonation({"token": "t"}) == []


@pytest.mark.parametrize(
    "user",
    [
        {"as": ["jane"]},
        {"as": "jane", "as-groups": "dev"},
        {"as": "jane", "as-user-extra": {"k": "v"}},
        {"as": "jane", "as-user-extra": ["k"]},
        {"as-groups": ["dev"]},
        {"as-uid": "u1"},
    ],
)
def test_an_impersonation_that_cannot_be_meant_is_refused(user: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="as"):
        impersonation(user)
