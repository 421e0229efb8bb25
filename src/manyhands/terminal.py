"""Asking the person at the terminal: one question at a time, while everything else goes on.

A real terminal is watched by the event loop, so that a question holds no thread and can be taken back. Where
that cannot be (a pipe, a notebook, Windows), ``input`` waits on a thread, for the one question that is shown.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands._bridge import call_sync
from manyhands.errors import CallerError
from manyhands.events import current_run
from manyhands.limits.capacity import CapacityLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from manyhands.approvals import ApprovalRequest

T = TypeVar("T")

NOBODY = "nobody is at the console"

_slot = CapacityLimiter(1, name="terminal")
_MOST_SHOWN = 10_000


# --- Having the terminal --------------------------------------------------------------------------


class Terminal:
    """The terminal, for the one who has it now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_call = False
        self._left = False

    async def line(self, prompt: str) -> str:
        """Show ``prompt`` and return the line that is typed.

        Raises:
            EOFError: Nobody is there to type.
        """
        fd = _watchable()
        if fd is None:
            return await self.call(functools.partial(input, prompt))
        _show(prompt)
        try:
            return await _typed(fd)
        except asyncio.CancelledError:
            _show("\n(No longer asked.)\n")
            raise

    async def call(self, ask: Callable[[], T], *, label: str = "terminal") -> T:
        """Call a sync function that uses the terminal.

        Args:
            ask: The function. A cancelled call goes on alone, and keeps the terminal until it ends.
            label: Name of its thread.
        """
        return await call_sync(functools.partial(self._called, ask), label=label)

    def _called(self, ask: Callable[[], T]) -> T:
        with self._lock:
            if self._left:
                raise EOFError(NOBODY)  # cancelled meanwhile: nobody hears of it
            self._in_call = True
        try:
            return ask()
        finally:
            with self._lock:
                self._in_call = False
                left = self._left
            if left:
                _slot.release()

    def leave(self) -> None:
        """Let the next one have the terminal."""
        with self._lock:
            self._left = True
            if self._in_call:
                return
        _slot.release()


@asynccontextmanager
async def at_terminal() -> AsyncIterator[Terminal]:
    """Have the terminal, first come first served, for the time of a ``with``."""
    # Standing in line here is part of waiting for the person, and told as that.
    outside = current_run.set(None)
    try:
        await _slot.acquire()
    finally:
        current_run.reset(outside)
    _forget_typed()
    terminal = Terminal()
    try:
        yield terminal
    finally:
        terminal.leave()


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _watchable() -> int | None:
    """Return the descriptor of the terminal, ``None`` if there is none that the loop can watch."""
    if sys.platform == "win32":
        return None
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # replaced, closed, or none at all
        return None
    return fd if os.isatty(fd) else None


async def _typed(fd: int) -> str:
    """Return the next line that is typed."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    typed = bytearray()

    def read() -> None:
        try:
            piece = os.read(fd, 4096)  # a terminal gives a line at most
        except OSError:
            piece = b""
        typed.extend(piece)
        if (not piece or piece.endswith(b"\n")) and not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, read)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
    if not typed:
        raise EOFError(NOBODY)
    return typed.decode(sys.stdin.encoding or "utf-8", "replace").rstrip("\r\n")


def _forget_typed() -> None:
    """Forget what was typed ahead: it was no answer to the question that is about to be shown."""
    fd = _watchable()
    if fd is not None:
        import termios

        with suppress(termios.error):
            termios.tcflush(fd, termios.TCIFLUSH)


# --- Deciding at the terminal ---------------------------------------------------------------------


async def ask_at_console(request: ApprovalRequest) -> str | bool | None:
    """Show a request at the terminal, and return what the person there decides.

    Args:
        request: The request.
    """
    async with at_terminal() as terminal:
        try:
            if request.kind == "question":
                return await terminal.line(f"{printable(request.reason)} => Type your answer here: ")
            return await _decided(terminal, request)
        except EOFError:
            request.deny(NOBODY)
            return None


async def _decided(terminal: Terminal, request: ApprovalRequest) -> str | bool | None:
    _show(_described(request))
    while True:
        said = (await terminal.line("Approve? [y]es, [n]o, [e]dit: ")).strip().lower()
        if said in ("y", "yes"):
            return True
        if said in ("n", "no"):
            return (await terminal.line("Why? (Enter for no reason): ")).strip()
        if said in ("e", "edit"):
            arguments = await _edited(terminal, request)
            try:
                request.change(arguments)
                return None
            except CallerError as error:
                _show(f"{error}\nNothing is approved yet.\n{_described(request)}")


async def _edited(terminal: Terminal, request: ApprovalRequest) -> dict[str, Any]:
    """Let the person type new arguments, one by one."""
    arguments = dict(request.arguments)
    _show("Type a new value, or Enter to keep the old one.\n")
    for name, value in arguments.items():
        typed = await terminal.line(f"  {name}: ")
        if typed:
            arguments[name] = _value(typed, value)
    return arguments


def _value(typed: str, before: Any) -> Any:
    """Return what was typed as text where text was before, else as JSON where it is JSON."""
    if isinstance(before, str):
        return typed
    try:
        return json.loads(typed)
    except ValueError:
        return typed


def _described(request: ApprovalRequest) -> str:
    shown = request.dict()
    lines = [f"--- {printable(request.agent)} wants to call {request.tool}"]
    for name, value in shown["arguments"].items():
        lines.append(f"  {printable(name)}: {_readable(value)}")
    until = f"; open until {time.strftime('%X', time.localtime(request.expires))}" if request.expires else ""
    lines.append(f"  ({printable(request.reason.rstrip('.'))}{until}.)\n")
    return "\n".join(lines)


def _readable(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:
        text = "".join(f"\n    | {printable(line)}" for line in value.split("\n"))
    else:
        text = printable(json.dumps(value, ensure_ascii=False))
    if len(text) <= _MOST_SHOWN:
        return text
    return f"{text[:_MOST_SHOWN]} (and {len(text) - _MOST_SHOWN:,} characters more, not shown)"


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that could move the cursor or hide what stands there."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
