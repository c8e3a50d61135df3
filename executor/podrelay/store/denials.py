"""Pure: reads what Redis says when it denies a command, a key or a channel to its user. Used by `connection`.

Each release of Redis and Valkey says it in other words, and only some name what they deny.
"""

from __future__ import annotations

import re

REMEDY = "`airflow podrelay acl` prints the rules that each process needs"

# Inside a script, a denial is a plain error: the text of Redis up to 7.0, and that of newer ones and of Valkey.
_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")
_SAID = re.compile(r"has no permissions to|No permissions to access")
_USER = re.compile(r"User (\S{1,200}) has no permissions")
_NAMED = re.compile(r"the '([^']{1,200})' (command|key|channel)\b")


def without_command(text: str) -> str:
    """The text of an error as Redis sent it. redis-py quotes the command of a pipeline before it, arguments included."""
    return text.rpartition("of pipeline caused error: ")[2]


def is_denial(text: str) -> bool:
    """Does this text of an error say that the user lacks a right?"""
    text = without_command(text)
    return any(part in text for part in _IN_SCRIPT) or _SAID.search(text) is not None


def denied(text: str) -> str:
    """What was denied, as far as the text names it."""
    text = without_command(text)
    if found := _NAMED.search(text):
        return f"the {found[2]} {found[1]}"
    for word in ("channel", "key"):
        if word in text:
            return f"a {word} that it does not name"
    return "a command that it does not name"


def user_in(text: str) -> str | None:
    """Whom it was denied to, where the text says so."""
    found = _USER.search(without_command(text))
    return found[1] if found else None


def explain(text: str, user: str, option: str) -> str:
    """One line for the log: what is denied to whom, and the remedy.

    :param user: the configured one, for texts that name none.
    :param option: the option that names the user.
    """
    return f"Redis denies {denied(text)} to the user {user_in(text) or user} ({option}): {REMEDY}."
