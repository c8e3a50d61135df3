"""Pure: one fault rule, and the fault configuration that a test sends.

The JSON of a rule has fields for what it matches and fields for its effects:

    {"verbs": ["create"], "namespace": "default", "name_prefix": "etl-", "probability": 0.5, "count": 3,
     "status": 429, "retry_after_s": 2}
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from podrelay_local_cluster.http.request_info import RequestInfo
from podrelay_local_cluster.objects.decoding import decoded
from podrelay_local_cluster.objects.errors import bad_request
from podrelay_local_cluster.objects.json_text import Json
from podrelay_local_cluster.objects.schema import Each
from podrelay_local_cluster.options import MAX_START_DELAY_S

_CONFIGURATION_FIELDS = frozenset({"rules", "images", "quota", "seed", "pod_start_delay_s"})
_RULE = {
    "id": str, "verb": str, "verbs": [str], "resource": str, "namespace": str, "name_prefix": str, "subresource": str,
    "probability": float, "count": int, "latency_s": float, "jitter_s": float, "status": int, "reason": str, "message": str,
    "retry_after_s": float, "seats": int, "reset": bool, "lost_response": bool, "hang": bool, "gone": bool,
    "truncate_stream": bool, "silence": bool, "also_new_streams": bool,
}  # fmt: skip
_CONFIGURATION = {
    "rules": [_RULE], "images": [{"pattern": str, "message": str}], "quota": Each(int), "seed": int,
    "pod_start_delay_s": float,
}  # fmt: skip


@dataclass
class FaultRule:
    """One fault. Conditions that are not set match everything; effects can be combined where that makes sense."""

    id: str = ""
    verbs: tuple[str, ...] = ()
    resource: str = ""
    namespace: str = ""
    name_prefix: str = ""
    subresource: str | None = None
    probability: float = 1.0
    """Chance that a matching request is hit, drawn from the seeded generator."""
    count: int | None = None
    """How many hits are left; None for no limit."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    """Up to this much is added to the latency, uniformly distributed."""
    status: int | None = None
    """Refuse with this HTTP code and a `Status` object."""
    reason: str | None = None
    message: str | None = None
    retry_after_s: float | None = None
    seats: int | None = None
    """At most so many matching requests at once; one more is refused with 429 and `retry_after_s`, as the API server's
    priority and fairness does (limit response Reject). Together with `latency_s`: how long each takes its seat."""
    reset: bool = False
    """Reset the TCP connection without a response; the request has no effect."""
    lost_response: bool = False
    """Perform the request, then reset the connection."""
    hang: bool = False
    """Neither perform the request nor respond, until the client disconnects or the rule is removed."""
    gone: bool = False
    """A watch starts with an ERROR event of code 410, as for an expired version; other requests are refused with 410."""
    truncate_stream: bool = False
    """Cut a watch in the middle of the next event's line."""
    silence: bool = False
    """Streams that are open when the rule is added stay open and send nothing until the rule is removed."""
    also_new_streams: bool = False
    """Let `silence` also hit streams that open later."""

    hits: int = 0
    taken: int = 0
    """Seats in use."""
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
        """Whether the rule acts on incoming requests, not on open streams."""
        return not (self.truncate_stream or self.silence)

    def to_json(self) -> Json:
        shown = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("order", "taken")}
        return {key: value for key, value in shown.items() if value not in (None, "", (), False, 0.0) or key == "hits"}


@dataclass(frozen=True)
class ImageFault:
    """Images whose name matches the shell-style pattern cannot be pulled."""

    pattern: str
    message: str = ""


@dataclass(frozen=True)
class FaultConfiguration:
    """Everything that one request switches on. `quota`: namespace to number of pods. `pod_start_delay_s`: in place of the
    server's option of this name, for pods that begin to start from now on.
    """

    rules: list[FaultRule]
    images: list[ImageFault]
    quota: dict[str, int]
    seed: int | None
    pod_start_delay_s: float | None


def parse_configuration(body: Any) -> FaultConfiguration:
    """Raises `StatusError` 400 for an invalid body."""
    if not isinstance(body, dict) or set(body) - _CONFIGURATION_FIELDS:
        raise bad_request("faults must be a JSON object with rules, images, quota, pod_start_delay_s and seed")
    body = decoded(body, _CONFIGURATION)
    rules = [_rule(item) for item in body.get("rules") or []]
    images = [_image_fault(item) for item in body.get("images") or []]
    delay_s = body.get("pod_start_delay_s")
    if delay_s is not None and not 0 <= delay_s <= MAX_START_DELAY_S:
        raise bad_request(f"pod_start_delay_s must be a number of seconds from 0 to {MAX_START_DELAY_S:g}")
    return FaultConfiguration(rules, images, dict(body.get("quota") or {}), body.get("seed"), delay_s)


def as_configuration(body: Any) -> Any:
    """A single rule as the body of a configuration; other bodies are not changed."""
    if isinstance(body, dict) and not _CONFIGURATION_FIELDS & set(body):
        return {"rules": [body]}
    return body


def _image_fault(item: Any) -> ImageFault:
    if not item.get("pattern") or set(item) - {"pattern", "message"}:
        raise bad_request("an image fault needs a pattern and may have a message")
    return ImageFault(item["pattern"], item.get("message") or "")


def _rule(item: Any) -> FaultRule:
    item = {name: value for name, value in item.items() if value is not None}
    if "verb" in item:
        item["verbs"] = [item.pop("verb")]
    known = {entry.name: entry for entry in fields(FaultRule) if entry.name not in ("hits", "taken", "order")}
    unknown = sorted(set(item) - set(known))
    if unknown:
        raise bad_request(f"unknown fields of a fault rule: {unknown}; known fields: {sorted(known)}")
    if not 200 <= item.get("status", 500) <= 599:
        raise bad_request("status of a fault rule must be an HTTP code from 200 to 599")
    item["verbs"] = tuple(item.get("verbs") or ())
    return FaultRule(**item)
