"""The faults, by name. Each one lasts for its nominal time times the scale, heals what it broke, and returns."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.chaos.rig import IDLE_S, SLOTS, Rig


@dataclass(frozen=True)
class Fault:
    """`seconds` at scale 1; `drivers` schedulers."""

    name: str
    seconds: float
    inject: Callable[[Turn], None]
    drivers: int = 1
    about: str = ""
    # Slots of each scheduler, and how many tasks a round has at least.
    slots: int = SLOTS
    tasks: int = 0
    # Only with warm pods.
    warm: bool = False


@dataclass
class Turn:
    """What a fault has at hand."""

    rig: Rig
    rng: random.Random
    seconds: float
    log: list[str]
    # What the fault itself saw that must not be.
    wrong: list[str] = field(default_factory=list)
    # Wall-clock times from and to which the API server asked for patience.
    windows: list[tuple[float, float]] = field(default_factory=list)
    # Names of pods that were killed while they may have run a task, which then fails.
    killed: set[str] = field(default_factory=set)
    # When all was whole again (monotonic), where that was before the fault's function returned.
    healed_s: float = 0.0

    @property
    def ends_s(self) -> float:
        return self.began_s + self.seconds

    def __post_init__(self) -> None:
        self.began_s = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends_s

    def wait(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self.ends_s - time.monotonic())))

    def note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self.began_s:6.2f} {what}")

    def pick(self, role: str) -> str:
        return self.rng.choice(self.rig.of(role))


FAULTS: dict[str, Fault] = {}
# A launcher's lease, and how soon after its end another launcher must have taken the job.
LEASE_S, TAKEN_OVER_S = 6.0, 5.0


def fault(
    name: str, seconds: float, drivers: int = 1, slots: int = SLOTS, tasks: int = 0, warm: bool = False
) -> Callable[[Callable[[Turn], None]], Callable[[Turn], None]]:
    def add(inject: Callable[[Turn], None]) -> Callable[[Turn], None]:
        FAULTS[name] = Fault(name, seconds, inject, drivers, (inject.__doc__ or "").strip(), slots, tasks, warm)
        return inject

    return add


# --- processes --------------------------------------------------------------------------------------------------------
def _kill_and_restart(turn: Turn, name: str, away_s: float) -> None:
    turn.note(f"SIGKILL {name}, back after {away_s:.1f} s")
    turn.rig.kill(name)
    time.sleep(away_s)
    turn.rig.launch(name)


@fault("none", 10)
def none(turn: Turn) -> None:
    """Nothing: what the judge says of a quiet day."""
    turn.wait(turn.seconds)


@fault("kill-launchers", 30)
def kill_launchers(turn: Turn) -> None:
    """SIGKILL of a launcher every 2 s."""
    with leases_watched(turn):
        while not turn.over:
            _kill_and_restart(turn, turn.pick("launcher"), 0.0)
            turn.wait(2.0)
        turn.healed_s = time.monotonic()
        time.sleep(LEASE_S + TAKEN_OVER_S)  # of the last one that was killed


@contextlib.contextmanager
def leases_watched(turn: Turn) -> Iterator[None]:
    """Each lease that ends is taken over within TAKEN_OVER_S; the longest that one was overdue is noted."""
    over, worst = threading.Event(), [0.0]

    def look() -> None:
        client = turn.rig.client()
        while not over.wait(0.2):
            with contextlib.suppress(redis.RedisError):
                ends: list[Any] = []
                for key in client.keys("rq:wip:podrelay.*"):
                    ends += client.zrange(key, 0, 0, withscores=True)
                seconds, micros = client.time()  # type: ignore[misc]
                worst[0] = max([worst[0], *(seconds + micros / 1e6 - end for _, end in ends)])

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        turn.note(f"the longest that a lease was overdue: {worst[0]:.1f} s")
        if worst[0] > TAKEN_OVER_S:
            turn.wrong.append(f"a lease was taken over {worst[0]:.1f} s after its end")


@fault("kill-watchers", 30)
def kill_watchers(turn: Turn) -> None:
    """SIGKILL of a watcher every 5 s, mostly of the leader."""
    while not turn.over:
        name = turn.rig.leader() if turn.rng.random() < 0.7 else turn.pick("watcher")
        _kill_and_restart(turn, name, turn.rng.random())
        turn.wait(5.0)


@fault("freeze-leader", 30)
def freeze_leader(turn: Turn) -> None:
    """SIGSTOP of the leading watcher."""
    with frozen(turn, turn.rig.leader()):
        turn.wait(turn.seconds)


@fault("freeze-launcher", 20)
def freeze_launcher(turn: Turn) -> None:
    """SIGSTOP of a launcher beyond its lease."""
    with frozen(turn, turn.pick("launcher")):
        turn.wait(turn.seconds)


@contextlib.contextmanager
def frozen(turn: Turn, name: str) -> Iterator[None]:
    turn.note(f"SIGSTOP {name}")
    turn.rig.signal(name, signal.SIGSTOP)
    try:
        yield
    finally:
        turn.note(f"SIGCONT {name}")
        turn.rig.signal(name, signal.SIGCONT)


@fault("kill-scheduler", 30)
def kill_scheduler(turn: Turn) -> None:
    """SIGKILL of the only scheduler at any moment, and restart."""
    while not turn.over:
        turn.wait(turn.rng.uniform(1.0, 5.0))
        _kill_and_restart(turn, turn.pick("driver"), turn.rng.random())


@fault("kill-one-scheduler", 30, drivers=2)
def kill_one_scheduler(turn: Turn) -> None:
    """SIGKILL of one of two schedulers, and restart."""
    while not turn.over:
        turn.wait(turn.rng.uniform(2.0, 6.0))
        _kill_and_restart(turn, turn.pick("driver"), turn.rng.uniform(0.0, 5.0))


@fault("freeze-one-scheduler", 40, drivers=2)
def freeze_one_scheduler(turn: Turn) -> None:
    """SIGSTOP of one of two schedulers, beyond scheduler_health_check_threshold: both then think it is theirs."""
    with frozen(turn, turn.pick("driver")):
        turn.wait(turn.seconds)


# --- Redis ------------------------------------------------------------------------------------------------------------
@fault("redis-kill-aof", 20)
def redis_kill_aof(turn: Turn) -> None:
    """SIGKILL of Redis and restart with its append-only file."""
    _lose_redis(turn, keep_data=True)


@fault("redis-kill-empty", 20)
def redis_kill_empty(turn: Turn) -> None:
    """SIGKILL of Redis and restart without any data."""
    _lose_redis(turn, keep_data=False)


def _lose_redis(turn: Turn, keep_data: bool) -> None:
    while not turn.over:
        turn.wait(turn.rng.uniform(2.0, 8.0))
        turn.note("SIGKILL Redis")
        turn.rig.restart_redis(keep_data)


@fault("redis-flushall", 20)
def redis_flushall(turn: Turn) -> None:
    """FLUSHALL at any moment."""
    while not turn.over:
        turn.wait(turn.rng.uniform(2.0, 8.0))
        turn.note("FLUSHALL")
        turn.rig.client().flushall()


@fault("redis-freeze", 60)
def redis_freeze(turn: Turn) -> None:
    """SIGSTOP of Redis."""
    turn.wait(min(2.0, turn.seconds / 5))
    turn.note("SIGSTOP Redis")
    turn.rig.redis.pause()
    try:
        turn.wait(turn.seconds)
    finally:
        turn.rig.redis.resume()


@fault("redis-full", 20)
def redis_full(turn: Turn) -> None:
    """Maxmemory reached, while launches wait for a busy API server and a launcher that stops gives its jobs back."""
    turn.wait(min(2.0, turn.seconds / 5))
    client = turn.rig.client()
    turn.note("maxmemory reached")
    client.config_set("maxmemory", 1)
    try:
        with faulty(turn, verbs=["create"], status=503, probability=0.3):
            for name in turn.rig.of("launcher")[:1]:
                turn.wait(turn.seconds / 3)
                turn.rig.signal(name, signal.SIGTERM)
                turn.wait(turn.seconds / 3)
                turn.rig.kill(name)
                turn.rig.launch(name)
            turn.wait(turn.seconds)
    finally:
        client.config_set("maxmemory", 0)


@fault("drop-stream", 20)
def drop_stream(turn: Turn) -> None:
    """About 10 % of the stream's entries vanish before anybody can read them (and more may be read first)."""
    client, last, dropped = turn.rig.client(), "0-0", 0
    while not turn.over:
        with contextlib.suppress(redis.RedisError):
            entries: Any = client.xrange("podrelay:default:results", f"({last}", "+", 100)
            for entry_id, _ in entries:
                last = entry_id
                if turn.rng.random() < 0.1:
                    dropped += client.xdel("podrelay:default:results", entry_id)
        time.sleep(0.001)
    turn.note(f"{dropped} entries dropped")


