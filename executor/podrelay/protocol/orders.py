"""Pure: the orders of `airflow podrelay drain`, values of `RedisKeys.drain`."""

from __future__ import annotations

# Finish what is in hand and exit.
EXIT = "exit"
# Finish what is in hand and take nothing more.
HOLD = "hold"
# Take launches and clean-ups again, after HOLD.
GO_ON = "go on"
ORDERS = frozenset({EXIT, HOLD, GO_ON})
# Longer values are no orders.
ORDER_MAX = max(map(len, ORDERS))
# A launcher reads an order within a few seconds; of one that is gone, nobody does.
ORDER_TTL_S = 60
# The message on the wake-up channel: read your order.
ANNOUNCEMENT = "drain"
