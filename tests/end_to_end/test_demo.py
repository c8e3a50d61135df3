"""The demo DAG with a real scheduler, Redis, launchers and watcher, and processes as pods, observed from outside."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import redis

from demo.progress import Launch
from demo.run import DAG_ID
from podrelay.cli.dashboard import make_app
from podrelay.protocol.identifiers import DEFAULT_CLUSTER
from podrelay.protocol.redis_keys import RedisKeys
from tests.end_to_end.stack_rig import Run, StackRig

pytestmark = pytest.mark.timeout(600)

# Every task and try of the DAG, with its number of pods. `wait` resumes from a deferral, so it has two in one try.
PODS = {
    ("plan", 1): 1,
    **{(f"square[{number}]", 1): 1 for number in range(8)},
    ("greet", 1): 1,
    ("fail_once", 1): 1,
    ("fail_once", 2): 1,
    ("wait", 1): 2,
    ("add_up", 1): 1,
}
TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.")  # the start of every JWT


def test_demo_dag(rig: StackRig) -> None:
    run = rig.trigger(DAG_ID)
    assert run.finish() == "success"
    run.settle()
    _every_task_ran_once(run)
    _the_ledger_is_complete(run.launches())
    _logs_can_be_read(rig, run)
    _no_token_in_redis(rig.stack.redis_url)
    _the_dashboard_shows_the_run(rig.stack.redis_url)


def _every_task_ran_once(run: Run) -> None:
    states = {task.label: (task.state, task.try_number) for task in run.tasks()}
    tries = {label: max(try_number for name, try_number in PODS if name == label) for label, _ in PODS}
    assert states == {label: ("success", number) for label, number in tries.items()}
    assert run.pods_made() == Counter(PODS)
    assert run.living_pods() == []


def _the_ledger_is_complete(launches: list[Launch]) -> None:
    for launch in launches:
        assert launch.pod and launch.launcher, launch
        assert launch.t_offered <= launch.t_claimed <= launch.t_created <= launch.t_finished, launch


def _logs_can_be_read(rig: StackRig, run: Run) -> None:
    (failed_once,) = [task for task in run.tasks() if task.task_id == "fail_once"]
    logged = rig.api.log_text(run.dag_id, run.run_id, failed_once)
    assert "fail_once" in logged or "Task" in logged


def _no_token_in_redis(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(count=1000):
            assert not TOKEN.search(_content(client, key)), key


def _content(client: redis.Redis, key: bytes) -> bytes:
    read: dict[str, Any] = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda name: client.lrange(name, 0, -1),
        "zset": lambda name: client.zrange(name, 0, -1),
        "stream": client.xrange,
    }
    kind = client.type(key)
    return repr(read[kind.decode() if isinstance(kind, bytes) else kind](key)).encode()


def _the_dashboard_shows_the_run(url: str) -> None:
    """The data behind the pages of rq-dashboard: queues, launchers, and finished launches by description."""
    page = make_app(url).test_client()
    queues = [queue["name"] for queue in page.get("/0/data/queues.json").get_json()["queues"]]
    assert len(page.get("/0/data/workers.json").get_json()["workers"]) == 2
    shown = []
    for queue in set(queues) & set(RedisKeys().launch_queues(DEFAULT_CLUSTER)):
        listed = page.get(f"/0/data/jobs/{queue}/finished/50/asc/1.json")
        assert not TOKEN.search(listed.data)
        shown += [job["description"].partition(" ")[0] for job in listed.get_json()["jobs"]]
    assert {f"{DAG_ID}.square[{number}]" for number in range(8)} <= set(shown)
