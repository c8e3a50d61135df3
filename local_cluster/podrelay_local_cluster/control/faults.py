"""Faults that a test switches on: which requests and streams they hit, and what happens to those. No I/O.

The JSON of a rule is the fields of `Rule` that say what it matches, beside those of its effects:

    {"verbs": ["create"], "namespace": "default", "name_prefix": "etl-", "probability": 0.5, "count": 3,
     "status": 429, "retry_after_s": 2}
"""

from __future__ import annotations

import fnmatch
import itertools
import random
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from podrelay_local_cluster.api.request_info import RequestInfo
from podrelay_local_cluster.objects.errors import ApiError, bad_request, of_code

Json = dict[str, Any]

_STREAM_EFFECTS = ("truncate_stream", "silence")


@dataclass
class Rule:
    """One fault. Empty conditions match everything; the effects may be combined where that makes sense."""

    id: str = ""
    verbs: tuple[str, ...] = ()
    resource: str = ""
    namespace: str = ""
    name_prefix: str = ""
    subresource: str | None = None
    probability: float = 1.0
    """Chance that a matching request is hit; drawn from the seeded generator."""
    count: int | None = None
    """How many hits are left; None for any number."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Up to this much is added to the latency, evenly distributed."""
    status: int | None = None
    """Refuse with this HTTP code and a `Status` object."""
    reason: str | None = None
    message: str | None = None
    retry_after_s: float | None = None
    reset: bool = False
    """Reset the TCP connection without an answer; the request has no effect."""
    lost_response: bool = False
    """Perform the request, then reset the connection."""
    hang: bool = False
    """Neither perform nor answer; ends when the client goes or the rule does."""
    gone: bool = False
    """The watch begins with an ERROR event of code 410, as for a forgotten version; other requests are refused with 410."""
    truncate_stream: bool = False
    """Cut a watch in the middle of the next event's line."""
    silence: bool = False
    """Streams that are open when the rule is set stay open and send nothing, until the rule goes."""
    also_new_streams: bool = False
    """Let `silence` hit streams that open later, too."""

    hits: int = 0
    order: int = field(default=0, repr=False)

    def matches(self, info: RequestInfo, name: str) -> bool:
        return (
            (not self.verbs or info.verb in self.verbs)
            and (not self.resource or info.resource == self.resource)
            and (not self.namespace or info.namespace == self.namespace)
            and (self.subresource is None or info.subresource == self.subresource)
            and name.startswith(self.name_prefix)
        )

    @property
    def hits_requests(self) -> bool:
        """Whether the rule acts when a request comes in, rather than on an open stream."""
        return not (self.truncate_stream or self.silence)

    def to_json(self) -> Json:
        shown = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "order"}
        return {key: value for key, value in shown.items() if value not in (None, "", (), False, 0.0) or key == "hits"}


@dataclass(frozen=True)
class Decision:
    """What happens to one request, all matching rules taken together."""

    latency_s: float = 0.0
    error: ApiError | None = None
    reset: bool = False
    lost_response: bool = False
    hang: bool = False
    gone: bool = False


NO_FAULT = Decision()


@dataclass(frozen=True)
class ImageFault:
    """Images whose name matches the shell-style pattern cannot be pulled."""

    pattern: str
    message: str = ""


