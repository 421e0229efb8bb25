"""Named limits that hold over many processes.

Like :class:`~manyhands.limits.registry.ConcurrencyRegistry`, with the holders and the line in Redis.
A slot is on lease: it is renewed while the process lives, and comes back by itself when that is gone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands._bridge import PerLoop, run_in_background, start_in_background
from manyhands.errors import check_seconds
from manyhands.events import waiting
from manyhands.limits.capacity import SlotStats
from manyhands.limits.redis.link import Link, RedisUnavailableError, pool_maker
from manyhands.limits.redis.scripts import SLOTS, Script
from manyhands.limits.waiting import checked_limit, checked_timeout, refuse_on_loop
from manyhands.models.libraries import require

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from redis.asyncio import Redis

T = TypeVar("T")

logger = logging.getLogger("manyhands.limits")

# Tickets renewed by one script: Redis serves others in between.
_AT_ONCE = 500
_NAMES = Script("return {redis.call('SMEMBERS', KEYS[1]), redis.call('HKEYS', KEYS[2])}")


class RedisConcurrencyRegistry:
    """Limits on how many run at once, by name, over all processes that use the same Redis and prefix.

    Everything that asks Redis has an async face. Those of the methods that return something at once in
    the local registry have a sync face for sync code as well, which a running event loop refuses.

    Args:
        url_or_client: ``redis://...``, ``rediss://...``, ``unix://...``, or a ``redis.asyncio.Redis``
            whose settings are taken over.
        prefix: What all keys in Redis begin with; registries with different ones share nothing.
        lease: Seconds after which a slot, or a place in line, of a process that died comes back. An
            event loop that is blocked for longer loses its slots, too.
        default_limit: Limit of names that have none of their own; the same in all processes.
        socket_timeout: Most seconds to wait for an answer of Redis.

    Raises:
        MissingExtraError: The package ``redis`` is not installed.
        TypeError: ``default_limit`` is no whole number, or ``url_or_client`` no address.
    """

    def __init__(
        self,
        url_or_client: str | Redis,
        prefix: str = "manyhands",
        lease: float = 30.0,
        default_limit: int = 0,
        *,
        socket_timeout: float = 5.0,
    ) -> None:
        require("RedisConcurrencyRegistry", "redis", "redis")
        self._default = checked_limit(default_limit)
        self._lease = check_seconds("lease", lease) or 30.0
        # The braces keep all keys of a prefix together where Redis is spread over machines.
        self._prefix = f"{{{prefix}}}"
        self._channels = f"{self._prefix}:wake:"
        patience = check_seconds("socket_timeout", socket_timeout) or 5.0
        make_pool = pool_maker(url_or_client, patience)
        self._links: PerLoop[Link] = PerLoop(
            lambda: Link(make_pool(), self._channels, self._lease, patience, self._renew), Link.aclose
        )
        # Which tickets this process holds, and on which loop they are renewed.
        self._held: dict[str, dict[str, Link]] = {}
        self._lock = threading.RLock()

    # --- Limits ----------------------------------------------------------------------------------

    async def aset_limit(self, name: str, limit: int | None) -> None:
        """Set the limit of a name for all processes; it takes effect at once.

        Args:
            name: The name.
            limit: Most holders at once; 0 or less, or ``None``, is unlimited.

        Raises:
            TypeError: ``name`` is no string, or ``limit`` no whole number.
            RedisUnavailableError: Redis does not answer.
        """
        await self._ask("set", name, checked_limit(limit))

    def set_limit(self, name: str, limit: int | None) -> None:
        """Do as :meth:`aset_limit`, in sync code."""
        self._from_sync("set_limit()", "aset_limit()", self.aset_limit(name, limit))

    async def aget_limit(self, name: str) -> int:
        """Return the limit of a name: its own, else the default; 0 for unlimited."""
        return (await self._look(name)).limit

    def get_limit(self, name: str) -> int:
        """Do as :meth:`aget_limit`, in sync code."""
        return self._from_sync("get_limit()", "aget_limit()", self.aget_limit(name))

    async def aremove_limit(self, name: str) -> None:
        """Have a name follow the default again; those who hold its slots stay counted."""
        await self._ask("remove", name)

    def remove_limit(self, name: str) -> None:
        """Do as :meth:`aremove_limit`, in sync code."""
        self._from_sync("remove_limit()", "aremove_limit()", self.aremove_limit(name))

    @property
    def default_limit(self) -> int:
        """Limit of names that have none of their own, as this process sees it; 0 for unlimited."""
        return self._default

    # --- Taking and giving back ------------------------------------------------------------------

    async def acquire(self, name: str, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Take a slot of ``name``, waiting in line for one.

        Args:
            name: The name.
            timeout: Most seconds to wait; ``None`` waits as long as it takes.

        Raises:
            TimeoutError: No slot came free in time.
            TypeError: ``name`` is no string, or ``timeout`` no number.
            RedisUnavailableError: Redis does not answer, or has not answered for a whole lease.
        """
        seconds = checked_timeout(timeout)
        if not await self._take(_checked_name(name), seconds):
            stats = await self._look(name)
            raise TimeoutError(
                f"No slot of {name!r} came free within {seconds:g}s "
                f"({stats.held} held, limit {stats.limit}, {stats.waiting} waiting)."
            )

    def acquire_sync(self, name: str, timeout: float | None = None) -> None:
        """Take a slot of ``name`` from sync code; otherwise like :meth:`acquire`.

        The slot is renewed on the background event loop, whatever this thread does meanwhile.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        self._from_sync(f"acquire_sync('{name}')", "acquire()", self.acquire(name, timeout))

    async def try_acquire(self, name: str) -> bool:
        """Take a slot of ``name`` if one is free and nobody waits for it; return whether it was taken.

        Unlike the local registry's this has to be awaited: Redis must be asked.
        """
        return await self._take(_checked_name(name), 0)

    def release(self, name: str) -> None:
        """Give back a slot that this process took. One too many is an error in the log and frees nothing.

        On a running event loop it does not wait for Redis; :meth:`arelease` does. It never raises: a slot
        that cannot be given back now comes back after its lease.
        """
        taken = self._pop(name)
        if taken is None:
            return
        ticket, link = taken
        if _running_loop() is link.loop and not link.closed:
            self._send_leave(link, name, ticket)
        elif _running_loop() is None:
            run_in_background(self._give_back(name, ticket))
        else:
            start_in_background(self._give_back(name, ticket))

    async def arelease(self, name: str) -> None:
        """Do as :meth:`release`, and return when the slot is free."""
        taken = self._pop(name)
        if taken is not None:
            await self._give_back(name, taken[0])

    def throttle(self, name: str, timeout: float | None = None) -> RedisThrottle:
        """Return ``async with`` protection: a slot of ``name`` is held inside.

        Args:
            name: The name.
            timeout: Most seconds to wait on entering, which then raises ``TimeoutError``.
        """
        return RedisThrottle(self, _checked_name(name), timeout)

    def throttle_sync(self, name: str, timeout: float | None = None) -> RedisThrottle:
        """Return ``with`` protection for sync code: a slot of ``name`` is held inside."""
        return RedisThrottle(self, _checked_name(name), timeout)

    async def _take(self, name: str, seconds: float) -> bool:
        link = await self._links.get()
        await link.listen()
        ticket = link.new_ticket()
        waiter = link.expect(ticket, name)
        taken = False
        try:
            async with asyncio.timeout(seconds if 0 < seconds < math.inf else None):
                waits = "1" if seconds else "0"
                taken = bool(await self._send(link, "acquire", name, ticket, waits))
                if not taken and seconds:
                    with waiting("slot", name):
                        taken = await waiter.next() is not None
        except TimeoutError:
            return False
        finally:
            link.forget(ticket)
            if taken:
                with self._lock:
                    link.held[ticket] = name
                    self._held.setdefault(name, {})[ticket] = link
            else:
                # After the question in any case: if it was answered with a slot, that goes on.
                self._send_leave(link, name, ticket)
        return taken

    def _pop(self, name: str) -> tuple[str, Link] | None:
        """Forget one of the tickets held, best one of this loop."""
        with self._lock:
            mine = self._held.get(_checked_name(name))
            if mine:
                loop = _running_loop()
                ticket = next((one for one, link in mine.items() if link.loop is loop), next(iter(mine)))
                link = mine.pop(ticket)
                link.held.pop(ticket, None)
                if not mine:
                    del self._held[name]
                return ticket, link
        logger.error("release(%r) without a slot to give back: nothing was freed.", name)
        return None

    async def _give_back(self, name: str, ticket: str) -> None:
        link = await self._links.get()
        # Shielded by the order of sending: it goes out even if the one who waits here is cancelled.
        answer = self._send_leave(link, name, ticket)
        try:
            await answer
        except RedisUnavailableError as error:
            logger.warning(
                "A slot of %r could not be given back and comes back in %gs: %s", name, self._lease, error
            )

    def _send_leave(self, link: Link, name: str, ticket: str) -> asyncio.Future[Any]:
        return self._send(link, "leave", name, ticket)

    # --- Renewing --------------------------------------------------------------------------------

    async def _renew(self, link: Link) -> None:
        """Renew all tickets of a loop, and take up slots whose call got lost."""
        with self._lock:
            tickets = [(name, ticket, "1") for ticket, name in link.held.items()]
        tickets += [(waiter.wants, ticket, "0") for ticket, waiter in link.waiting.items()]
        for name in dict.fromkeys(name for name, _, _ in tickets):
            own = [(ticket, held) for other, ticket, held in tickets if other == name]
            for at in range(0, len(own), _AT_ONCE):
                some = own[at : at + _AT_ONCE]
                states = await self._send(link, "beat", name, *(part for pair in some for part in pair))
                for (ticket, held), state in zip(some, states, strict=True):
                    self._check(link, name, ticket, held == "1", state)

    def _check(self, link: Link, name: str, ticket: str, held: bool, state: int) -> None:
        if ticket not in link.held and ticket not in link.waiting:
            # It was given back while it was renewed, maybe by another thread: it must not stay.
            self._send_leave(link, name, ticket)
        elif held and state == 2:
            logger.warning(
                "The lease of a slot of %r was lost and is taken up again: for %gs this process could not "
                "renew it (a blocked event loop, or no Redis), and the limit may have been exceeded.",
                name,
                self._lease,
            )
        elif state and ticket in link.waiting:
            link.waiting[ticket].call("go")

    # --- Watching --------------------------------------------------------------------------------

    async def aheld(self, name: str) -> int:
        """Return how many slots of ``name`` are held, by all processes."""
        return (await self._look(name)).held

    def held(self, name: str) -> int:
        """Do as :meth:`aheld`, in sync code."""
        return self._from_sync("held()", "aheld()", self.aheld(name))

    async def awaiting(self, name: str) -> int:
        """Return how many wait for a slot of ``name``, in all processes."""
        return (await self._look(name)).waiting

    def waiting(self, name: str) -> int:
        """Do as :meth:`awaiting`, in sync code."""
        return self._from_sync("waiting()", "awaiting()", self.awaiting(name))

    async def astats(self) -> dict[str, SlotStats]:
        """Return limit, holders and waiters of every name that has a limit of its own or is in use."""
        link = await self._links.get()
        used, limited = await link.send(_NAMES, [f"{self._prefix}:names", f"{self._prefix}:limits"])
        names = sorted({*used, *limited})
        stats = await asyncio.gather(*(self._look(name) for name in names))
        return {
            name: one
            for name, one in zip(names, stats, strict=True)
            if one.held or one.waiting or name in limited
        }

    def stats(self) -> dict[str, SlotStats]:
        """Do as :meth:`astats`, in sync code."""
        return self._from_sync("stats()", "astats()", self.astats())

    async def aclose(self) -> None:
        """Close the running loop's connections; each loop's are closed with it in any case."""
        await self._links.aclose()

    # --- Asking Redis ----------------------------------------------------------------------------

    async def _look(self, name: str) -> SlotStats:
        limit, held, waiting = await self._ask("look", name)
        return SlotStats(limit, held, waiting)

    async def _ask(self, operation: str, name: str, *args: object) -> Any:
        return await self._send(await self._links.get(), operation, _checked_name(name), *args)

    def _send(self, link: Link, operation: str, name: str, *args: object) -> asyncio.Future[Any]:
        own = (f"{self._prefix}:{kind}:{name}" for kind in ("line", "tickets"))
        shared = (f"{self._prefix}:{kind}" for kind in ("limits", "names"))
        keys = [*own, f"{self._prefix}:sequence", f"{self._prefix}:holders:{name}", *shared]
        return link.send(SLOTS, keys, operation, self._channels, self._lease, name, self._default, *args)

    @staticmethod
    def _from_sync(call: str, instead: str, work: Coroutine[Any, Any, T]) -> T:
        try:
            refuse_on_loop(call, instead)
        except RuntimeError:
            work.close()
            raise
        return run_in_background(work)


class RedisThrottle:
    """``async with registry.throttle(name)``, ``with registry.throttle_sync(name)``; reusable."""

    __slots__ = ("_name", "_registry", "_timeout")

    def __init__(self, registry: RedisConcurrencyRegistry, name: str, timeout: float | None) -> None:
        self._registry = registry
        self._name = name
        self._timeout = timeout

    async def __aenter__(self) -> None:
        await self._registry.acquire(self._name, self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._registry.arelease(self._name)

    def __enter__(self) -> None:
        self._registry.acquire_sync(self._name, self._timeout)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.release(self._name)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"A limit is named by a string, not {name!r} ({type(name).__name__}).")
    return name
