"""How many warm pods each shape needs. Pure; used by `keeper`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

# Launches of this time decide; who launches more rarely than that gets no pod by demand.
ARRIVALS_S = 300.0
# How long a pod takes to become ready, before the first one of its shape was measured.
READY_FIRST_S = 10.0
# The pod that replaces an assigned one is created up to this much later, and some take longer than usual.
KEEPER_LATE_S, SLOWER = 1.0, 1.5


def target_numbers(
    arrivals: Mapping[str, Sequence[float]],
    ready_s: Mapping[str, float],
    seen: Mapping[str, float],
    *,
    least: int,
    most: int,
) -> dict[str, int]:
    """How many warm pods each shape should have, idle and starting; shapes that need none are left out.

    While a pod becomes ready, launches go on arriving: a shape needs as many pods as launches ever arrived within that time.

    :param arrivals: times of the launches of each shape, of the last `ARRIVALS_S`.
    :param ready_s: how long a pod of the shape takes to become ready, where that is known.
    :param seen: how often each shape was seen; the pods of `least` go to those seen most.
    """
    needed = {
        shape: peak(sorted(times), ready_s.get(shape, READY_FIRST_S) * SLOWER + KEEPER_LATE_S)
        for shape, times in arrivals.items()
    }
    if sum(needed.values()) > most:
        needed = shared(most, needed)
    for shape, number in shared(min(least, most), seen).items():
        needed[shape] = max(needed.get(shape, 0), number)
    if sum(needed.values()) > most:
        needed = shared(most, needed)
    return {shape: number for shape, number in needed.items() if number}


def peak(times: Sequence[float], window_s: float) -> int:
    """The largest number of these times, in ascending order, within any window of this length."""
    return max((index + 1 - bisect_right(times, at - window_s, 0, index) for index, at in enumerate(times)), default=0)


def shared(total: int, weights: Mapping[str, float]) -> dict[str, int]:
    """So many pods in proportion to the weights; the largest remainders, then the heaviest, get one more."""
    whole = sum(weights.values())
    if total <= 0 or whole <= 0:
        return {}
    exact = {name: total * weight / whole for name, weight in weights.items()}
    parts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (exact[name] - parts[name], weights[name], name), reverse=True)
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts
