"""Pure: is the token of a launch good for long enough, and when to stop asking for a new one again and again.

Used by `launch_job`. Times are by the clock of the scheduler that offered the launch and issued the token (`JobClock`): the
launcher's clock may be wrong.
"""

from __future__ import annotations

from podrelay.protocol.messages import LaunchRequest

# The margin never exceeds this share of a token's life: otherwise a new token could already be too old.
_MARGIN_SHARE = 0.25
# A launch whose token was renewed this often without a pod pauses before the next renewal, each time twice as long.
_RENEWALS_FREE = 2
_PAUSE_FIRST_S, _PAUSE_MOST_S = 2.0, 60.0


def is_token_ending(request: LaunchRequest, now_s: float, margin_s: float) -> bool:
    """Does the token end within the margin? A token without an end never does."""
    return bool(request.not_after_s) and now_s + margin_of(request.token_life_s, margin_s) > request.not_after_s


def margin_of(life_s: float, margin_s: float) -> float:
    """`[podrelay] token_margin_s`, at most a share of the token's life (0: unknown)."""
    return min(margin_s, life_s * _MARGIN_SHARE) if life_s > 0 else margin_s


def renewal_pause_s(attempt: int, queued_s: float) -> float:
    """How long to wait before a new token is requested.

    :param queued_s: how long ago this attempt was offered. A token that ended while its launch waited for long, for quota or
        behind others, is renewed at once.
    """
    repeated = attempt - _RENEWALS_FREE
    if repeated < 0:
        return 0.0
    return max(0.0, min(_PAUSE_MOST_S, _PAUSE_FIRST_S * 2.0 ** min(repeated, 16)) - max(0.0, queued_s))


def explain(request: LaunchRequest, now_s: float, margin_s: float) -> str:
    """Why there is no pod, for the task's event log."""
    left_s, margin_s = request.not_after_s - now_s, margin_of(request.token_life_s, margin_s)
    life = f" of {request.token_life_s:g} s ([scheduler] task_queued_timeout)" if request.token_life_s > 0 else ""
    return (
        f"no pod after {request.attempt} attempts: each new token of the task{life} ends too soon. By the scheduler's clock "
        f"the last one ends in {left_s:.0f} s, and {margin_s:.0f} s must be left. Run `airflow podrelay check` on each "
        "machine: it compares the clocks."
    )
