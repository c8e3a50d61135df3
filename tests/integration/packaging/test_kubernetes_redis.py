"""What docker/kubernetes says about Redis works on a real one: the server's configuration, and the user of the autoscaler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError, ResponseError

from podrelay.protocol import redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from tests.harness.docker_files import KUBERNETES
from tests.harness.redis_server import RedisServer, find_server
from tests.harness.redis_users import knows_read_only, lines, password

# The rule stands in comments, over two lines.
_RULE = re.compile(r"ACL SETUSER (\S+) (reset .*?)\n", re.DOTALL)
# What an autoscaler does to find the length of a list: the type of the key first.
COUNT = """
local kind = redis.call('type', KEYS[1]).ok
return redis.call(kind == 'zset' and 'zcard' or 'llen', KEYS[1])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """Started with the file of components/redis, whose folders are this test's."""
    find_server()
    text = (KUBERNETES / "components" / "redis" / "redis.conf").read_text()
    users = tmp_path / "users.acl"
    (first,) = re.findall(
        r"echo '(user .*)' > users\.acl", (KUBERNETES / "components/redis/kustomization.yaml").read_text()
    )
    users.write_text(f"{first}\nuser admin on nopass ~* &* +@all\n")
    configuration = tmp_path / "redis.conf"
    configuration.write_text(
        text.replace("/run/podrelay/users.acl", str(users)).replace("dir /data", f"dir {tmp_path}")
    )
    started = RedisServer(tmp_path)
    words = [word for line in configuration.read_text().splitlines() for word in _option(line)]
    started.options = (*started.options, *words)
    # Its own client logs in as `default`, who is off here, as it is in the Secret of an operator.
    started.start_without_waiting()
    try:
        yield started
    finally:
        started.kill()


def _option(line: str) -> list[str]:
    name, _, value = line.partition(" ")
    return [f"--{name}", value] if name else []


def client(server: RedisServer, user: str, secret: str = "") -> Any:
    return redis.Redis(port=server.port, username=user, password=secret, decode_responses=True)


def autoscaler_rule() -> tuple[str, str]:
    text = (KUBERNETES / "components" / "keda" / "kustomization.yaml").read_text()
    joined = re.sub(r"\n#  +", " ", text)
    found = _RULE.search(joined.replace("\n# ", "\n"))
    assert found is not None
    return found[1], found[2].replace("#SHA256-OF-THE-PASSWORD", ">counted")


def test_the_server_keeps_its_data_evicts_nothing_and_knows_its_users(server: RedisServer) -> None:
    admin = server.wait_for_answer(username="admin", password="any")
    if not knows_read_only(f"redis://admin:any@127.0.0.1:{server.port}"):
        pytest.skip("this server has no read-only patterns")
    settings = admin.config_get()
    assert settings["appendonly"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert int(settings["maxmemory"]) == 512 * 1024**2
    with Path(settings["aclfile"]).open("a") as file:
        file.write("\n".join(lines(redis_6=False, roles=("launcher",))) + "\n")
    admin.acl_load()
    admin.close()  # Redis may end the connections of those whom it loaded again
    # With a `default` that needs no password, protected mode would turn away all other hosts.
    assert admin.config_get("protected-mode") == {"protected-mode": "yes"}
    assert "nopass" not in admin.acl_getuser("default")["flags"]
    launcher = client(server, "podrelay.default.launcher", password("launcher"))
    assert launcher.ping()
    with pytest.raises(redis.AuthenticationError):
        client(server, "default").ping()


def test_the_user_of_the_autoscaler_counts_and_does_nothing_else(server: RedisServer) -> None:
    admin = server.wait_for_answer(username="admin", password="any")
    name, rules = autoscaler_rule()
    admin.execute_command("ACL", "SETUSER", name, *rules.split())
    user = client(server, name, "counted")
    user.ping()
    keys = RedisKeys("default")
    for queue in keys.launch_queues("default"):
        key = redis_keys.rq_queue(queue)
        assert user.eval(COUNT, 1, key) == 0
        admin.rpush(key, "a", "b")
        assert user.eval(COUNT, 1, key) == 2
    key = redis_keys.rq_queue(keys.launch_queue("default"))
    for words in (("rpush", key, "c"), ("lpop", key), ("del", key), ("lrange", key, 0, -1), ("keys", "*")):
        with pytest.raises(NoPermissionError):
            user.execute_command(*words)
    with pytest.raises((NoPermissionError, ResponseError)):
        user.eval("return redis.call('lpop', KEYS[1])", 1, key)
    for other in (redis_keys.rq_queue(keys.cleanup_queue("default")), keys.results, keys.current):
        with pytest.raises((NoPermissionError, ResponseError)):
            user.eval(COUNT, 1, other)
    assert admin.llen(key) == 2
