"""A real browser for the tests of the page: headless Chromium, without a network of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the browser; the test is skipped where there is none, but never in CI."""
    pytest.importorskip("playwright")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("CI has no Chromium: apt-get install chromium")
    if found is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return found


def _problem(said: Any) -> list[str]:
    # Answers like 401 are no mistakes of the page.
    return [said.text] if said.type == "error" and "Failed to load resource" not in said.text else []


@contextlib.asynccontextmanager
async def started() -> AsyncIterator[Any]:
    """Start the browser."""
    executable = chromium()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def browsing(browser: Any, url: str, **options: Any) -> AsyncIterator[Any]:
    """Open the page; anything that it reports as an error fails the test.

    Args:
        browser: The browser.
        url: Its address.
        **options: Of the browser's context, such as ``color_scheme``.
    """
    problems: list[str] = []
    context = await browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    try:
        page = await context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.extend(_problem(said)))
        await page.goto(url)
        yield page
    finally:
        await context.close()
    assert problems == []
