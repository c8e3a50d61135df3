"""What Redis and Valkey say when they deny something becomes one line that names it, and the remedy."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from podrelay.settings import Settings
from podrelay.store.connection import connect, unavailable

URL = "redis://podrelay.etl.launcher:SECRET@unused"
IN_SCRIPT = "The user executing the script can't"
# As Redis 6.2 and 7.0, then newer ones and Valkey, say it; redis-py cuts off NOPERM.
U, K, C = "User somebody has no permissions to", "podrelay:etl:results", "podrelay:etl:wake:default"
OLD = "this user has no permissions to"
PIPE = "Command # 2 (HSET k f the-payload) of pipeline caused error: "
TEXTS = [
    (NoPermissionError, f"{OLD} run the 'xadd' command or its subcommand", "the command xadd"),
    (NoPermissionError, f"{OLD} access one of the keys used as arguments", "a key that"),
    (NoPermissionError, f"{OLD} access one of the channels used as arguments", "a channel that"),
    (NoPermissionError, f"{U} run the 'client|setname' command", "the command client|setname"),
    (NoPermissionError, f"{U} access the '{K}' key", f"the key {K}"),
    (NoPermissionError, f"{U} access the '{C}' channel", f"the channel {C}"),
    (NoPermissionError, "No permissions to access a key", "a key that"),
    (NoPermissionError, "No permissions to access a channel", "a channel that"),
    (NoPermissionError, f"{PIPE}{U} access the '{K}' key", f"the key {K}"),
    (ResponseError, f"{IN_SCRIPT} run this command or subcommand script: 13a71a, on @user_script:1.", "a command that"),
    (ResponseError, f"Error running script (call to f_1): @user_script:1: {IN_SCRIPT} access at least one of the keys "
     "mentioned in the command arguments", "a key that"),
    (ResponseError, f"{IN_SCRIPT} publish to the channel mentioned in the command script: 1", "a channel that"),
    (ResponseError, f"ACL failure in script: {U} run the 'del' command script: on @user_script:1.", "the command del"),
    (ResponseError, "ERR ACL failure in script: No permissions to access a key script: on @user_script:1.", "a key that"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "what"), TEXTS)
def test_a_denial_is_one_line_with_what_who_and_the_remedy(kind: type[RedisError], text: str, what: str) -> None:
    found = unavailable(kind(text), connect(Settings(URL, "")))
    said = str(found)
    assert said.startswith(f"Redis denies {what}")
    assert ("to the user somebody" if "somebody" in text else "to the user podrelay.etl.launcher") in said
    assert "`airflow podrelay acl`" in said
    assert not [part for part in ("SECRET", "payload", "script", "pipeline", "<", "\n") if part in said]
    assert found.answered
    assert found.cause == "denied"


def test_without_a_user_the_default_one_is_named() -> None:
    error = NoPermissionError("this user has no permissions to run the 'xadd' command")
    assert "to the user default" in str(unavailable(error, connect(Settings("redis://unused", ""))))
    assert "to the user default" in str(unavailable(error))


def test_an_error_of_a_pipeline_does_not_quote_its_command() -> None:
    error = ResponseError("Command # 1 (HSET k f the-payload) of pipeline caused error: MISCONF it cannot write")
    said = str(unavailable(error))
    assert "MISCONF it cannot write" in said
    assert "payload" not in said
