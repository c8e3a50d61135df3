"""The pages of docs/ agree with the code: every path, test and module they name exists, and every key of Redis is listed."""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from podrelay.protocol import access, redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from podrelay_workers.launcher.pod_policy import PRESETS
from podrelay_workers.launcher.pod_rules import FLAGS, LISTS

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("executor/podrelay", "workers/podrelay_workers")
# How the parity page abbreviates folders of tests; a name without a folder is in the last of these.
PARITY_FOLDERS = {"I/": "tests/integration/", "U/": "tests/unit/", "": "tests/integration/parity/"}
# Arguments of the methods of RedisKeys, as the page writes them.
PLACEHOLDERS = {"launch_id": "<launch id>", "cluster": "<cluster>", "launcher": "<launcher>", "shape": "<shape>",
                "mailbox": "<mailbox>"}  # fmt: skip


def page(path: Path) -> str:
    return path.read_text("utf-8")


def section(title: str) -> str:
    """The text of one section of the architecture page."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", page(ARCHITECTURE), re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table_rows(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if not set("".join(row)) <= {"-"}]


# --- names --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_paths_and_tests_on_a_page_exist(path: Path) -> None:
    for name in re.findall(r"`((?:tests|docs|docker|demo|executor|workers|local_cluster)/[^`\s]*)`", page(path)):
        file, _, function = name.partition("::")
        assert (ROOT / file).exists(), name
        assert not function or f"def {function}(" in (ROOT / file).read_text("utf-8"), name


def test_the_tests_on_the_parity_page_exist() -> None:
    found = 0
    for row in table_rows(page(ROOT / "docs" / "parity.md")):
        module = ""
        for name in re.findall(r"`([^`]+)`", row[-1]):
            place, _, function = name.partition("::")
            module = place or module
            short = next(short for short in PARITY_FOLDERS if module.startswith(short))
            file = ROOT / (PARITY_FOLDERS[short] + module[len(short) :].removesuffix(".py") + ".py")
            assert file.exists(), f"{row[0]}: {name}"
            assert not function or f"def {function}(" in file.read_text("utf-8"), f"{row[0]}: {name}"
            found += 1
    assert found > 200


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_on_a_page_resolve(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_code_block_names_its_language(path: Path) -> None:
    fences = re.findall(r"^```(.*)$", page(path), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert [language for language in fences[::2] if not language] == []


# --- architecture -------------------------------------------------------------------------------------------------
def test_every_invariant_has_a_module_and_a_test() -> None:
    rows = {row[0]: row for row in table_rows(section("Invariants")) if re.fullmatch(r"I\d", row[0])}
    assert list(rows) == [f"I{number}" for number in range(1, 9)]
    for name, (_, statement, kept_by, proved_by) in rows.items():
        assert statement, name
        assert re.search(r"`(executor|workers)/[^`]+\.(py|lua)`", kept_by), name
        assert re.search(r"`tests/[^`]+\.py::test_\w+`", proved_by), name


def keys_of_ours() -> Iterator[str]:
    """Every key that RedisKeys can spell, with placeholders for what varies."""
    keys = RedisKeys("<deployment>")
    for name, member in vars(RedisKeys).items():
        if name.startswith("_") or name in ("deployment", "key", "launch_prefix"):
            continue
        value = getattr(keys, name)
        if callable(value):
            arguments = [argument for argument in inspect.signature(member).parameters if argument in PLACEHOLDERS]
            value = value(*(PLACEHOLDERS[argument] for argument in arguments))
        if isinstance(value, str):
            yield value


def keys_of_rq() -> Iterator[str]:
    """Every constant and prefix of RQ's keys in redis_keys."""
    for name, value in vars(redis_keys).items():
        if name.startswith("RQ_"):
            yield value
        elif name.startswith("rq_"):
            yield value("")


def test_every_key_in_redis_is_listed() -> None:
    rows = [row for row in table_rows(section("Keys in Redis")) if row[0] != "key"]
    for row in rows:
        assert len(row) == 6 and all(row), row
    listed = "\n".join(row[0] for row in rows)
    assert [key for key in {*keys_of_ours(), *keys_of_rq()} if key not in listed] == []


# What the columns "written by" and "read by" call the roles of `podrelay.protocol.access`.
ROLES = {
    "executor": ("scheduler",), "launchers": ("launcher",), "watcher": ("watcher",), "status": ("status",),
    "dashboard": ("dashboard",), "operator": ("operator",), "all processes": ("scheduler", "launcher", "watcher"),
    "warm pods": ("task",), "no process": (), "through scripts": (),
}  # fmt: skip
EXAMPLES = {
    "<deployment>": "d", "<cluster>": "c", "<queue>": "podrelay.d.c.launch", "<launch id>_<attempt>": "l_0",
    "<job id>": "l_0", "<launch id>": "l", "<launcher>": "n", "<random id>": "r", "<shape>": "s", "<mailbox>": "m",
}  # fmt: skip


