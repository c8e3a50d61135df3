"""The users that today's `airflow podrelay acl` prints suit processes of an earlier build, as docs/upgrade.md says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podrelay.protocol import access
from tests.harness.earlier_build import unpack

ROLES: tuple[access.Role, ...] = ("scheduler", "launcher", "watcher")
# What a process may do: commands; keys that it may read, and those that it may write; channels.
RIGHTS = """
import json
from podrelay.protocol import access
print(json.dumps({role: {
    "commands": list(access.COMMANDS[role]),
    "reads": [item.pattern for item in access.key_table("d", "c") if role in item.readers | item.writers],
    "writes": [item.pattern for item in access.key_table("d", "c") if role in item.writers],
    "channels": access.channels(role, "d", "c"),
} for role in ("scheduler", "launcher", "watcher")}))
"""


def rights(*path: Path) -> dict[str, dict[str, list[str]]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(entry) for entry in path)}
    done = subprocess.run([sys.executable, "-c", RIGHTS], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rights that each role needs in the earlier build, and those that it gets today."""
    tree = unpack(tmp_path_factory.mktemp("earlier"))
    return rights(tree / "executor"), rights()


@pytest.mark.parametrize("role", ROLES)
def test_no_right_that_an_earlier_process_needs_is_gone(
    role: access.Role, both: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    needed, given = both
    assert needed != given  # they are of two builds
    assert needed[role]["commands"]
    for kind, names in needed[role].items():
        assert set(names) - set(given[role][kind]) == set(), kind
