"""Pure: the pool of warm pods of a cluster, as its keeper describes it in Redis. Used by `overview`.

Anybody with access to Redis may have written the fields: numbers and texts are bounded, and others are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from podrelay.protocol.messages import Json
from podrelay.protocol.redis_values import number_of

# As in prelude.lua: the longest lease, and the longest time for which a pool is switched off.
_LEASE_MOST_S, _OFF_MOST_S = 600.0, 3600.0
# A keeper whose lease ended longer ago keeps nothing any more: warm pods were switched off.
_ENDED_AGO_S = 60.0
# As the launchers keep them.
_SHAPES_MOST = 64
_WHY_MAX = 300
_FIGURE = re.compile(r"([0-9a-f]{16}) ([a-z_]+)")


def warm_pods(state: Mapping[str, str], redis_s: float) -> Json | None:
    """The pool; None where warm pods are off. `shapes` has those of the latest launches first.

    `hit_rate` is the part of the launches that got a warm pod, None before the first one; `ready_s` how long a pod takes to
    be ready, None while that is unknown; `off_s` for how long no pod is kept, 0 where some are.
    """
    left_s = number_of(state.get("expires")) - redis_s
    if not state.get("keeper") or not -_ENDED_AGO_S < left_s <= _LEASE_MOST_S:
        return None
    by_shape: dict[str, dict[str, str]] = {}
    for name, value in state.items():
        parts = _FIGURE.fullmatch(name)
        if parts:
            by_shape.setdefault(parts[1], {})[parts[2]] = value
    shapes = [_shape(name, figures, redis_s) for name, figures in sorted(by_shape.items())]
    shapes.sort(key=lambda shape: shape["seen_s_ago"])
    sums = {what: sum(shape[what] for shape in shapes) for what in ("idle", "starting", "hits", "misses")}
    return {
        "keeper": state["keeper"][:_WHY_MAX] if left_s > 0 else "",
        "most": _count(state.get("most")),
        **sums,
        "hit_rate": _rate(sums["hits"], sums["misses"]),
        "shapes": shapes[:_SHAPES_MOST],
    }


def _shape(name: str, figures: Mapping[str, str], redis_s: float) -> Json:
    counts = {what: _count(figures.get(what)) for what in ("idle", "starting", "hits", "misses")}
    off_s = number_of(figures.get("off_until")) - redis_s
    is_off = 0.0 < off_s <= _OFF_MOST_S
    return {
        "shape": name,
        **counts,
        "hit_rate": _rate(counts["hits"], counts["misses"]),
        "ready_s": number_of(figures.get("ready_s")) or None,
        "seen_s_ago": max(0.0, redis_s - number_of(figures.get("seen"))),
        "off_s": off_s if is_off else 0.0,
        "off_why": figures.get("off_why", "")[:_WHY_MAX] if is_off else "",
    }


def _count(value: str | None) -> int:
    return max(0, int(number_of(value)))


def _rate(hits: int, misses: int) -> float | None:
    return round(hits / (hits + misses), 4) if hits + misses else None
