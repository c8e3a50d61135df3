"""Whom a kubeconfig impersonates."""

from __future__ import annotations

from typing import Any

import pytest

from podrelay.errors import ConfigError
from podrelay.impersonation import impersonation


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
