"""Headless Chromium for tests of pages: the system's, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# A test runs beside others, on two cores.
_LIMIT_MS = 30_000
expect.set_options(timeout=_LIMIT_MS)
# What Chromium says about the frame in which Airflow shows every plugin's page.
_OF_AIRFLOW = "An iframe which has both allow-scripts and allow-same-origin"


def find_chromium() -> str:
    """The program; without one a test fails in CI, and is skipped elsewhere."""
    found = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail("no Chromium on the PATH; .ci/run installs Debian's package chromium")
    pytest.skip("no Chromium on the PATH: install Debian's package chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. While it runs, this thread has an event loop: asyncio.run fails."""
    program = find_chromium()
    # A container's root cannot use Chromium's own sandbox; all pages come from this machine.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@dataclass
class Window:
    """One page, and what its console and its requests had to complain about."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextmanager
def window(browser: Browser, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Window]:
    """A new page with cookies of its own. Nothing fades: what is clicked meanwhile may be ignored."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, **{"reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(_LIMIT_MS)
    opened = Window(context.new_page())
    page, complaints = opened.page, opened.complaints
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type in ("error", "warning") and _OF_AIRFLOW not in message.text
            else None
        ),
    )
    page.on(
        "response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    yield opened
    context.close()
