"""The builders pass exactly the KEYS and ARGV that the header of each script documents."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from podrelay.protocol.jobs import CleanupJob
from podrelay.protocol.redis_keys import RedisKeys
from podrelay.store import scripts, warm_scripts
from podrelay.store.bounded_reads import read_entries, read_launches, read_stream
from podrelay.store.key_rings import KeyRing, announce
from podrelay.store.log_requests import request_logs
from podrelay.store.quarantine import Quarantined, quarantine
from podrelay.store.rollups import load_rollups, read_steps, write_rollups
from podrelay.store.script_table import ScriptCall, script
from podrelay.store.scripts import AcknowledgedLaunch, Fence, HeldJob, OfferedLaunch

KEYS = RedisKeys("d")
FENCE = Fence("leader", "7")
OFFERED = OfferedLaunch("l", 0, "l_0", "s", "q", "data", "text", "[]", "task", "n", 0)

HELD = HeldJob("l_0", "e", "q", "launch")

# Each call with its repeated or optional arguments left out.
CALLS = [
    scripts.offer(KEYS, cluster="c", owner="o", now_s=1.0, ledger_ttl_s=2.0, launches=[]),
    scripts.acknowledge(KEYS, cluster="c", now_s=1.0, ledger_ttl_s=2.0, launches=[]),
    scripts.withdraw(KEYS, launch_id="l", subject="s", now_s=1.0, ledger_ttl_s=2.0),
    scripts.survey(KEYS, fresh_epoch="e", launches=[]),
    scripts.claim(
        KEYS, cluster="c", kind="launch", queues=[], most=1, low=0, lease_s=6.0, worker="w", execution_id="e",
        patience_s=0.0, probe_s=1.0, report_every_s=1.0,
    ),
    scripts.renew(KEYS, lease_s=6.0, jobs=[]),
    scripts.reap(
        KEYS, cluster="c", queues=[], worker="w", execution_id="e", lease_s=6.0, losses_max=1, most_per_queue=1
    ),
    scripts.finish(KEYS, cluster="c", worker="w", spent_data="", results_max=1, items=[]),
    scripts.throttle(KEYS, cluster="c", event="recover"),
    scripts.publish(
        KEYS, cluster="c", fence=FENCE, launch_id="l", attempt=0, outcome="failed", result="r", now="1.0", results_max=1,
        fields={},
    ),
    scripts.restore(KEYS, cluster="c", fence=FENCE, launch_id="l", attempt=0, created="1.0", fields={}),
    scripts.live(KEYS, cluster="c", cursor="0", count=1, before_s=1.0),
    scripts.lead(KEYS, cluster="c", candidate="a", lease_s=1.0, fresh_epoch="e", known_epoch="", fields={}),
    quarantine(KEYS, []),
    request_logs(KEYS, cluster="c", requests=[]),
    read_stream(KEYS, KEYS.results, "0-0"),
    read_entries(KEYS, []),
    read_launches(KEYS, KEYS.unacknowledged, before=1.0, most=1),
    scripts.permissions([]),
    ScriptCall("read_rollups", load_rollups(KEYS, cluster="c", now_s=0.0).keys, [1]),
    read_steps(KEYS, cluster="c", after="0-0", most=1),
    write_rollups(KEYS, cluster="c", fence=FENCE, oldest=0, cursor="1-1", changed={}),
    scripts.announce_scheduler(KEYS, cluster="c", owner="o", cursor="", launches=0, version="0"),
    announce(KEYS, KeyRing("p", ("f",))),
    warm_scripts.assign(KEYS, cluster="c", job=HELD, shape="", why="", given_for_s=1.0),
    warm_scripts.deliver(KEYS, job=HELD, warm_id="i", mailbox="m", sealed="s"),
    warm_scripts.take_back(KEYS, job=HELD, warm_id="i", mailbox="m", pod="p"),
    warm_scripts.keep_warm(KEYS, cluster="c", keeper="w", lease_s=1.0, most=1),
    warm_scripts.warm_pool(KEYS, cluster="c", what="read", args=[]),
    scripts.resign(KEYS, cluster="c", candidate="a", fresh_epoch="e"),
]  # fmt: skip


def documented(name: str, what: str) -> int:
    """How many KEYS or ARGV the header of a script numbers, apart from those that repeat (`9..`)."""
    header = script_text(name).split(f"-- {what}: ", 1)[1].replace("\n--", "  ")
    count = 0
    while re.search(rf"(^|\s\s|= unfenced\s+){count + 1} ", header):
        count += 1
    return count


def script_text(name: str) -> str:
    return files("podrelay.protocol").joinpath("lua", f"{name}.lua").read_text("utf-8")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_has_the_keys_and_arguments_of_the_header(call: ScriptCall) -> None:
    _, _, after = script_text(call.name).partition("-- KEYS: ")
    assert len(call.keys) == max(map(int, re.findall(r"(?:^|\s\s)(\d) ", after.split("\n", 1)[0])), default=0)
    assert len(call.args) == documented(call.name, "ARGV")


def test_every_script_has_a_builder() -> None:
    names = {item.name.removesuffix(".lua") for item in files("podrelay.protocol").joinpath("lua").iterdir()}
    assert {call.name for call in CALLS} == names - {"prelude"}


def test_repeated_arguments_follow_in_the_order_of_the_header() -> None:
    offer = scripts.offer(KEYS, cluster="c", owner="o", now_s=1.0, ledger_ttl_s=2.0, launches=[OFFERED, OFFERED])
    assert list(offer.args[15:]) == [*OFFERED, *OFFERED]
    cleanup = CleanupJob("id", "data", "text")
    launches = [AcknowledgedLaunch("l", 0, "s", "1", *cleanup), AcknowledgedLaunch("m", 1, "t", "0")]
    acknowledge = scripts.acknowledge(KEYS, cluster="c", now_s=1.0, ledger_ttl_s=2.0, launches=launches)
    assert list(acknowledge.args[11:]) == ["l", 0, "s", "1", "id", "data", "text", "m", 1, "t", "0", "", "", ""]
    renew = scripts.renew(KEYS, lease_s=6.0, jobs=[HeldJob("j", "e", "q", "launch")])
    assert list(renew.args[4:]) == ["j", "e", "q", "launch"]
    entries = [Quarantined("job", "j", "oversized", "why"), Quarantined("launch", "l", "foreign", "because")]
    assert list(quarantine(KEYS, entries).args[1:]) == [
        "job",
        "j",
        "oversized",
        "why",
        "launch",
        "l",
        "foreign",
        "because",
    ]
    survey = scripts.survey(KEYS, fresh_epoch="e", launches=[("l", 0)])
    assert list(survey.args[6:]) == ["l", 0]


def test_only_scripts_that_use_the_prelude_run_behind_it() -> None:
    prelude = script_text("prelude")
    functions = re.findall(r"^local function (\w+)", prelude, re.MULTILINE)
    constants = re.findall(r"\b[A-Z]+_MAX(?:_S)?\b", prelude)
    assert functions and constants
    for name in {call.name for call in CALLS}:
        uses = any(re.search(rf"\b{function}\(", script_text(name)) for function in functions)
        uses = uses or any(re.search(rf"\b{constant}\b", script_text(name)) for constant in constants)
        assert script(name).text.startswith(prelude) == uses, name
