"""When what an exec plugin gave expires, which the client library reads and then forgets. Used by `credential_loader`."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import Any

# Each run of a plugin has a thread of its own (`unbounded_call`).
_of_thread = threading.local()


def record() -> None:
    """From now on, in this process: remember the expiry that a plugin reports."""
    from kubernetes_asyncio.config import exec_provider

    run = exec_provider.ExecProvider.run

    async def recording(*args: Any, **options: Any) -> Any:
        status = await run(*args, **options)
        _of_thread.expiry = status.get("expirationTimestamp")
        return status

    exec_provider.ExecProvider.run = recording  # type: ignore[method-assign]


def lifetime_s() -> float | None:
    """Seconds until what the plugin gave in this thread expires; None if it did not say, or named no time."""
    from kubernetes_asyncio.config.dateutil import parse_rfc3339

    found: Any = getattr(_of_thread, "expiry", None)
    try:
        expiry = parse_rfc3339(found)
    except (TypeError, ValueError):
        return None
    return float((expiry - datetime.now(timezone.utc)).total_seconds())
