"""Named limits: how many may run at once of each agent, tool, model, or whatever else has a name.

    registry = ConcurrencyRegistry()
    registry.set_limit("researcher", 2)

    async with registry.throttle("researcher"):      # from async code
        await researcher.arun("Research Mars exploration")

    with registry.throttle_sync("researcher"):       # from sync code
        researcher.run("Research Mars exploration")

One registry works from any number of event loops and threads at once, and its limits may change while
slots are held. Holders are counted whether there is a limit or not, so a limit set later counts them.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from manyhands.limits.capacity import CapacityLimiter, SlotStats
from manyhands.limits.waiting import checked_limit, checked_timeout, refuse_on_loop

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("manyhands.limits")

# Most entries kept for names that nobody uses now; making one costs more than an acquire.
_KEPT = 256


class _Entry:
    """One name in use: its limiter, how many hold its slots, and how many are waiting for one."""

    __slots__ = ("comers", "holders", "limiter")

    def __init__(self, limit: int, name: str) -> None:
        self.limiter = CapacityLimiter(limit, name=name)
        self.holders = 0
        self.comers = 0

    @property
    def in_use(self) -> bool:
        """Whether somebody holds a slot or wants one."""
        return bool(self.holders or self.comers)


class ConcurrencyRegistry:
    """Limits on how many run at once, by name.

    Args:
        default_limit: Limit of every name that has none of its own; 0 or less is unlimited.

    Raises:
        TypeError: ``default_limit`` is no whole number.
    """

    def __init__(self, default_limit: int = 0) -> None:
        self._default = checked_limit(default_limit)
        self._limits: dict[str, int] = {}
        # Entries that nobody uses are kept only while they are few: names of users do not pile up.
        self._entries: dict[str, _Entry] = {}
        # The garbage collector may run a finalizer that releases while this thread holds the lock: it
        # is let in again, and every change below is whole at each point where that can happen.
        self._lock = threading.RLock()

    # --- Limits ----------------------------------------------------------------------------------

    def set_limit(self, name: str, limit: int | None) -> None:
        """Set the limit of a name; it takes effect at once, also on those who hold or wait.

        Args:
            name: The name.
            limit: Most holders at once; 0 or less, or ``None``, is unlimited.

        Raises:
            TypeError: ``name`` is no string, or ``limit`` no whole number.
        """
        checked = checked_limit(limit)
        with self._lock:
            self._limits[_checked_name(name)] = checked
            self._apply(name)

    def get_limit(self, name: str) -> int:
        """Return the limit of a name: its own, else the default; 0 for unlimited."""
        return self._limits.get(_checked_name(name), self._default)

    def remove_limit(self, name: str) -> None:
        """Have a name follow the default again; those who hold its slots stay counted."""
        with self._lock:
            self._limits.pop(_checked_name(name), None)
            self._apply(name)

    @property
    def default_limit(self) -> int:
        """Limit of every name that has none of its own; 0 for unlimited. May be set."""
        return self._default

    @default_limit.setter
    def default_limit(self, limit: int | None) -> None:
        checked = checked_limit(limit)
        with self._lock:
            self._default = checked
            for name in list(self._entries):
                self._apply(name)

    def _apply(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is not None:
            entry.limiter.limit = self.get_limit(name)

    # --- Taking and giving back ------------------------------------------------------------------

    async def acquire(self, name: str, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Take a slot of ``name``, waiting in line for one.

        Args:
            name: The name.
            timeout: Most seconds to wait; ``None`` waits as long as it takes.

        Raises:
            TimeoutError: No slot came free in time.
            TypeError: ``name`` is no string, or ``timeout`` no number.
        """
        if timeout is not None:
            checked_timeout(timeout)
        if not self.try_acquire(name):
            entry = self._come(name)
            taken = False
            try:
                await entry.limiter.acquire(timeout)
                taken = True
            finally:
                self._go(name, entry, taken)

    def acquire_sync(self, name: str, timeout: float | None = None) -> None:
        """Take a slot of ``name`` from sync code; otherwise like :meth:`acquire`.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop(f"acquire_sync('{name}')", "acquire()")
        checked_timeout(timeout)
        if not self.try_acquire(name):
            entry = self._come(name)
            taken = False
            try:
                entry.limiter.acquire_sync(timeout)
                taken = True
            finally:
                self._go(name, entry, taken)

    def try_acquire(self, name: str) -> bool:
        """Take a slot of ``name`` if one is free and nobody waits for it; return whether it was taken."""
        with self._lock:
            entry = self._entry(name)
            taken = entry.limiter.try_acquire()
            if taken:
                entry.holders += 1
                self._entries[name] = entry
        return taken

    def release(self, name: str) -> None:
        """Give a slot of ``name`` back. One too many is an error in the log and frees nothing."""
        with self._lock:
            entry = self._entries.get(_checked_name(name))
            if entry is not None and entry.holders > 0:
                entry.holders -= 1
                entry.limiter.release()
                self._forget_if_idle(name, entry)
                return
        logger.error("release(%r) without a slot to give back: nothing was freed.", name)

    def throttle(self, name: str, timeout: float | None = None) -> _Throttle:
        """Return ``async with`` protection: a slot of ``name`` is held inside.

        Args:
            name: The name.
            timeout: Most seconds to wait on entering, which then raises ``TimeoutError``.
        """
        return _Throttle(self, name, timeout)

    def throttle_sync(self, name: str, timeout: float | None = None) -> _ThrottleSync:
        """Return ``with`` protection for sync code: a slot of ``name`` is held inside."""
        return _ThrottleSync(self, name, timeout)

    def _entry(self, name: str) -> _Entry:
        return self._entries.get(name) or _Entry(self.get_limit(name), name)

    def _come(self, name: str) -> _Entry:
        with self._lock:
            entry = self._entry(name)
            entry.comers += 1
            self._entries[name] = entry
        return entry

    def _go(self, name: str, entry: _Entry, taken: bool) -> None:
        with self._lock:
            entry.comers -= 1
            if taken:
                entry.holders += 1
            else:
                self._forget_if_idle(name, entry)

    def _forget_if_idle(self, name: str, entry: _Entry) -> None:
        if not entry.in_use and len(self._entries) > _KEPT:
            self._entries.pop(name, None)

    # --- Watching --------------------------------------------------------------------------------

    def held(self, name: str) -> int:
        """Return how many slots of ``name`` are held."""
        entry = self._entries.get(_checked_name(name))
        return entry.limiter.held if entry else 0

    def waiting(self, name: str) -> int:
        """Return how many tasks and threads wait for a slot of ``name``."""
        entry = self._entries.get(_checked_name(name))
        return entry.limiter.waiting if entry else 0

    def stats(self) -> dict[str, SlotStats]:
        """Return limit, holders and waiters of every name that has a limit of its own or is in use."""
        with self._lock:
            stats = {name: SlotStats(limit, 0, 0) for name, limit in self._limits.items()}
            stats.update({name: one.limiter.stats() for name, one in self._entries.items() if one.in_use})
        return stats


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"A limit is named by a string, not {name!r} ({type(name).__name__}).")
    return name


class _Throttle:
    """``async with registry.throttle(name)``; may be entered more than once."""

    __slots__ = ("_name", "_registry", "_timeout")

    def __init__(self, registry: ConcurrencyRegistry, name: str, timeout: float | None) -> None:
        self._registry = registry
        self._name = _checked_name(name)
        self._timeout = timeout

    async def __aenter__(self) -> None:
        await self._registry.acquire(self._name, self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.release(self._name)


class _ThrottleSync:
    """``with registry.throttle_sync(name)``; may be entered more than once."""

    __slots__ = ("_name", "_registry", "_timeout")

    def __init__(self, registry: ConcurrencyRegistry, name: str, timeout: float | None) -> None:
        self._registry = registry
        self._name = _checked_name(name)
        self._timeout = timeout

    def __enter__(self) -> None:
        self._registry.acquire_sync(self._name, self._timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.release(self._name)


_shared_registry = ConcurrencyRegistry()


def get_concurrency_registry() -> ConcurrencyRegistry:
    """Return the registry that the whole process shares."""
    return _shared_registry