# --- API server -------------------------------------------------------------------------------------------------------
_ALL: dict[str, Any] = {"resource": "pods"}


@contextlib.contextmanager
def faulty(turn: Turn, **rule: Any) -> Iterator[None]:
    turn.note(f"API server: {rule}")
    rule_id = turn.rig.cluster.add_fault(**_ALL, **rule)
    try:
        yield
    finally:
        turn.rig.cluster.remove_fault(rule_id)


@fault("api-restart", 20)
def api_restart(turn: Turn) -> None:
    """The API server is down for a while; pods go on."""
    turn.wait(min(2.0, turn.seconds / 5))
    turn.note("API server down")
    turn.rig.cluster.restart(max(1.0, turn.ends_s - time.monotonic()))
    turn.wait(turn.seconds)
    turn.rig.until(turn.rig.cluster.stats, 30, "the API server")


@fault("api-429", 60)
def api_429(turn: Turn) -> None:
    """429 with Retry-After as long as the fault."""
    turn.wait(min(2.0, turn.seconds / 5))
    left_s = max(1, math.ceil(turn.ends_s - time.monotonic()))  # a header holds whole seconds; less would end too early
    began_s = time.time()
    with faulty(turn, status=429, retry_after_s=float(left_s)):
        turn.wait(turn.seconds)
    turn.windows.append((began_s, time.time()))


