"""What the pool of warm pods needs now: which pods to create, to remove or to look at. Pure; used by `keeper`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from podrelay.store.warm_pool import END_MARGIN_S, PoolPod, PoolState, ShapeState
from podrelay_workers.launcher.warm_pool.demand import READY_FIRST_S, target_numbers

# A pod that is not ready after this, or this much later than usual, is looked at in Kubernetes, and again as often.
LOOK_FIRST_S, LOOK_SLOWER = 10.0, 3.0
# A ready pod without a sign of life is replaced after the first, and given up after the second: after an outage of Redis all
# are silent for a moment.
SILENT_FIRST_S, SILENT_MOST_S = 3.0, 10.0
# So long there may be more pods of a shape than it needs: its target often moves by one, and back.
SURPLUS_S = 60.0


@dataclass(frozen=True)
class Upkeep:
    """Warm ids, and how many pods of each shape to create.

    remove: they have ended, or are too many. look: why are they not ready? surplus: shapes with more pods than they need.
    """

    remove: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    create: dict[str, int] = field(default_factory=dict)
    surplus: set[str] = field(default_factory=set)


def upkeep(
    state: PoolState,
    *,
    least: int,
    most: int,
    idle_s: float,
    silent_s: Mapping[str, float],
    looked_s: Mapping[str, float],
    surplus_s: Mapping[str, float],
    full: Collection[str] = (),
) -> Upkeep:
    """Compare the pool with what the launches of the last minutes need.

    :param idle_s: after this time a pod ends by itself.
    :param silent_s: for how long the ready pods that give no sign of life have been silent.
    :param looked_s: at which age the pods that are not ready were looked at last.
    :param surplus_s: for how long each shape has had more pods than it needs.
    :param full: shapes without room: tasks wait for the quota of their namespace, and come first.
    """
    usable = {name: shape for name, shape in state.shapes.items() if shape.off_s <= 0.0 and name not in full}
    targets = target_numbers(
        {name: [-ago_s for ago_s in shape.arrivals] for name, shape in usable.items() if _is_repeated(shape)},
        {name: shape.ready_s for name, shape in usable.items() if shape.ready_s > 0.0},
        {name: 1 + shape.hits + shape.misses for name, shape in usable.items()},
        least=least,
        most=most,
    )
    plan = Upkeep()
    kept, leaving = _sort_out(state, plan, idle_s, silent_s, looked_s)
    plan.surplus.update(name for name, ids in kept.items() if len(ids) > targets.get(name, 0))
    lacking = {name: max(0, number - len(kept.get(name, ()))) for name, number in targets.items()}
    too_many = _too_many(kept, targets, surplus_s, room=most - leaving - sum(lacking.values()))
    plan.remove.extend(too_many)
    room = most - leaving - sum(map(len, kept.values())) + len(too_many)
    for name, number in sorted(lacking.items(), key=lambda item: -item[1]):
        if min(room, number) > 0:
            plan.create[name] = min(room, number)
            room -= plan.create[name]
    return plan


def _is_repeated(shape: ShapeState) -> bool:
    """Has it had more than one launch? Where each launch has a shape of its own, such as by its run id, a pod would be of no
    use for any other.
    """
    return len(shape.arrivals) > 1 or shape.hits + shape.misses > 0


def _sort_out(
    state: PoolState, plan: Upkeep, idle_s: float, silent_s: Mapping[str, float], looked_s: Mapping[str, float]
) -> tuple[dict[str, list[str]], int]:
    """Per shape the pods that will still be there, the best first; and how many others there are now. The rest of `plan` is
    what the state of single pods calls for.
    """
    kept: dict[str, list[str]] = {}
    leaving = 0
    for pod in sorted(state.pods, key=_best_first):
        shape = state.shapes.get(pod.shape)
        silence_s = 0.0 if pod.alive else silent_s.get(pod.warm_id, 0.0)
        left_s = idle_s - END_MARGIN_S - (pod.idle_s or 0.0)
        if pod.idle_s is None:
            if pod.age_s - looked_s.get(pod.warm_id, 0.0) > _patience_s(shape):
                plan.look.append(pod.warm_id)
            kept.setdefault(pod.shape, []).append(pod.warm_id)
        elif silence_s >= SILENT_MOST_S or left_s <= 0.0:  # no launch gets it any more, and others need its room
            plan.remove.append(pod.warm_id)
        elif silence_s >= SILENT_FIRST_S or left_s <= _usual_s(shape):
            leaving += 1  # its successor should be ready when it ends
        else:
            kept.setdefault(pod.shape, []).append(pod.warm_id)
    return kept, leaving


def _too_many(
    kept: Mapping[str, Sequence[str]], targets: Mapping[str, int], surplus_s: Mapping[str, float], room: int
) -> list[str]:
    """Pods that leave: where none is needed, where there were too many for long, and where others need their room.

    :param room: how many may stay.
    """
    found: list[str] = []
    stay = sum(map(len, kept.values()))
    for name, ids in sorted(kept.items(), key=lambda item: (targets.get(item[0], 0) > 0, -len(item[1]), item[0])):
        target = targets.get(name, 0)
        extra = ids[target:]
        if target and surplus_s.get(name, 0.0) < SURPLUS_S:
            extra = extra[max(0, len(extra) - max(0, stay - room)) :]
        found += extra
        stay -= len(extra)
    return found


def _best_first(pod: PoolPod) -> tuple[bool, float]:
    """The ready ones, which live longest; then those that will be ready first."""
    return (True, -pod.age_s) if pod.idle_s is None else (False, pod.idle_s)


def _usual_s(shape: ShapeState | None) -> float:
    """How long a pod takes to become ready."""
    return shape.ready_s if shape is not None and shape.ready_s > 0.0 else READY_FIRST_S


def _patience_s(shape: ShapeState | None) -> float:
    return max(LOOK_FIRST_S, LOOK_SLOWER * shape.ready_s if shape is not None else 0.0)
