"""Compares what Redis allows to its user with what a process needs (`podrelay.protocol.access`). Used at each start, and by
`airflow podrelay check`.

Without it, a missing right shows when it is needed first, perhaps days later, and Redis 7 does not say which key it is about.
"""

from __future__ import annotations

import redis

from podrelay.errors import RedisRefused
from podrelay.protocol import access
from podrelay.protocol.access import Role
from podrelay.redis_address import URL
from podrelay.store.connection import denied_calls, redis_errors, user_of

# A message names so many.
_NAMED_MAX = 8


def require_rights(client: redis.Redis, role: Role, deployment: str, cluster: str) -> None:
    """Compare once, at start.

    :raises RedisRefused: rights are missing; the message names them and the remedy.
    :raises RedisUnavailable: Redis failed.
    """
    missing = missing_rules(client, role, deployment, cluster)
    if missing:
        more = f" and {len(missing) - _NAMED_MAX} more" if len(missing) > _NAMED_MAX else ""
        raise RedisRefused(
            f"The user {user_of(client)} ({URL}) lacks rights in Redis that a {role} needs: "
            f"{' '.join(missing[:_NAMED_MAX])}{more}. `airflow podrelay acl` prints all that it needs.",
            cause="denied",
        )


def missing_rules(client: redis.Redis, role: Role, deployment: str, cluster: str) -> list[str]:
    """The rules that the user of this client lacks, as ACL SETUSER takes them; none where Redis (6.2) cannot say.

    :raises RedisUnavailable: Redis failed, or refuses to run scripts.
    """
    table = [item for item in access.key_table(deployment, cluster) if role in item.writers | item.readers]
    written = [access.example(item.pattern) for item in table if role in item.writers]
    channel = "".join(map(access.example, access.channels(role, deployment, cluster)))
    calls = _Calls()
    # A command is denied if it is for each key: a single key may be what is missing.
    commands = {
        name: [calls.add(access.CALLS[name], key, channel) for key in (written if " K" in access.CALLS[name] else [""])]
        for name in access.COMMANDS[role]
    }
    keys = {
        ("~" if role in item.writers else "%R~") + item.pattern: [
            calls.add(access.CALLS[name], access.example(item.pattern), channel)
            for name in (("del", "hget") if role in item.writers else ("hget",))
        ]
        for item in table
    }
    with redis_errors(client):
        denied = denied_calls(client, calls.words)
    lacking = [name for name, numbers in commands.items() if denied.issuperset(numbers)]
    found = [f"+{name}" for name in lacking]
    if channel and "publish" in lacking:
        found.append(f"&{access.channels(role, deployment, cluster)[0]}")
    if {"del", "hget"} & set(lacking):  # what says whether a key is allowed
        return found
    return found + [rule for rule, numbers in keys.items() if denied.intersection(numbers)]


class _Calls:
    """The calls to ask about, as the process would make them."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []

    def add(self, call: str, key: str, channel: str) -> int:
        """Add one; its number, from 1 on."""
        self.words.append([{"K": key, "C": channel}.get(word, word) for word in call.split()])
        return len(self.words)