@fault("api-500", 60)
def api_500(turn: Turn) -> None:
    """500 to every request."""
    with faulty(turn, status=500):
        turn.wait(turn.seconds)


@fault("api-reset", 60)
def api_reset(turn: Turn) -> None:
    """Connections are reset without an answer."""
    with faulty(turn, reset=True):
        turn.wait(turn.seconds)


@fault("api-lost-answers", 30)
def api_lost_answers(turn: Turn) -> None:
    """30 % of the requests are performed, and their answers lost."""
    with faulty(turn, lost_response=True, probability=0.3):
        turn.wait(turn.seconds)


# --- partitions -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def cut(turn: Turn, name: str, server: str) -> Iterator[None]:
    member = turn.rig.members[name]
    link = member.to_redis if server == "redis" else member.to_api
    turn.note(f"{name} is cut off from {server}")
    turn.rig.links.cut(link)
    try:
        yield
    finally:
        turn.rig.links.mend(link)


def _partition(role: str, server: str) -> None:
    def inject(turn: Turn) -> None:
        name = turn.rig.leader() if role == "watcher" else turn.pick(role)
        with cut(turn, name, server):
            turn.wait(turn.seconds)

    inject.__doc__ = f"One {'scheduler' if role == 'driver' else role} is cut off from {server}."
    fault(f"cut-{'scheduler' if role == 'driver' else role}-{server}", 20)(inject)


for _role, _server in (
    ("launcher", "redis"),
    ("launcher", "api"),
    ("watcher", "redis"),
    ("watcher", "api"),
    ("driver", "redis"),
):
    _partition(_role, _server)


# --- the scheduler's own timeout --------------------------------------------------------------------------------------
@fault("queue-timeout", 20, slots=600, tasks=500)
def queue_timeout(turn: Turn) -> None:
    """Some tasks begin, then no pod can be made, and all that wait are past the queue timeout at once.

    No pod begins while Airflow looks through them: it puts each task that it had found in queued back to scheduled without
    looking at its state again, so that one that began meanwhile runs a second time, whatever the executor does.
    """
    turn.wait(turn.seconds * 0.2)
    with faulty(turn, verbs=["create"], status=503):
        turn.wait(turn.seconds * 0.7)
        time.sleep(1.0)  # for pods whose creation was under way to begin
        turn.note(f"{turn.rig.rows.age(3600.0)} tasks are past the queue timeout")
        turn.rig.until(lambda: not turn.rig.rows.aged(1800.0), 60, "the scheduler's look at them")
        time.sleep(2.0)


# --- warm pods --------------------------------------------------------------------------------------------------------
@fault("kill-idle-pods", 30, warm=True)
def kill_idle_pods(turn: Turn) -> None:
    """Idle warm pods vanish, are deleted, or their processes are killed; some of them just when they get a task."""
    counts: Counter[str] = Counter()
    while not turn.over:
        with contextlib.suppress(OSError):
            idle = turn.rig.idle_pods()
            for pod in turn.rng.sample(idle, min(len(idle), turn.rng.randint(1, 3))):
                how = turn.rng.choice((_remove_idle, _delete, _kill_process))
                counts[how.__name__] += how(turn, pod)
        turn.wait(turn.rng.uniform(0.2, 1.5))
    turn.note(f"idle pods that were hit: {dict(counts)}")


