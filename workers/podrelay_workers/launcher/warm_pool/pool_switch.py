"""Switches the warm pods of one shape off for a while, with one warning. Used by `keeper` and `assignment`."""

from __future__ import annotations

import logging

from podrelay.protocol.messages import WarmShape
from podrelay.store.warm_pool import WarmPool
from podrelay_workers.launcher.warm_pool.idle_pods import image_of_shape

log = logging.getLogger(__name__)

# Then launchers try again.
OFF_S = 600.0


async def switch_off(pool: WarmPool, shape: WarmShape, why: str) -> None:
    """:raises RedisUnavailable: it may be off."""
    if await pool.switch_off(shape.shape, OFF_S, why):
        log.warning(
            "No warm pods of image %s for %.0f s, launches get new pods meanwhile: %s",
            image_of_shape(shape), OFF_S, why,
        )  # fmt: skip