def roles_in(cell: str) -> set[str]:
    words = re.sub(r"\([^)]*\)", "", cell).split(",")
    return {role for word in words for role in ROLES[word.strip()]}


@pytest.mark.parametrize("row", table_rows(section("Keys in Redis"))[1:], ids=lambda row: row[0])
def test_the_table_of_keys_says_who_may_access_what(row: list[str]) -> None:
    """A writer has the right to read as well; the page names those readers that do read."""
    writers, readers = roles_in(row[3]), roles_in(row[4])
    for key in re.findall(r"`([^`]+)`", row[0]):
        for placeholder, example in EXAMPLES.items():
            key = key.replace(placeholder, example)
        if row[1] == "channel":
            assert {role for role in access.ROLES if key in access.channels(role, "d", "c")} == writers | readers
            continue
        found = [item for item in access.key_table("d", "c") if fnmatch.fnmatchcase(key, item.pattern)]
        assert {role for item in found for role in item.writers} == writers, key
        assert {role for item in found for role in item.readers} == readers - writers, key


def test_every_right_to_a_key_is_in_the_table() -> None:
    keys = "\n".join(row[0] for row in table_rows(section("Keys in Redis")))
    for placeholder, example in EXAMPLES.items():
        keys = keys.replace(placeholder, example)
    named = re.findall(r"`([^`]+)`", keys)
    for item in access.key_table("d", "c"):
        pattern = item.pattern.replace(".cleanup", ".launch")  # the page has one row for the registries of all queues
        assert any(fnmatch.fnmatchcase(key, pattern) for key in named), item.pattern


@pytest.mark.parametrize("package", PACKAGES)
def test_the_floor_plan_has_one_line_for_each_module(package: str) -> None:
    planned = set()
    for folder, text in re.findall(r"^### `([^`]+)`$(.*?)(?=^##|\Z)", section("Floor plan"), re.MULTILINE | re.DOTALL):
        planned |= {folder + row[0].strip("`") for row in table_rows(text) if row[0].startswith("`")}
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".lua") and not path.name.startswith("__")
    }
    assert {name for name in planned if name.startswith(package)} == modules


# --- security -----------------------------------------------------------------------------------------------------
def test_every_rule_for_pods_is_listed_with_what_the_preset_says() -> None:
    text = page(ROOT / "docs" / "security.md")
    rows = {row[0].strip("`"): row[1].strip("`") for row in table_rows(text) if row[0].strip("`") in {*FLAGS, *LISTS}}
    assert set(rows) == {*FLAGS, *LISTS}
    strict = PRESETS["strict"]
    assert {rule for rule, value in rows.items() if value} == set(strict)
    for rule, value in rows.items():
        if value.startswith(("[", "false")):  # others are described
            assert json.loads(value) == strict[rule], rule
    assert all(strict[rule] is False for rule in FLAGS if rule in strict)


# --- pictures -----------------------------------------------------------------------------------------------------
def pictures() -> list[tuple[str, str]]:
    return [
        (f"{path.name} {number}", block)
        for path in PAGES
        for number, block in enumerate(re.findall(r"^```mermaid\n(.*?)^```", page(path), re.MULTILINE | re.DOTALL), 1)
    ]


FLOW_NODE = r"\w+(?:\[\(?\"[^\"]+\"\)?\])?"
FLOW_LINE = re.compile(rf'{FLOW_NODE}(?: (?:--|<--) "[^"]+" --> {FLOW_NODE})?|subgraph \w+\["[^"]+"\]')
MESSAGE = re.compile(r"(\w+)(?:->>|-->>)(\w+): \S.*")


@pytest.mark.parametrize("block", [block for _, block in pictures()], ids=[name for name, _ in pictures()])
def test_a_picture_is_drawn_with_the_syntax_that_was_checked_to_render(block: str) -> None:
    """No parser of Mermaid runs without a browser engine. The pages use the part of its syntax that is tested here."""
    kind, *lines = [line.strip() for line in block.strip().splitlines() if line.strip()]
    assert kind in ("flowchart LR", "sequenceDiagram")
    if kind == "flowchart LR":
        assert [line for line in lines if not FLOW_LINE.fullmatch(line)] == []
        assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end")
        return
    participants = [line.split()[1] for line in lines if re.fullmatch(r"participant \w+ as \S.*", line)]
    messages = [MESSAGE.fullmatch(line) for line in lines if not line.startswith("participant ")]
    assert all(messages)
    assert {name for message in messages if message for name in message.groups()} <= set(participants)
