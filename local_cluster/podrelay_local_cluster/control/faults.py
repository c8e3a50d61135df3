"""The faults that are switched on, and what they do to each request, stream, image and namespace. No I/O.

`control_api` switches them. `request_handler`, `watching`, `pod_run` (delay), `container_run` (images) and `admission`
(pod limits) query them.
"""

from __future__ import annotations

import fnmatch
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from podrelay_local_cluster.control.fault_rules import (
    FaultRule,
    ImageFault,
    as_configuration,
    parse_configuration,
)
from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.objects.errors import StatusError, error_from_code
from podrelay_local_cluster.objects.json_text import Json


@dataclass(frozen=True)
class FaultDecision:
    """What happens to one request: the effects of all rules that hit it."""

    latency_s: float = 0.0
    error: StatusError | None = None
    reset: bool = False
    lost_response: bool = False
    hang: bool = False
    gone: bool = False
    seats: tuple[FaultRule, ...] = ()
    """The rules of which this request takes a seat until `Faults.leave`."""


NO_FAULT = FaultDecision()
# As the API server's priority and fairness says it.
TOO_MANY = "Too many requests, please try again later."


class Faults:
    """The faults that are switched on. Calls `on_change` after each change, so that open streams check them again."""

    def __init__(self, on_change: Callable[[], None], pod_start_delay_s: float = 0.0) -> None:
        self._on_change = on_change
        self._usual_delay_s = pod_start_delay_s
        self._delay_s: float | None = None
        self._numbers = itertools.count(1)
        self._random = random.Random(0)
        self._rules: list[FaultRule] = []
        self._images: list[ImageFault] = []
        self._quota: dict[str, int] = {}

    def replace(self, body: Any) -> None:
        """Switch off everything else. Raises `StatusError` 400 for an invalid configuration, without any change."""
        given = parse_configuration(body)
        self._number(given.rules)
        self._clear()
        self._random.seed(given.seed if given.seed is not None else 0)
        self._rules, self._images, self._quota = given.rules, given.images, given.quota
        self._delay_s = given.pod_start_delay_s
        self._on_change()

    def add(self, body: Any) -> list[str]:
        """Add a configuration or a single rule. Returns the ids of the new rules. Raises `StatusError` 400."""
        given = parse_configuration(as_configuration(body))
        self._number(given.rules)
        if given.seed is not None:
            self._random.seed(given.seed)
        self._rules += given.rules
        self._images += given.images
        self._quota.update(given.quota)
        if given.pod_start_delay_s is not None:
            self._delay_s = given.pod_start_delay_s
        self._on_change()
        return [rule.id for rule in given.rules]

    def remove(self, rule_id: str = "") -> None:
        """Switch off one rule, or everything."""
        if rule_id:
            self._rules = [rule for rule in self._rules if rule.id != rule_id]
        else:
            self._clear()
        self._on_change()

    def to_json(self) -> Json:
        return {
            "rules": [rule.to_json() for rule in self._rules],
            "images": [{"pattern": fault.pattern, "message": fault.message} for fault in self._images],
            "quota": dict(self._quota),
            "pod_start_delay_s": self.pod_start_delay_s,
        }

    def decide(self, info: RequestInfo, name: str) -> FaultDecision:
        """The decision for one request. Every rule that hits it counts the hit; latencies are added up."""
        if not self._rules:
            return NO_FAULT
        hit = [rule for rule in self._rules if rule.hits_requests and self._draw(rule, info, name)]
        if not hit:
            return NO_FAULT
        refusing = next((rule for rule in hit if rule.status is not None), None)
        error = None
        if refusing is not None and refusing.status is not None:
            error = error_from_code(refusing.status, refusing.message, refusing.retry_after_s, refusing.reason)
        limiting = tuple(rule for rule in hit if rule.seats is not None)
        full = next((rule for rule in limiting if rule.seats is not None and rule.taken >= rule.seats), None)
        if full is not None:
            after_s = 1.0 if full.retry_after_s is None else full.retry_after_s
            return FaultDecision(error=error_from_code(429, full.message or TOO_MANY, after_s, full.reason))
        for rule in limiting:
            rule.taken += 1
        return FaultDecision(
            latency_s=sum(rule.latency_s + self._random.uniform(0, rule.jitter_s) for rule in hit),
            error=error,
            reset=any(rule.reset for rule in hit),
            lost_response=any(rule.lost_response for rule in hit),
            hang=any(rule.hang for rule in hit),
            gone=any(rule.gone for rule in hit),
            seats=limiting,
        )

    @staticmethod
    def leave(decision: FaultDecision) -> None:
        """The request is answered, or its client has gone: its seats are free again."""
        for rule in decision.seats:
            rule.taken -= 1

    def is_hanging(self, info: RequestInfo, name: str) -> bool:
        """Whether a rule still makes this request hang."""
        return any(rule.hang and rule.matches(info, name) for rule in self._rules)

    def next_order(self) -> int:
        """The order of a stream that opens now; rules added later have greater ones."""
        return next(self._numbers)

    def silences(self, info: RequestInfo, order: int, known: set[str]) -> bool:
        """Whether the stream must be silent now. `known`: the rules that have hit this stream; rules are added to it."""
        for rule in self._rules:
            if not rule.silence or not (rule.also_new_streams or order < rule.order):
                continue
            if rule.id in known:
                return True
            if rule.matches(info, info.name) and self._draw(rule, info, info.name):
                known.add(rule.id)
                return True
        return False

    def truncates(self, info: RequestInfo) -> bool:
        """Whether to cut the stream's next event. Counts as a hit."""
        return any(rule.truncate_stream and self._draw(rule, info, info.name) for rule in self._rules)

    def pull_error(self, image: str) -> str | None:
        for fault in self._images:
            if fnmatch.fnmatchcase(image, fault.pattern):
                return fault.message or f'failed to pull and unpack image "{image}": not found'
        return None

    @property
    def pod_start_delay_s(self) -> float:
        """How long a pod that begins to start now stays ContainerCreating."""
        return self._usual_delay_s if self._delay_s is None else self._delay_s

    def pod_limit(self, namespace: str) -> int | None:
        return self._quota.get(namespace)

    def _number(self, rules: list[FaultRule]) -> None:
        for rule in rules:
            rule.order = next(self._numbers)
            rule.id = rule.id or f"rule-{rule.order}"

    def _clear(self) -> None:
        self._rules, self._images, self._quota, self._delay_s = [], [], {}, None
        self._random.seed(0)

    def _draw(self, rule: FaultRule, info: RequestInfo, name: str) -> bool:
        if rule.count == 0 or not rule.matches(info, name):
            return False
        if rule.probability < 1.0 and self._random.random() >= rule.probability:
            return False
        rule.hits += 1
        if rule.count is not None:
            rule.count -= 1
        return True
