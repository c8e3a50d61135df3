"""Nothing lost, nothing twice, whoever dies when: the real parts of the relay in every order that Hypothesis finds.

Checked after each step: a job that waits is in a list or in a hand; a withdrawn launch is not claimed; no launch has a
second pod that could run; a pod is deleted only when its task no longer needs it. Checked at the end, when nothing breaks
any more: each task ran once and ended, all slots are free, nothing is left in Redis or in the cluster.
"""

from __future__ import annotations

import logging
import os
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.integration.model.warm_world import WarmPod, WarmWorld
from tests.integration.model.world import LossyRelay, Pod, World

# PODRELAY_MODEL_EXAMPLES=1000 looks longer.
EXAMPLES = int(os.environ.get("PODRELAY_MODEL_EXAMPLES", "25"))
_TASKS_MAX = 6
NUMBER = st.integers(0, 1)
CHANCE = st.sampled_from([False, False, False, True])
ANY = st.integers(0, 100)


class Relayed(RuleBasedStateMachine):
    """Steps of schedulers, launchers, watchers, pods, and of misfortune."""

    url: ClassVar[str] = ""
    kind: ClassVar[type[World]] = World

    def __init__(self) -> None:
        super().__init__()
        self.world = self.kind(self.url)

    def teardown(self) -> None:
        try:
            self.world.settle()
            for task in self.world.tasks:
                assert self.world.runs[task] == 1 or self.world.broken[task], "a task did not run exactly once"
        finally:
            self.world.close()

    # --- schedulers
    @initialize()
    def begin(self) -> None:
        """Three launches are on their way, or the rest would be mostly about nothing."""
        for number in (0, 0, 1):
            self.world.task(number)
        for mind in self.world.minds:
            self.world.beat(mind)

    @precondition(lambda self: len(self.world.tasks) < _TASKS_MAX)
    @rule(who=NUMBER, commit_only=CHANCE)
    def task(self, who: int, commit_only: bool) -> None:
        self.world.task(who, commit_only)

    @rule(who=NUMBER, compare=st.booleans(), lose=CHANCE)
    def beat(self, who: int, compare: bool, lose: bool) -> None:
        self.world.beat(self.world.minds[who], compare, lose)

    @rule(who=NUMBER)
    def scheduler_dies(self, who: int) -> None:
        self.world.die_mind(who)

    @precondition(lambda self: self.world.tasks)
    @rule(who=NUMBER, which=ANY)
    def requeue(self, who: int, which: int) -> None:
        self.world.requeue(self.world.minds[who], self.world.tasks[which % len(self.world.tasks)])

    @rule(who=NUMBER)
    def queue_again(self, who: int) -> None:
        self.world.queue_again(self.world.minds[who])

    # --- launchers
    @rule(who=NUMBER, most=st.integers(1, 4), lose=CHANCE)
    def claim(self, who: int, most: int, lose: bool) -> None:
        self.world.claim(self.world.hands[who], most, lose)

    @rule(who=NUMBER, which=ANY)
    def make(self, who: int, which: int) -> None:
        hands = self.world.hands[who]
        if hands.held:
            self.world.make(hands, hands.held[which % len(hands.held)])

    @rule(who=NUMBER, which=ANY, lose=CHANCE)
    def finish(self, who: int, which: int, lose: bool) -> None:
        hands = self.world.hands[who]
        if hands.held:
            self.world.finish(hands, hands.held[which % len(hands.held)], lose)

    @rule(who=NUMBER, which=ANY, later=st.booleans())
    def put_back(self, who: int, which: int, later: bool) -> None:
        hands = self.world.hands[who]
        if hands.held:
            self.world.put_back(hands, hands.held[which % len(hands.held)], later)

    @rule(who=NUMBER)
    def launcher_dies(self, who: int) -> None:
        self.world.die_hands(who)

    @rule()
    def leases_end(self) -> None:
        self.world.leases_end()

    @rule(who=NUMBER)
    def reap(self, who: int) -> None:
        self.world.reap(self.world.hands[who])

    @rule(who=NUMBER, die=CHANCE)
    def clean(self, who: int, die: bool) -> None:
        self.world.clean(self.world.hands[who], die)

    # --- pods
    @rule(which=ANY, what=st.sampled_from(["start", "start", "end", "end", "break", "crash", "vanish", "stick"]))
    def pod(self, which: int, what: str) -> None:
        if pod := self.pick(which):
            getattr(self.world, f"{what}_pod")(pod)

    def pick(self, which: int) -> Pod | None:
        """No precondition: whether there is a pod may depend on random ids, and rules must not."""
        pods = list(self.world.pods.values())
        return pods[which % len(pods)] if pods else None

    # --- watchers
    @rule(who=NUMBER, lose=CHANCE)
    def watch(self, who: int, lose: bool) -> None:
        self.world.watch(self.world.eyes[who], lose)

    @rule()
    def lead_ends(self) -> None:
        self.world.lead_ends()

    # --- Redis
    @rule()
    def lose_data(self) -> None:
        self.world.lose_data()

    @rule()
    def drop_sides(self) -> None:
        self.world.drop(self.world.names.fair_queues("default"))

    @rule()
    def drop_stream(self) -> None:
        self.world.drop(self.world.names.results)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.world.lost_jobs() == []