class Faults:
    """The faults that are on now. `on_change` is called after each change, so that open streams look again."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._numbers = itertools.count(1)
        self._random = random.Random(0)
        self._rules: list[Rule] = []
        self._images: list[ImageFault] = []
        self._quota: dict[str, int] = {}

    def replace(self, body: Any) -> None:
        """Raises `ApiError` 400 for a body that is no fault configuration; then nothing has changed."""
        rules, images, quota, seed = self._parse(body)
        self._clear()
        self._random.seed(seed if seed is not None else 0)
        self._rules, self._images, self._quota = rules, images, quota
        self._on_change()

    def add(self, body: Any) -> list[str]:
        """Keep what is on and add this: a whole configuration or a single rule. The ids of the new rules."""
        if isinstance(body, dict) and not {"rules", "images", "quota", "seed"} & set(body):
            body = {"rules": [body]}
        rules, images, quota, seed = self._parse(body)
        if seed is not None:
            self._random.seed(seed)
        self._rules += rules
        self._images += images
        self._quota.update(quota)
        self._on_change()
        return [rule.id for rule in rules]

    def remove(self, rule_id: str = "") -> None:
        """One rule by its id, or everything."""
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
        }

    def decide(self, info: RequestInfo, name: str) -> Decision:
        """Every rule that matches and is drawn counts as hit; delays add up."""
        if not self._rules:
            return NO_FAULT
        hit = [rule for rule in self._rules if rule.hits_requests and self._draw(rule, info, name)]
        if not hit:
            return NO_FAULT
        refusing = next((rule for rule in hit if rule.status is not None), None)
        error = None
        if refusing is not None and refusing.status is not None:
            error = of_code(refusing.status, refusing.message, refusing.retry_after_s, refusing.reason)
        return Decision(
            latency_s=sum(rule.latency_s + self._random.uniform(0, rule.jitter_s) for rule in hit),
            error=error,
            reset=any(rule.reset for rule in hit),
            lost_response=any(rule.lost_response for rule in hit),
            hang=any(rule.hang for rule in hit),
            gone=any(rule.gone for rule in hit),
        )

    def is_hanging(self, info: RequestInfo, name: str) -> bool:
        """Whether a rule that keeps this request from an answer is still on."""
        return any(rule.hang and rule.matches(info, name) for rule in self._rules)

    def next_order(self) -> int:
        """A number for a stream that opens now; rules set later have a greater one."""
        return next(self._numbers)

    def silences(self, info: RequestInfo, opened: int, known: set[str]) -> bool:
        """Whether the stream must be silent now; `known` is the stream's own note of the rules that have hit it."""
        for rule in self._rules:
            if not rule.silence or not (rule.also_new_streams or opened < rule.order):
                continue
            if rule.id in known:
                return True
            if rule.matches(info, info.name) and self._draw(rule, info, info.name):
                known.add(rule.id)
                return True
        return False

    def truncates(self, info: RequestInfo) -> bool:
        """Whether the stream's next event is to be cut; counts as a hit."""
        return any(rule.truncate_stream and self._draw(rule, info, info.name) for rule in self._rules)

    def pull_error(self, image: str) -> str | None:
        for fault in self._images:
            if fnmatch.fnmatchcase(image, fault.pattern):
                return fault.message or f'failed to pull and unpack image "{image}": not found'
        return None

    def pod_limit(self, namespace: str) -> int | None:
        return self._quota.get(namespace)

    def _clear(self) -> None:
        self._rules, self._images, self._quota = [], [], {}
        self._random.seed(0)

    def _draw(self, rule: Rule, info: RequestInfo, name: str) -> bool:
        if rule.count == 0 or not rule.matches(info, name):
            return False
        if rule.probability < 1.0 and self._random.random() >= rule.probability:
            return False
        rule.hits += 1
        if rule.count is not None:
            rule.count -= 1
        return True

    def _parse(self, body: Any) -> tuple[list[Rule], list[ImageFault], dict[str, int], int | None]:
        if not isinstance(body, dict) or set(body) - {"rules", "images", "quota", "seed"}:
            raise bad_request("faults are a JSON object with rules, images, quota and seed")
        rules = [self._rule(item) for item in body.get("rules") or []]
        images = []
        for item in body.get("images") or []:
            if not isinstance(item, dict) or not item.get("pattern") or set(item) - {"pattern", "message"}:
                raise bad_request("an image fault has a pattern and maybe a message")
            images.append(ImageFault(item["pattern"], item.get("message", "")))
        quota = body.get("quota") or {}
        if not isinstance(quota, dict) or not all(isinstance(limit, int) for limit in quota.values()):
            raise bad_request("quota is an object: namespace to the number of pods")
        return rules, images, dict(quota), body.get("seed")

    def _rule(self, item: Any) -> Rule:
        if not isinstance(item, dict):
            raise bad_request("a fault rule is a JSON object")
        item = dict(item)
        if "verb" in item:
            item["verbs"] = [item.pop("verb")]
        known = {entry.name: entry for entry in fields(Rule) if entry.name not in ("hits", "order")}
        unknown = sorted(set(item) - set(known))
        if unknown:
            raise bad_request(f"unknown fields of a fault rule: {unknown}; known are {sorted(known)}")
        for name, value in item.items():
            default = known[name].default
            plain = default is not MISSING and isinstance(default, (bool, float, str))
            if plain and not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
                raise bad_request(f"{name} of a fault rule has the wrong type: {value!r}")
        item["verbs"] = tuple(item.get("verbs") or ())
        rule = Rule(**item)
        rule.order = next(self._numbers)
        rule.id = rule.id or f"rule-{rule.order}"
        return rule
