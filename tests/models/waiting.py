"""Waiting for what another thread does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until ``holds()`` is true."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 (a thread that computes can set no event)
            await asyncio.sleep(0.001)