class RelayedWarm(Relayed):
    """The same with warm pods."""

    kind = WarmWorld
    world: WarmWorld

    @initialize()
    def begin(self) -> None:
        """As before; and the shape of the launches is known, and pods of it wait."""
        super().begin()
        self.world.begin()

    @rule(
        who=NUMBER,
        steps=st.integers(1, 6),
        look=st.integers(1, 6),
        then=st.sampled_from(["", "", "", "die", "lapse", "requeue", "lose data"]),
    )
    def assign(self, who: int, steps: int, look: int, then: str) -> None:
        """A launcher goes on with one launch for some steps; the pods look at one of them; then something happens."""
        hands = self.world.hands[who]
        if not hands.held:
            self.world.claim(hands, 1)
        for held in hands.held[:1]:
            for step in range(steps):
                if step == look:
                    self.pods_look()
                if held in hands.held:
                    self.world.make(hands, held)
        if then == "die":
            self.world.die_hands(who)
        if then in ("die", "lapse"):
            self.world.leases_end()
            self.world.reap(self.world.hands[1 - who])
            self.world.claim(self.world.hands[1 - who], 4)
        elif then == "requeue":
            for task in self.world.tasks:
                self.world.requeue(self.world.minds[0], task)
            self.world.beat(self.world.minds[0])
        elif then == "lose data":
            self.world.lose_data()

    @rule()
    def pods_look(self) -> None:
        """Each warm pod takes a step."""
        for pod in list(self.world.pods.values()):
            if isinstance(pod, WarmPod):
                self.world.start_pod(pod)

    @rule(who=NUMBER, die=CHANCE)
    def keep(self, who: int, die: bool) -> None:
        self.world.keep(self.world.hands[who], die)

    @rule(which=ANY)
    def idle_over(self, which: int) -> None:
        if pod := self.pick(which):
            self.world.idle_over(pod)

    @rule()
    def signs_end(self) -> None:
        self.world.signs_end()

    @rule(key=st.sampled_from(["warm_pods", "warm_shapes", "warm_state", "warm_arrivals"]))
    def drop_pool(self, key: str) -> None:
        self.world.drop(getattr(self.world.names, key)("default"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machine", [Relayed, RelayedWarm])
def test_nothing_lost_nothing_twice(
    redis_url: str, airflow_db: None, monkeypatch: pytest.MonkeyPatch, machine: type[Relayed]
) -> None:
    monkeypatch.setenv("AIRFLOW__PODRELAY__REDIS_URL", redis_url)
    monkeypatch.setenv("AIRFLOW__PODRELAY__RECONCILE_INTERVAL_S", "0.2")
    monkeypatch.setattr("podrelay.executor.CircuitBreaker", LossyRelay)
    monkeypatch.setattr("podrelay.scheduling.second_looks.SECOND_LOOK_AFTER_S", 0.0)
    logging.disable(logging.CRITICAL)
    machine.url = redis_url
    quick = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    try:
        run_state_machine_as_test(machine, settings=quick)
    finally:
        logging.disable(logging.NOTSET)
