"""rq-dashboard is tested on what a real launcher leaves in Redis."""

from __future__ import annotations

from tests.integration.launcher.conftest import api, bench

__all__ = ["api", "bench"]
