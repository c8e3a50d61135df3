"""The Redis of `docker/compose.yaml` on a real server: the command that writes its users, and which service is which."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import yaml
from redis.exceptions import NoPermissionError

from podrelay.redis_address import parse_redis_url
from tests.harness.docker_files import DOCKER
from tests.harness.redis_server import RedisServer, find_server
from tests.harness.redis_users import knows_read_only

_PASSWORD = re.compile(r"(?<!\$)\$\{([A-Z_]*PASSWORD)[^}]*\}")


def compose(users: Path, data: Path) -> dict[str, dict[str, object]]:
    """The services, with folders of this test; the password of variable X is x."""
    text = (DOCKER / "compose.yaml").read_text().replace("/users", str(users)).replace("/data", str(data))
    filled = _PASSWORD.sub(lambda match: match[1].lower(), text)
    services: dict[str, dict[str, object]] = yaml.safe_load(filled)["services"]
    return services


def write_users(service: dict[str, object], folder: Path) -> None:
    """What the container of redis-users does."""
    command, environment = service["command"], service["environment"]
    assert isinstance(command, list)
    assert isinstance(environment, dict)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {**environment, "AIRFLOW_HOME": str(folder / "airflow"), "PATH": path, "HOME": str(folder)}
    subprocess.run([word.replace("$$", "$") for word in command], env=own, cwd="/", check=True, timeout=100)


def connect(server: RedisServer, **login: str) -> redis.Redis:
    return redis.Redis(port=server.port, **login)


@pytest.mark.timeout(180)
def test_every_service_logs_in_as_its_own_user(tmp_path: Path) -> None:
    find_server()
    users, data = tmp_path / "users", tmp_path / "data"
    users.mkdir()
    data.mkdir()
    services = compose(users, data)
    write_users(services["redis-users"], tmp_path)
    assert "password" not in (users / "redis.acl").read_text(), "a password in clear text"
    command = services["redis"]["command"]
    assert isinstance(command, list)
    server = RedisServer(tmp_path, *command[1:])
    server.start_without_waiting()
    try:
        admin = server.wait_for_answer(username="default", password="redis_password")
        if not knows_read_only(f"redis://:redis_password@127.0.0.1:{server.port}"):
            pytest.skip("this server has no read-only patterns")
        assert admin.config_get("appendonly")["appendonly"] == "yes"
        with pytest.raises(redis.AuthenticationError):
            connect(server).ping()
        seen = set()
        for name, service in services.items():
            environment = service.get("environment") or {}
            assert isinstance(environment, dict)
            if url := environment.get("AIRFLOW__PODRELAY__REDIS_URL"):
                address = parse_redis_url(url)
                login = {option: str(address.options[option]) for option in ("username", "password")}
                user = connect(server, **login)
                assert user.ping(), name
                with pytest.raises(NoPermissionError):
                    user.config_get()
                seen.add(login["username"].rpartition(".")[2])
        assert seen == {"scheduler", "launcher", "watcher", "status", "operator"}
    finally:
        server.kill()
