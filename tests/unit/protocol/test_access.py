"""The rights of each process: those that its scripts need, and none to the keys of another deployment."""

from __future__ import annotations

import fnmatch
import re
from importlib.resources import files

import pytest

from podrelay.protocol import access, redis_keys
from podrelay.protocol.access import Role
from podrelay.protocol.redis_keys import RedisKeys

PROCESSES: list[Role] = ["scheduler", "launcher", "watcher"]
CALL = re.compile(r"redis\.p?call(?:\(|, )'(\w+)'")


def lua(name: str) -> str:
    return files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")


def commands_of(script: str) -> set[str]:
    """What a script calls, also through the functions of prelude.lua."""
    text = lua(script)
    functions = re.split(r"^local function ", lua("prelude"), flags=re.MULTILINE)[1:]
    for function in functions:
        if re.search(rf"\b{re.split(r'[^a-z_]', function)[0]}\(", text):
            text += function
    return {name.lower() for name in CALL.findall(text)}


@pytest.mark.parametrize("role", PROCESSES)
def test_a_process_may_run_what_its_scripts_run(role: Role) -> None:
    needed = set().union(*map(commands_of, access.SCRIPTS[role]))
    assert needed
    assert needed - set(access.COMMANDS[role]) == set()


def test_every_script_is_run_by_some_process() -> None:
    names = {item.name.removesuffix(".lua") for item in files("podrelay.protocol").joinpath("lua").iterdir()}
    assert set().union(*access.SCRIPTS.values()) == names - {"prelude"}


@pytest.mark.parametrize("role", PROCESSES)
def test_every_command_of_a_process_can_be_asked_about(role: Role) -> None:
    assert set(access.COMMANDS[role]) <= set(access.CALLS)


@pytest.mark.parametrize("role", ["status", "dashboard"])
def test_who_only_looks_may_only_read(role: Role) -> None:
    assert not [item for item in access.key_table("etl", "*") if role in item.writers]
    rules = access.rules(role, "etl", "*").split()
    assert not [rule for rule in rules if rule.startswith(("~", "&", "%W"))]
    assert {"+set", "+del", "+evalsha", "+publish"} & set(rules) == set()


@pytest.mark.parametrize("role", access.ROLES)
def test_no_right_is_wide(role: Role) -> None:
    rules = access.rules(role, "etl", "default").split()
    assert rules[0] == "resetchannels"
    assert "-@all" in rules
    assert {"~*", "%R~*", "&*", "allkeys", "+@all"} & set(rules) == set()
    assert not [
        rule for rule in rules if rule.startswith("+@") or rule in ("+eval", "+config", "+keys", "+scan", "+select")
    ]


def keys_of(deployment: str, cluster: str) -> list[str]:
    keys = RedisKeys(deployment)
    queues = [*keys.launch_queues(cluster), keys.cleanup_queue(cluster)]
    queues += [queue + redis_keys.fair_queue_mark("7") for queue in keys.launch_queues(cluster)]
    ours = [keys.launch("l"), keys.current, keys.results, keys.unacknowledged, keys.live(cluster), keys.watch(cluster)]
    ours += [keys.rollups(cluster), keys.mailbox_in("m")]
    ours += [keys.throttle(cluster), keys.fair_queues(cluster), keys.quarantine, keys.key_rings, keys.epoch, keys.check]
    registries = [redis_keys.rq_queue, redis_keys.rq_started, redis_keys.rq_scheduled, redis_keys.rq_finished]
    registries += [redis_keys.rq_failed, redis_keys.rq_workers]
    ours += [registry(queue) for registry in registries for queue in queues]
    return [*ours, keys.worker(cluster, "host-1-ab")]


def allowed(role: Role, deployment: str, cluster: str, key: str) -> bool:
    patterns = [item.pattern for item in access.key_table(deployment, cluster) if role in item.writers | item.readers]
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)


@pytest.mark.parametrize("role", access.ROLES)
@pytest.mark.parametrize(("mine", "other"), [("etl", "etl2"), ("etl2", "etl"), ("a", "a-b"), ("a-b", "a")])
def test_a_deployment_cannot_access_the_keys_of_another(role: Role, mine: str, other: str) -> None:
    assert any(allowed(role, mine, "default", key) for key in keys_of(mine, "default"))
    for cluster in ("default", access.ALL_CLUSTERS):
        assert [key for key in keys_of(other, "default") if allowed(role, mine, cluster, key)] == []


@pytest.mark.parametrize("role", access.OF_ONE_CLUSTER)
@pytest.mark.parametrize(("mine", "other"), [("ops", "ops2"), ("ops2", "ops"), ("ops", "ops-2"), ("ops", "default")])
def test_a_worker_of_one_team_cannot_access_what_is_of_another(role: Role, mine: str, other: str) -> None:
    of_all = set(keys_of("etl", mine)) & set(keys_of("etl", other))
    assert [key for key in keys_of("etl", other) if key not in of_all and allowed(role, "etl", mine, key)] == []


def test_a_name_stands_for_itself_in_a_pattern() -> None:
    assert access.escaped(r"a*b?[c]\d") == r"a\*b\?\[c\]\\d"
    assert access.example(access.escaped("a?[c]") + ":x") == "a?[c]:x"
    assert access.example("podrelay:d:launch:*") == "podrelay:d:launch:0"


def test_redis_6_gets_no_pattern_that_it_does_not_know() -> None:
    new, old = (
        access.rules("dashboard", "etl", "default", read_only_patterns=newer).split() for newer in (True, False)
    )
    assert [rule.replace("%R~", "~") for rule in new] == old
    assert "%R~rq:queues" in new
    assert "+select" in access.rules("status", "etl", "default", select=True)
