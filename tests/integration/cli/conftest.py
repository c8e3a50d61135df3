"""rq-dashboard is tested on what a real launcher leaves in Redis."""

from __future__ import annotations

from tests.integration.launcher.conftest import api, rig

__all__ = ["api", "rig"]
