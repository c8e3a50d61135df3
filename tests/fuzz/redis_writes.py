"""Random writes to every Redis key of podrelay, and to those of RQ that it uses: values of the right and of other types."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

from hypothesis import strategies as st

from podrelay.protocol import identifiers, redis_keys
from podrelay.protocol.redis_keys import RedisKeys
from tests.fuzz.values import raw

Type = Literal["hash", "zset", "set", "list", "stream", "string", "channel"]
TYPES: tuple[Type, ...] = ("hash", "zset", "set", "list", "stream", "string")


# One shape and one mailbox of warm pods, where there are none.
SHAPE, MAILBOX = "a" * 16, "b" * 32


@dataclass(frozen=True)
class Target:
    """What a key may be about: one of the launches on their way, one of the launchers, one of the warm pods."""

    launch_id: str = "0"
    worker: str = "w"
    queue: str = "q"
    shape: str = SHAPE
    mailbox: str = MAILBOX


@dataclass(frozen=True)
class Family:
    """One kind of key. `name` is what `redis_keys` calls it."""

    name: str
    type: Type
    key: Callable[[RedisKeys, Target], str]


def _of_queue(key: Callable[[str], str]) -> Callable[[RedisKeys, Target], str]:
    return lambda keys, target: key(target.queue)


FAMILIES = (
    Family("launch", "hash", lambda keys, target: keys.launch(target.launch_id)),
    Family("live", "zset", lambda keys, target: keys.live("default")),
    Family("current", "hash", lambda keys, target: keys.current),
    Family("results", "stream", lambda keys, target: keys.results),
    Family("unacknowledged", "zset", lambda keys, target: keys.unacknowledged),
    Family("quarantine", "stream", lambda keys, target: keys.quarantine),
    Family("epoch", "string", lambda keys, target: keys.epoch),
    Family("check", "string", lambda keys, target: keys.check),
    Family("key_rings", "hash", lambda keys, target: keys.key_rings),
    Family("schedulers", "hash", lambda keys, target: keys.schedulers),
    Family("watch", "hash", lambda keys, target: keys.watch("default")),
    Family("rollups", "hash", lambda keys, target: keys.rollups("default")),
    Family("throttle", "hash", lambda keys, target: keys.throttle("default")),
    Family("fair_queues", "hash", lambda keys, target: keys.fair_queues("default")),
    Family("warm_pods", "hash", lambda keys, target: keys.warm_pods("default")),
    Family("warm_idle", "zset", lambda keys, target: keys.warm_idle("default", target.shape)),
    Family("warm_shapes", "hash", lambda keys, target: keys.warm_shapes("default")),
    Family("warm_arrivals", "zset", lambda keys, target: keys.warm_arrivals("default")),
    Family("warm_state", "hash", lambda keys, target: keys.warm_state("default")),
    Family("mailbox_alive", "string", lambda keys, target: keys.mailbox_alive(target.mailbox)),
    Family("mailbox_waiting", "string", lambda keys, target: keys.mailbox_waiting(target.mailbox)),
    Family("mailbox_in", "list", lambda keys, target: keys.mailbox_in(target.mailbox)),
    Family("mailbox_taken", "list", lambda keys, target: keys.mailbox_taken(target.mailbox)),
    Family("log_requests", "list", lambda keys, target: keys.log_requests("default")),
    Family("drain", "string", lambda keys, target: keys.drain("default", target.worker.rpartition(".")[2])),
    Family("worker", "hash", lambda keys, target: redis_keys.RQ_WORKER_PREFIX + target.worker),
    Family("wake", "channel", lambda keys, target: keys.wake("default")),
    Family("RQ_QUEUES", "set", lambda keys, target: redis_keys.RQ_QUEUES),
    Family("RQ_JOB_PREFIX", "hash", lambda keys, target: redis_keys.RQ_JOB_PREFIX + f"{target.launch_id}_0"),
    Family("RQ_WORKERS", "set", lambda keys, target: redis_keys.RQ_WORKERS),
    Family("RQ_WORKER_PREFIX", "hash", lambda keys, target: redis_keys.RQ_WORKER_PREFIX + target.worker),
    Family("RQ_SUSPENDED", "string", lambda keys, target: redis_keys.RQ_SUSPENDED),
    Family("RQ_RESULTS_PREFIX", "stream", lambda keys, target: redis_keys.RQ_RESULTS_PREFIX + f"{target.launch_id}_0"),
    # podrelay never writes these; rq-dashboard and operators do.
    Family("RQ_COMPACTED_PREFIX", "list", lambda keys, target: redis_keys.RQ_COMPACTED_PREFIX + target.launch_id),
    Family("RQ_EXECUTIONS_PREFIX", "zset", lambda keys, target: redis_keys.RQ_EXECUTIONS_PREFIX + f"{target.launch_id}_0"),
    Family("RQ_EXECUTION_PREFIX", "hash", lambda keys, target: redis_keys.RQ_EXECUTION_PREFIX + f"{target.launch_id}_0"),
    Family("rq_deferred", "zset", _of_queue(redis_keys.rq_deferred)),
    Family("rq_canceled", "zset", _of_queue(redis_keys.rq_canceled)),
    Family("rq_queue", "list", _of_queue(redis_keys.rq_queue)),
    Family("rq_started", "zset", _of_queue(redis_keys.rq_started)),
    Family("rq_scheduled", "zset", _of_queue(redis_keys.rq_scheduled)),
    Family("rq_workers", "set", _of_queue(redis_keys.rq_workers)),
    Family("rq_finished", "zset", _of_queue(redis_keys.rq_finished)),
    Family("rq_failed", "zset", _of_queue(redis_keys.rq_failed)),
)  # fmt: skip


def _words_of_scripts() -> tuple[str, ...]:
    """Every word that a script quotes: names of fields, states, outcomes."""
    scripts = files("podrelay.protocol").joinpath("lua")
    texts = (item.read_text("utf-8") for item in scripts.iterdir() if item.name.endswith(".lua"))
    words = {word for text in texts for word in re.findall(r"'([a-z][a-z_]*:?)'", text)}
    return tuple(sorted({word + "default" if word.endswith(":") else word for word in words}))


WORDS = _words_of_scripts()
_JOB_FIELDS = ("status", "data", "waits", "losses", "worker_name", "timeout", "origin", "created_at", "retries_left")
_LEDGER_FIELDS = ("state", "attempt", "subject", "result", "queue", "pod", "namespace", "owner", "cluster", "t_offered",
                  "t_attempt", "clock_skew", "t_reported", "relaunches", "wait", "t_wait", "t_pending",
                  "failure_class", "lease", "warm_pod", "warm_id", "warm_record", "delivered", "condemned", "start",
                  "warm_attempt")  # fmt: skip
_STATES = (
    "offered",
    "waiting",
    "claimed",
    "created",
    "started",
    "finished",
    "acknowledged",
    "withdrawn",
    "queued",
    "failed",
)
# Pauses and leases that podrelay may believe are short here, or nobody's: what it believes is honest work's to wait for. It
# believes ten minutes, which 700 s are still more than when somebody reads them a while later.
_OFFSETS_S = (-1e9, -3600.0, -600.0, -1.0, 0.0, 0.5, 2.0, 5.0, 700.0, 3600.0, 1e9, 1e12)
_MESSAGES = (b"1", b"", b"pause", b"pause ", b"pause nan", b"pause -inf", b"pause 0.1", b"pause -1", b"cleanup_pause 0.1",
             b"pause \xff", b"cleanup_pause nan", b" ", b"pause 1 2", b"\x00", b"drain", b"pause 0x1",
             b"x" * 100_000)  # fmt: skip


@dataclass(frozen=True)
class Write:
    """One value for one key. `pick` chooses the launch, queue and worker; `names` and `values` depend on the type."""

    family: Family
    type: Type
    afresh: bool
    pick: int
    name: bytes
    value: bytes
    score: float
    offset_s: float | None

    def apply(self, pipeline: Any, keys: RedisKeys, target: Target) -> None:
        key = self.family.key(keys, target)
        if self.afresh or self.type != self.family.type:
            pipeline.delete(key)
        value = self.value if self.offset_s is None else f"{time.time() + self.offset_s:.3f}".encode()
        name = self.name.replace(b"LAUNCH", target.launch_id.encode())
        if self.type == "hash":
            pipeline.hset(key, name, value)
        elif self.type == "zset":
            pipeline.zadd(key, {name: self.score if self.offset_s is None else time.time() + self.offset_s})
        elif self.type == "set":
            pipeline.sadd(key, name)
        elif self.type == "list":
            (pipeline.rpush if self.pick % 2 else pipeline.lpush)(key, name)
        elif self.type == "stream":
            pipeline.xadd(key, {b"result" if self.pick % 3 else name or b"x": value}, id=self._entry_id())
        elif self.type == "string":
            pipeline.set(key, value)
        else:
            pipeline.publish(key, _MESSAGES[self.pick % len(_MESSAGES)])

    def _entry_id(self) -> str:
        """Mostly the next one; now and then the last one that a stream can hold."""
        return {0: "18446744073709551615-18446744073709551615", 1: f"{10**13}-0"}.get(self.pick % 40, "*")


_WARM_ID = "c" * 32
_WARM_POD = f"x-warm-{_WARM_ID}"
_MEMBERS = (_WARM_ID.encode(), f"{SHAPE}:LAUNCH_0".encode(), SHAPE.encode(), f"{SHAPE} hits".encode(),
            f"{SHAPE} off_until".encode(),
            b"LAUNCH", b"LAUNCH_0", b"LAUNCH_1", b"LAUNCH_0:x", b"LAUNCH_999999999", b"LAUNCH_" + b"1" * 5000, b"_0", b":",
            b"rq:worker:x", b"rq:queues", b"podrelay:default:results", b"rq:queue:podrelay.default.default.launch",
            b"podrelay.default.default.launch.by-x", b"podrelay.default.default.launch", b"LAUNCH_0-delete")  # fmt: skip
_VALUES = (f"{SHAPE} {MAILBOX} 1.0 {_WARM_POD} gAAAA".encode(), _WARM_POD.encode(), b"warm",
           b"0", b"1", b"2", b"7", b"999999999", b"1000000000", b"podrelay.default.default.launch", b"a,b 1", b"default",
           b"x-00000000000040008000000000000001-" + b"1" * 5000)  # fmt: skip


@st.composite
def writes(draw: st.DrawFn) -> Write:
    """One write: two of three to a key's own type, the others in its place."""
    family = draw(st.sampled_from(FAMILIES))
    other = draw(st.integers(0, 2)) == 0 and family.type != "channel"
    fields = (*_JOB_FIELDS, *_LEDGER_FIELDS, *WORDS)
    name = st.sampled_from(fields).map(str.encode) if family.type == "hash" else st.sampled_from(_MEMBERS)
    return Write(
        family,
        draw(st.sampled_from(TYPES)) if other else family.type,
        draw(st.integers(0, 19)) == 0,
        draw(st.integers(0, 10_000)),
        draw(name | name | name | raw),
        draw(raw | st.sampled_from((*_VALUES, *(state.encode() for state in _STATES)))),
        draw(st.floats(allow_nan=False) | st.integers(-10, 10).map(float)),
        draw(st.none() | st.sampled_from(_OFFSETS_S)),
    )