def _remove_idle(turn: Turn, pod: dict[str, Any]) -> bool:
    """At once, on condition that nobody has changed it: no launch has it."""
    conditions = {name: pod["metadata"][name] for name in ("uid", "resourceVersion")}
    return turn.rig.delete_pod(pod, gracePeriodSeconds=0, preconditions=conditions)


def _delete(turn: Turn, pod: dict[str, Any]) -> bool:
    """As an operator or a drained node does."""
    turn.killed.add(pod["metadata"]["name"])
    return turn.rig.delete_pod(pod, preconditions={"uid": pod["metadata"]["uid"]})


def _kill_process(turn: Turn, pod: dict[str, Any]) -> bool:
    """As the kernel does when memory is short."""
    turn.killed.add(pod["metadata"]["name"])
    turn.rig.cluster.end_pod("default", pod["metadata"]["name"], exit_code=137, signal=9, reason="OOMKilled")
    return True


@fault("cut-warm-pods-redis", 30, warm=True)
def cut_warm_pods_redis(turn: Turn) -> None:
    """Warm pods are cut off from Redis while workloads are delivered; what is under way arrives later, or is lost."""
    rig = turn.rig
    while not turn.over:
        turn.wait(turn.rng.uniform(0.3, 3.0))
        away_s, lose = turn.rng.choice((0.1, 1.0, 3.0, 7.0)), turn.rng.random() < 0.5
        turn.note(f"warm pods are cut off from Redis for {away_s:g} s{', and their connections reset' * lose}")
        rig.links.cut(rig.pods_link)
        try:
            turn.wait(away_s)
            if lose:
                rig.links.reset(rig.pods_link)
        finally:
            rig.links.mend(rig.pods_link)


@fault("no-launcher", 10, warm=True)
def no_launcher(turn: Turn) -> None:
    """All launchers are killed, until the idle pods have ended by themselves."""
    for name in turn.rig.of("launcher"):
        turn.note(f"SIGKILL {name}")
        turn.rig.kill(name)
    try:
        turn.rig.until(lambda: not turn.rig.idle_pods(), IDLE_S + 5.0, "the end of all idle pods")
    except TimeoutError as error:
        turn.wrong.append(str(error))
    for name in turn.rig.of("launcher"):
        turn.rig.launch(name)


# --- all together -----------------------------------------------------------------------------------------------------
_SHORT = (
    "kill-launchers", "kill-watchers", "freeze-leader", "freeze-launcher", "kill-one-scheduler", "redis-kill-aof",
    "redis-kill-empty", "redis-flushall", "redis-freeze", "redis-full", "drop-stream", "api-restart", "api-429", "api-500",
    "api-reset", "api-lost-answers", "cut-launcher-redis", "cut-launcher-api", "cut-watcher-redis", "cut-watcher-api",
    "cut-scheduler-redis",
)  # fmt: skip
_OF_WARM_PODS = ("kill-idle-pods", "cut-warm-pods-redis")


@fault("random", 600, drivers=2)
def at_random(turn: Turn) -> None:
    """All of them in a random order, two at a time, each for 2 to 10 s."""

    def strand(rng: random.Random, names: list[str]) -> None:
        while not turn.over:
            name = rng.choice(names)
            seconds = min(rng.uniform(2.0, 10.0), max(0.5, turn.ends_s - time.monotonic()))
            turn.note(f"--- {name} for {seconds:.1f} s")
            inner = Turn(turn.rig, rng, seconds, turn.log, turn.wrong, turn.windows, turn.killed)
            with contextlib.suppress(redis.RedisError, OSError, TimeoutError):
                FAULTS[name].inject(inner)
            time.sleep(rng.random())

    # Processes belong to one strand and servers to the other: what one of them stops, the other cannot start.
    names = (*_SHORT, *_OF_WARM_PODS) if turn.rig.warm_pods else _SHORT
    people = [name for name in names if not name.startswith(("redis", "api"))]
    servers = [name for name in names if name.startswith(("redis", "api"))]
    threads = [
        threading.Thread(target=strand, args=(random.Random(turn.rng.random()), names)) for names in (people, servers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
