"""Unmodified rq-dashboard (`-j`): every page works, no page shows a secret, and its buttons are safe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from rq import Queue
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from podrelay.protocol import redis_keys
from tests.harness.launcher_rig import TOKEN, LauncherRig
from tests.harness.pod_api import status
from tests.harness.waiting import until


@pytest.fixture
def dashboard(rig: LauncherRig) -> Iterator[Any]:
    web = pytest.importorskip("rq_dashboard.web")
    from rq_dashboard.cli import make_flask_app

    before = web.config.serializer
    web.config.serializer = JSONSerializer
    app = make_flask_app(None, None, None, "")
    app.config["RQ_DASHBOARD_REDIS_URL"] = rig.settings.redis_url
    web.setup_rq_connection(app)
    yield app.test_client()
    web.config.serializer = before


def test_every_page_works_and_shows_no_token(rig: LauncherRig, dashboard: Any) -> None:
    queue = rig.names.launch_queue("default")
    bad, good, held = rig.request(1), rig.request(2), rig.request(3)
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "image: Required value") if "load1" in pod["metadata"]["name"] else None
    )
    pages: dict[str, str] = {}

    def look() -> None:
        paths = ["/0/view/queues", "/0/view/workers", "/0/view/jobs", "/0/data/queues.json", "/0/data/workers.json"]
        for registry in ("queued", "started", "finished", "failed", "scheduled"):
            paths += [f"/0/data/jobs/{queue}/{registry}/8/asc/1.json", f"/0/view/jobs/{queue}/{registry}/8/asc/1"]
        paths += [f"/0/data/job/{request.launch_id}_0.json" for request in (bad, good, held)]
        for path in paths:
            answer = dashboard.get(path, follow_redirects=True)
            assert answer.status_code == 200, path
            pages[path] = answer.get_data(as_text=True)

    async def scenario() -> None:
        async with rig.launcher():
            rig.offer(bad, good)
            await until(lambda: rig.states([bad, good]) == {"finished": 1, "created": 1} and not rig.in_hand())
            rig.api.latency_s = 3.0
            rig.offer(held)
            await until(lambda: len(rig.api.creates) == 3)
            await asyncio.to_thread(look)
            rig.api.latency_s = 0.0
            await until(lambda: rig.states([held]) == {"created": 1})

    asyncio.run(scenario())
    everything = "".join(pages.values())
    assert TOKEN not in everything
    assert "gAAAA" not in everything
    assert "etl.load1 try 1 (manual__2026-11-20)" in pages[f"/0/data/jobs/{queue}/failed/8/asc/1.json"]
    assert "PodRefused: image: Required value" in pages[f"/0/data/jobs/{queue}/failed/8/asc/1.json"]
    assert "etl.load2" in pages[f"/0/data/jobs/{queue}/finished/8/asc/1.json"]
    assert "etl.load3" in pages[f"/0/data/jobs/{queue}/started/8/asc/1.json"]
    assert queue in pages["/0/data/workers.json"]


def test_delete_requeue_and_empty_are_safe(rig: LauncherRig, dashboard: Any) -> None:
    queue = rig.names.launch_queue("default")
    failed, deleted, kept, started = (rig.request(number) for number in range(4))
    rig.api.fault = lambda _, pod: (
        status(422, "Invalid", "image: Required value") if "load0" in pod["metadata"]["name"] else None
    )
    rig.offer(failed, deleted, kept)

    async def scenario() -> None:
        assert dashboard.post(f"/job/{deleted.launch_id}_0/delete").status_code == 200
        async with rig.launcher():
            await until(lambda: rig.states([failed, kept]) == {"finished": 1, "created": 1} and not rig.in_hand())
            assert dashboard.post(f"/job/{failed.launch_id}_0/requeue").status_code == 200
            await until(lambda: rig.redis.hget(f"rq:job:{failed.launch_id}_0", "status") == "canceled")
            rig.api.latency_s = 0.5
            rig.offer(started)
            await until(lambda: len(rig.api.creates) == 3)
            assert dashboard.post(f"/queue/{queue}/started/empty").status_code == 200
            await until(lambda: rig.states([started]) == {"created": 1} and not rig.in_hand())

    asyncio.run(scenario())
    # The deleted launch got no pod, the failed one no second pod, and the running one is still in the ledger.
    assert rig.api.calls["create"] == 3
    assert not rig.redis.exists(f"rq:job:{started.launch_id}_0")


def test_a_clean_up_by_rq_loses_nothing(rig: LauncherRig) -> None:
    """`rq info` fails or requeues jobs whose lease has expired; launches may always be requeued."""
    requests = rig.offer_many(5)
    queue = rig.names.launch_queue("default")

    async def claim() -> None:
        from podrelay.store.connection import connect_async
        from podrelay_workers.launcher.job_queue import JobQueue

        client = connect_async(rig.settings)
        claim = await JobQueue(client, rig.settings, rig.cipher, "launch", "w", "default").claim(64)
        assert len(claim.jobs) == 5
        await client.aclose()

    asyncio.run(claim())
    client = rig.redis.from_url(rig.settings.redis_url)
    for member in client.zrange(redis_keys.rq_started(queue), 0, -1):
        client.zadd(redis_keys.rq_started(queue), {member: 1})
    StartedJobRegistry(queue=Queue(queue, connection=client, serializer=JSONSerializer)).cleanup()

    async def scenario() -> None:
        async with rig.launcher():
            await until(lambda: rig.states(requests) == {"created": 5})

    asyncio.run(scenario())
    assert rig.api.calls["create"] == 5
