"""What the pool of warm pods needs now: which pods to create, to remove or to look at. Pure; used by `keeper`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from podrelay.store.warm_pool import PoolPod, PoolState, ShapeState
from podrelay_workers.launcher.warm_pool.demand import READY_FIRST_S, target_numbers

# A pod that is not ready after this, or this much later than usual, is looked at in Kubernetes, and again as often.
LOOK_FIRST_S, LOOK_SLOWER = 10.0, 3.0
# A ready pod without a sign of life is replaced after the first, and given up after the second: after an outage of Redis all
# are silent for a moment.
SILENT_FIRST_S, SILENT_MOST_S = 3.0, 10.0


@dataclass(frozen=True)
class Upkeep:
    """Warm ids, and how many pods of each shape to create.

    remove: they have ended, or are too many. look: why are they not ready?
    """

    remove: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    create: dict[str, int] = field(default_factory=dict)


def upkeep(
    state: PoolState,
    *,
    least: int,
    most: int,
    idle_s: float,
    silent_s: Mapping[str, float],
    looked_s: Mapping[str, float],
    full: Collection[str] = (),
) -> Upkeep:
    """Compare the pool with what the launches of the last minutes need.

    :param idle_s: after this time a pod ends by itself.
    :param silent_s: for how long the ready pods that give no sign of life have been silent.
    :param looked_s: at which age the pods that are not ready were looked at last.
    :param full: shapes without room: tasks wait for the quota of their namespace, and come first.
    """
    usable = {name: shape for name, shape in state.shapes.items() if shape.off_s <= 0.0 and name not in full}
    targets = target_numbers(
        {name: [-ago_s for ago_s in shape.arrivals] for name, shape in usable.items()},
        {name: shape.ready_s for name, shape in usable.items() if shape.ready_s > 0.0},
        {name: 1 + shape.hits + shape.misses for name, shape in usable.items()},
        least=least,
        most=most,
    )
    plan = Upkeep()
    # Those that will still be there, the best first.
    kept: dict[str, list[str]] = {}
    leaving = 0
    for pod in sorted(state.pods, key=_best_first):
        shape = state.shapes.get(pod.shape)
        silence_s = 0.0 if pod.alive else silent_s.get(pod.warm_id, 0.0)
        if pod.idle_s is None:
            if pod.age_s - looked_s.get(pod.warm_id, 0.0) > _patience_s(shape):
                plan.look.append(pod.warm_id)
            kept.setdefault(pod.shape, []).append(pod.warm_id)
        elif silence_s >= SILENT_MOST_S:
            plan.remove.append(pod.warm_id)
        elif silence_s >= SILENT_FIRST_S or idle_s - pod.idle_s <= _usual_s(shape):
            leaving += 1  # its successor should be ready when it ends
        else:
            kept.setdefault(pod.shape, []).append(pod.warm_id)
    numbers = dict.fromkeys(targets, 0)
    for name, ids in kept.items():
        number = targets.get(name, 0)
        plan.remove.extend(ids[number:])
        numbers[name] = min(len(ids), number)
    room = most - leaving - sum(numbers.values())
    for name, number in sorted(targets.items(), key=lambda item: -item[1]):
        lacking = min(room, number - numbers[name])
        if lacking > 0:
            plan.create[name] = lacking
            room -= lacking
    return plan


def _best_first(pod: PoolPod) -> tuple[bool, float]:
    """The ready ones, which live longest; then those that will be ready first."""
    return (True, -pod.age_s) if pod.idle_s is None else (False, pod.idle_s)


def _usual_s(shape: ShapeState | None) -> float:
    """How long a pod takes to become ready."""
    return shape.ready_s if shape is not None and shape.ready_s > 0.0 else READY_FIRST_S


def _patience_s(shape: ShapeState | None) -> float:
    return max(LOOK_FIRST_S, LOOK_SLOWER * shape.ready_s if shape is not None else 0.0)
