"""Worker processes of Monty, and how long somebody has one.

The sync interface of Monty is called on threads of our own. Its async one ends in callbacks from threads
that Python does not know: when the interpreter exits at that moment, the whole process aborts (seen with
pydantic-monty 1.4 in up to 4 of 25 short programs). On threads a round trip is no slower.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands._bridge import Workers
from manyhands.executors.isolated.wall import SandboxError
from manyhands.limits.capacity import CapacityLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_monty import Monty, MontySession

T = TypeVar("T")

#: Seconds that a worker may take to stop by itself at its time limit, before it is killed.
GRACE_SECONDS = 0.5
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def monty_package() -> Any:
    """Return the module ``pydantic_monty``."""
    import pydantic_monty

    return pydantic_monty


def default_workers() -> int:
    """Return how many workers there are at most unless told: one for each processor, at least 2."""
    return max(2, os.cpu_count() or 1)


class Place:
    """A worker with one session on it, for whoever has it; no other code runs on it meanwhile.

    Args:
        farm: Where the worker is from.
    """

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._session: MontySession | None = None
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._lost = False
        self._closed = False

    async def do(self, work: Callable[[MontySession], T]) -> T:
        """Let ``work`` use the session, on a thread.

        Whoever is cancelled meanwhile loses the worker: only so does the code on it really end.
        """
        try:
            return await self._farm.threads.run(partial(self._work, work), label="monty")
        except asyncio.CancelledError:
            self._kill()
            raise

    def _work(self, work: Callable[[MontySession], T]) -> T:
        if self._session is None:
            session = self._farm.checkout()
            with self._lock:
                self._session = session
                self._pid = session.worker_pid
                lost = self._lost
            if lost:
                self._kill()
        assert self._session is not None
        return work(self._session)

    def _kill(self) -> None:
        with self._lock:
            self._lost = True
            if self._pid is not None:
                with suppress(OSError):
                    os.kill(self._pid, _KILL)

    async def leave(self, *, broken: bool = False) -> None:
        """Give the worker back; the next in line has it.

        Args:
            broken: What it holds may be in any state: end it.
        """
        if broken:
            self._kill()
        if self._closed:
            self._farm.slots.release()
        else:
            await asyncio.shield(self._farm.take_back(self))

    def close(self) -> None:
        """End the session, on a thread.

        It waits for a turn that is under way, which ends since its worker is gone.
        """
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):  # its worker may be gone, and then so is the session
                session.__exit__(None, None, None)


class Farm:
    """The workers that all executors of one configuration share.

    Args:
        size: Most workers at once; who comes later waits in line.
        limits: Limits on each session, as Monty names them.

    Attributes:
        owners: Executors that have not been cleaned up; the last one ends the workers.
    """

    def __init__(self, size: int, limits: Mapping[str, Any]) -> None:
        self.slots = CapacityLimiter(size, name="monty workers")
        # One more than can be at work: some give a worker back while others begin.
        self.threads = Workers(cap=2 * size + 1)
        self._limits = dict(limits)
        self._lock = threading.Lock()
        self._monty: Monty | None = None
        self._returning: set[asyncio.Task[None]] = set()
        self.owners = 0

    async def enter(self) -> Place:
        """Wait for a worker to come free."""
        await self.slots.acquire()
        return Place(self)

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a worker."""
        return self.slots.waiting > 0

    def checkout(self) -> MontySession:
        """Begin a session on a worker; on a thread, by somebody who has a slot."""
        with self._lock:
            if self._monty is None:
                self._monty = self._start()
            monty = self._monty
        session = monty.checkout(limits=self._limits, assert_message_annotations=False)  # type: ignore[arg-type]
        try:
            session.__enter__()
        except Exception as error:
            raise SandboxError(f"Monty starts no worker: {error}") from error
        return session

    def _start(self) -> Monty:
        monty: Monty = monty_package().Monty(
            min_processes=1,
            max_processes=max(1, self.slots.limit),
            feed_duration_limit_grace=GRACE_SECONDS,
        )
        try:
            monty.__enter__()
        except Exception as error:
            raise SandboxError(f"Monty starts no worker: {error}") from error
        return monty

    def take_back(self, place: Place) -> asyncio.Task[None]:
        """Return the task that ends the session of ``place`` and lets the next in."""
        task = asyncio.create_task(self._take_back(place), name="monty worker comes back")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
        return task

    async def _take_back(self, place: Place) -> None:
        try:
            await self.threads.run(place.close, label="monty")
        finally:
            self.slots.release()

    async def aclose(self) -> None:
        """End the workers; a later session starts new ones."""
        with self._lock:
            monty, self._monty = self._monty, None
        if monty is not None:
            await self.threads.run(partial(monty.__exit__, None, None, None), label="monty")


_farms: weakref.WeakValueDictionary[tuple[Any, ...], Farm] = weakref.WeakValueDictionary()
_farms_lock = threading.Lock()


def shared_farm(size: int, limits: Mapping[str, Any]) -> Farm:
    """Return the workers for this configuration; they end with the last executor that has them."""
    key = (size, *sorted(limits.items()))
    with _farms_lock:
        farm = _farms.get(key)
        if farm is None:
            farm = _farms[key] = Farm(size, limits)
        return farm
