"""The authorization headers of a Kubernetes client's configuration, renewed by its hook. Used by `credentials`."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable
from typing import Any

from podrelay_workers.kube.errors import Unauthorized
from podrelay_workers.kube.unbounded_call import until_returned

log = logging.getLogger(__name__)

# The hook is called at most this often unless the configuration says how often, and a request waits for it at most so long.
HOOK_EVERY_S, HOOK_WAIT_S = 1.0, 5.0
# So many calls of a hook that hangs at once: it may not be made for more than one thread.
_RUNS_MAX = 2
_CAUSE_MAX = 300


class Authorization:
    """The headers of requests. While the hook hangs or fails, those of before are used."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._headers: dict[str, str] | None = None
        self._renewed_s = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self.trouble = ""

    async def headers(self) -> dict[str, str]:
        """:raises Unauthorized: the hook has never returned yet, or has failed."""
        if getattr(self._configuration, "refresh_api_key_hook", None) is None:
            return headers_of(self._configuration)
        every_s = HOOK_EVERY_S if self.trouble else getattr(self._configuration, "token_every_s", HOOK_EVERY_S)
        if self._headers is None or time.monotonic() - self._renewed_s >= every_s:
            await self._renew()
        if self._headers is None:
            raise Unauthorized(
                self.trouble or "the credentials are not there yet: their hook has not returned", status=401
            )
        return self._headers

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait({self._renewal})

    async def _renew(self) -> None:
        """Wait for the hook, but not for one that is known to hang where earlier headers can be used."""
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._call_hook(), name="renew the credentials")
        if self._headers is None or not self.trouble:
            await asyncio.wait({self._renewal}, timeout=HOOK_WAIT_S)

    async def _call_hook(self) -> None:
        try:
            self._headers = await until_returned(self._run_hook, self._hangs, _RUNS_MAX)
            if self.trouble:
                log.info("The credentials for the API server are renewed again")
            self.trouble = ""
        except Exception as error:  # noqa: BLE001 - a user's hook may raise anything
            cause = f"{type(error).__name__}: {error}"[:_CAUSE_MAX] if str(error) else type(error).__name__
            self._report(f"cannot renew the credentials: {cause}")
        finally:
            self._renewed_s = time.monotonic()
            self._renewal = None

    def _run_hook(self) -> dict[str, str]:
        result = self._configuration.refresh_api_key_hook(self._configuration)
        if inspect.isawaitable(result):
            asyncio.run(_await(result))
        return headers_of(self._configuration)

    def _hangs(self, seconds: float, program: str) -> None:
        what = f" (it waits for {program})" if program else ""
        file = getattr(self._configuration, "token_file", None)
        call = f"reading {file}" if file else "refresh_api_key_hook of the client"
        self._report(f"cannot renew the credentials: {call} has not returned{what}")

    def _report(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("%s; %s", trouble, "using those of before" if self._headers else "there are none yet")
        self.trouble = trouble


async def _await(result: Awaitable[Any]) -> None:
    await result


def headers_of(configuration: Any) -> dict[str, str]:
    """What the configuration holds now, without its hook."""
    keys = configuration.api_key
    # The two client libraries use different names for the same entry.
    name = next((name for name in ("BearerToken", "authorization") if keys.get(name)), None)
    if name is not None:
        prefix = configuration.api_key_prefix.get(name)
        return {"Authorization": f"{prefix} {keys[name]}" if prefix else keys[name]}
    if configuration.username and configuration.password:
        return {"Authorization": configuration.get_basic_auth_token()}
    return {}