def key_names() -> set[str]:
    """What `redis_keys` calls each key: a campaign must know all of them."""
    of_class = {
        name for name, value in vars(RedisKeys).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property))
    }  # fmt: skip
    constants = {name for name in vars(redis_keys) if name.startswith("RQ_")}
    functions = {name for name in vars(redis_keys) if name.startswith("rq_")}
    # Names of queues and workers, of which others make keys; prefixes; what no process ever writes.
    return (of_class | constants | functions) - {
        "key", "launch_prefix", "launch_queue", "launch_queues", "cleanup_queue", "queue_prefix", "worker_name",
        "never_written", "deployment", "mailbox_prefix",
    }  # fmt: skip


def targets(
    keys: RedisKeys,
    launch_ids: list[str],
    workers: list[str],
    shapes: Sequence[str] = (),
    mailboxes: Sequence[str] = (),
) -> Callable[[int], Target]:
    """Chooses, by a number, the launch, queue, worker, shape and mailbox that a write is about."""
    queues = [keys.launch_queue("default"), keys.launch_queue("default", 3), keys.cleanup_queue("default"),
              keys.launch_queue("default") + redis_keys.fair_queue_mark("4242")]  # fmt: skip
    ids, names = launch_ids or [identifiers.new_launch_id()], workers or ["w"]
    choices: tuple[Sequence[str], ...] = (ids, names, queues, shapes or [SHAPE], mailboxes or [MAILBOX])
    return lambda pick: Target(*(of[pick % len(of)] for of in choices))
