"""Doing a tool's ``setup`` once, whichever thread or event loop asks first.

The first caller takes a turn, the others wait for its end and look again: a failed or cancelled
attempt is its own caller's error, and the next one tries anew.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from manyhands._bridge import call_sync, is_async_callable

if TYPE_CHECKING:
    from manyhands.tools.base import Tool

_lock = threading.Lock()


class Turn:
    """One attempt to set a tool up."""

    __slots__ = ("begun", "ended")

    def __init__(self) -> None:
        self.begun = False
        self.ended: Future[None] = Future()


def set_up_now(tool: Tool) -> None:
    """Set ``tool`` up from sync code, in this thread."""
    while not tool.is_initialized:
        turn, mine = _take_turn(tool)
        if mine:
            _run(tool, turn)
        else:
            turn.ended.result()


async def set_up(tool: Tool) -> None:
    """Set ``tool`` up from async code; a sync ``setup`` stays off the loop."""
    while not tool.is_initialized:
        turn, mine = _take_turn(tool)
        if not mine:
            # Shielded: cancelling one who waits must not end the wait of the others.
            await asyncio.shield(asyncio.wrap_future(turn.ended))
        elif is_async_callable(tool.setup):
            await _arun(tool, turn)
        else:
            try:
                await call_sync(functools.partial(_run, tool, turn), label=f"tool-{tool.name}")
            finally:
                if not turn.begun:  # cancelled before a thread was free
                    _end(tool, turn, done=False)


def _take_turn(tool: Tool) -> tuple[Turn, bool]:
    with _lock:
        turn = tool._setting_up
        if turn is not None and not turn.ended.done():
            return turn, False
        turn = tool._setting_up = Turn()
        return turn, True


def _run(tool: Tool, turn: Turn) -> None:
    turn.begun = True
    done = False
    try:
        tool.setup()
        done = True
    finally:
        _end(tool, turn, done=done)


async def _arun(tool: Tool, turn: Turn) -> None:
    done = False
    try:
        await tool.setup()
        done = True
    finally:
        _end(tool, turn, done=done)


def _end(tool: Tool, turn: Turn, *, done: bool) -> None:
    tool._setting_up = None
    if done:
        tool.is_initialized = True
    turn.ended.set_result(None)
