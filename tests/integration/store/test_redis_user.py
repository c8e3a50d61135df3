"""The Redis user in docs/redis.md has the permissions that podrelay needs, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from kubernetes.client import models as k8s

from podrelay.cli.check import run_checks
from podrelay.cli.commands import status as status_command
from podrelay.store.connection import unavailable
from tests.harness.local_cluster import LocalCluster
from tests.harness.parity_rig import workers
from tests.harness.redis_server import RedisServer, find_server
from tests.harness.task_instances import load, update
from tests.real_cluster.loop import Loop
from tests.real_cluster.server import POD_SPEC, Server, ended

PAGE = Path(__file__).resolve().parents[3] / "docs" / "redis.md"
PASSWORD = "of-the-test-only"


def rules() -> list[str]:
    """The rules of the documented user."""
    found = re.search(r"^user podrelay (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1].replace("PASSWORD", PASSWORD).split()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    find_server()
    with RedisServer(tmp_path) as server:
        redis.Redis.from_url(server.url).execute_command("ACL", "SETUSER", "podrelay", *rules())
        yield server


@pytest.fixture
def environment(guarded: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    template = tmp_path / "template.yaml"
    template.write_text(yaml.safe_dump({"metadata": {"name": "template"}, "spec": POD_SPEC}))
    with LocalCluster(tmp_path / "cluster", runner="simulate") as cluster:
        environment = {
            "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": str(cluster.kubeconfig),
            "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(template),
            "AIRFLOW__PODRELAY__REDIS_URL": guarded.url.replace("//", f"//podrelay:{PASSWORD}@"),
            "AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S": "0.2",
            "AIRFLOW__PODRELAY__LAUNCH_LEASE_S": "2",
            "AIRFLOW__PODRELAY__DEPLOYMENT": "default",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


def denials(server: RedisServer) -> list[str]:
    """What Redis denied to the user: the command and the key or the channel."""
    log: Any = redis.Redis.from_url(server.url, decode_responses=True).acl_log()
    harmless = ("config|get", "config")  # as the page says
    return [
        f"{entry['reason']} {entry['object']} ({entry['context']})" for entry in log if entry["object"] not in harmless
    ]


def test_everything_that_podrelay_does_is_allowed(
    airflow_db: None, guarded: RedisServer, environment: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    client = redis.Redis.from_url(guarded.url)
    server = Server(Path(environment["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"]), "default")
    with workers(tmp_path / "workers", client, environment=environment) as processes:
        loop = Loop(server)
        # One succeeds, one fails, one is revoked, one is rejected.
        well, pod = loop.run()
        update(well.ti_id, state="success")
        server.set_status(pod, ended(0))
        assert loop.event(well)[0] == "success"
        bad, pod = loop.run()
        server.set_status(pod, ended(1))
        assert loop.event(bad)[0] == "failed"
        (taken,) = loop.submit()
        pod = loop.pod(taken)
        loop.executor.revoke_task(ti=load(taken.ti_id))
        loop.until(lambda: server.get(pod) is None)
        invalid = k8s.V1Pod(metadata=k8s.V1ObjectMeta(labels={"team": "no / label"}))
        (refused,) = loop.submit(executor_config={"pod_override": invalid})
        assert loop.event(refused)[0] == "failed"
        # A quota is exhausted for a moment; a launcher is killed while it holds jobs; another takes over.
        server.call("PUT", "/local-cluster/faults", {"quota": {"default": 0}})
        late = loop.submit(3)
        loop.until(lambda: client.zcard("rq:scheduled:podrelay.default.default.launch"))
        processes.kill("launcher")
        processes.start("launcher")
        server.call("PUT", "/local-cluster/faults", {"rules": [{"verbs": ["create"], "status": 503, "count": 2}]})
        for task in late:
            name = loop.pod(task)
            update(task.ti_id, state="success")
            server.set_status(name, ended(0))
        assert {loop.event(task)[0] for task in late} == {"success"}
        # A successor adopts.
        (orphan,) = loop.submit()
        loop.pod(orphan)
        loop.executor._breaker.close()
        loop = Loop(server)
        assert not loop.executor.try_adopt_task_instances([load(orphan.ti_id)])
        assert [check.detail for check in run_checks(None) if not check.ok] == []
        with pytest.raises(SystemExit) as ended_with:
            status_command(argparse.Namespace(probe=None, team=None, launch=well.launch_id, json=False))
        assert ended_with.value.code == 0
        loop.executor.end()
    assert denials(guarded) == []
    assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "somebody:else", "1"),
        ("GET", "podrelay:other:epoch"),
        ("LPUSH", "rq:queue:other", "1"),
        ("PUBLISH", "podrelay:other:wake:default", "1"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("EVAL", "return redis.call('GET', 'somebody:else')", "0"),
    ],
    ids=lambda command: " ".join(command)[:20],
)
def test_nothing_else_is_allowed(guarded: RedisServer, command: tuple[str, ...]) -> None:
    client = redis.Redis.from_url(guarded.url.replace("//", f"//podrelay:{PASSWORD}@"))
    with pytest.raises(
        (redis.exceptions.NoPermissionError, redis.exceptions.ResponseError), match=r"permission|can't access"
    ):
        client.execute_command(*command)


def test_a_denial_names_the_page_with_the_rules(guarded: RedisServer) -> None:
    redis.Redis.from_url(guarded.url).execute_command("ACL", "SETUSER", "podrelay", "-xrevrange")
    client = redis.Redis.from_url(guarded.url.replace("//", f"//podrelay:{PASSWORD}@"))
    with pytest.raises(redis.exceptions.ResponseError) as caught:
        client.xrevrange("podrelay:default:results")
    error = unavailable(caught.value)
    assert "denies a command to the user" in str(error)
    assert "docs/redis.md" in str(error)
