"""Guests kept ready, and the cap on all of them.

A guest serves one run and is never handed to another. A run holds its guest, and a slot of the cap, from its
first code to its end. Then the guest is *parked*: its variables stay for a next turn of the conversation,
and it ends when its place is needed, when nobody can come back to it, or after a while.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING

from manyhands._bridge import PerLoop
from manyhands.errors import CallerError
from manyhands.executors.isolated.link import GuestGone, GuestLink
from manyhands.executors.isolated.wall import SandboxError
from manyhands.limits.capacity import CapacityLimiter

if TYPE_CHECKING:
    from manyhands.executors.isolated.wall import Wall

#: Seconds that a guest may take to be ready: containers and clouds are slower than processes.
_START_SECONDS = 60.0


class Lease:
    """A guest in the hands of one executor, and its slot.

    Args:
        link: The guest.
        shelf: Where it comes from.

    Attributes:
        link: The guest.
        loop: The event loop on which it can be used.
    """

    def __init__(self, link: GuestLink, shelf: Shelf) -> None:
        self.link = link
        self.loop = asyncio.get_running_loop()
        self._shelf = shelf
        self._lock = threading.Lock()
        self._slot = True

    @property
    def usable(self) -> bool:
        """Whether the guest is alive, and on the loop that runs."""
        return self.link.alive and self.loop is asyncio.get_running_loop()

    async def aclose(self) -> None:
        """End the guest and give the slot back."""
        self._shelf.forget(self)
        try:
            if self.loop is asyncio.get_running_loop():
                await self.link.kill()
            else:
                self.link.abandon()
        finally:
            self._give_back()

    def abandon(self) -> None:
        """Do the same without waiting, from any thread: nobody can come back to the guest."""
        self._shelf.forget(self)
        self.link.abandon()
        self._give_back()

    def park(self) -> bool:
        """Keep the guest until it is needed again; return False if its place is needed now."""
        return self._shelf.park(self)

    def unpark(self) -> None:
        """Take the guest into use again."""
        self._shelf.unpark(self)

    def _give_back(self) -> None:
        with self._lock:
            held, self._slot = self._slot, False
        if held:
            self._shelf.slots.release()


class Shelf:
    """The guests of one event loop.

    Args:
        wall: Starts them.
        warm: How many to keep ready.
        slots: The cap on guests in use, of all loops.
        message_limit: Most bytes of a message.
        keep_seconds: How long a parked guest is kept.
    """

    def __init__(
        self, wall: Wall, warm: int, slots: CapacityLimiter, message_limit: int, keep_seconds: float
    ) -> None:
        self.slots = slots
        self._wall = wall
        self._warm = warm
        self._message_limit = message_limit
        self._keep_seconds = keep_seconds
        self._ready: deque[GuestLink] = deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._leased: set[Lease] = set()
        self._parked: OrderedDict[Lease, asyncio.TimerHandle] = OrderedDict()
        self._evictions: set[asyncio.Task[None]] = set()

    async def lease(self) -> Lease:
        """Take a slot, waiting in line for one, and a guest."""
        while not self.slots.try_acquire():
            if not self._parked:
                await self.slots.acquire()
                break
            oldest, _ = self._parked.popitem(last=False)
            await oldest.aclose()
        try:
            link = await self._guest()
        except BaseException:
            self.slots.release()
            raise
        lease = Lease(link, self)
        self._leased.add(lease)
        return lease

    async def _guest(self) -> GuestLink:
        """A guest that is ready, or a new one; meanwhile more are made ready."""
        while self._ready:
            link = self._ready.popleft()
            if link.alive:
                self.fill()
                return link
        self.fill()
        return await self._start()

    async def _start(self) -> GuestLink:
        link = GuestLink(await self._wall.start(), self._message_limit)
        try:
            await link.greet(_START_SECONDS)
        except GuestGone as gone:
            await link.kill()
            raise SandboxError(f"The {self._wall.name} sandbox did not start: {gone}.") from None
        except BaseException:
            link.abandon()
            raise
        return link

    def fill(self) -> None:
        """Begin to make guests ready, as many as are wanted and allowed."""
        room = self.slots.limit - self.slots.held if self.slots.limit else self._warm
        for _ in range(min(self._warm, room) - len(self._ready) - len(self._starting)):
            task = asyncio.create_task(self._add())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _add(self) -> None:
        with suppress(CallerError, OSError):  # whoever asks for a guest next is told
            self._ready.append(await self._start())

    async def until_warm(self) -> None:
        """Wait until the guests to be kept ready are."""
        self.fill()
        while self._starting:
            await asyncio.wait(set(self._starting))

    def park(self, lease: Lease) -> bool:
        """Keep ``lease`` for later, unless somebody waits for its slot."""
        if self.slots.waiting:
            return False
        loop = asyncio.get_running_loop()
        self._parked[lease] = loop.call_later(self._keep_seconds, self._evict, lease)
        return True

    def _evict(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(lease.aclose())
        self._evictions.add(task)
        task.add_done_callback(self._evictions.discard)

    def unpark(self, lease: Lease) -> None:
        """Take ``lease`` into use again; from any thread."""
        timer = self._parked.pop(lease, None)
        if timer is not None:
            timer.cancel()

    def forget(self, lease: Lease) -> None:
        """Let go of ``lease``; from any thread."""
        self.unpark(lease)
        self._leased.discard(lease)

    async def aclose(self) -> None:
        """End every guest."""
        for task in [*self._starting, *self._evictions]:
            task.cancel()
        await asyncio.gather(*self._starting, *self._evictions, return_exceptions=True)
        ready, self._ready = list(self._ready), deque()
        leases, self._leased = list(self._leased), set()
        await asyncio.gather(*[link.kill() for link in ready], *[lease.aclose() for lease in leases])


class Pool:
    """Guests of one kind for any number of executors, on any number of event loops.

    Args:
        wall: Starts guests.
        warm: Guests to keep ready beyond those in use, on each loop; none before the first is asked for.
        max_workers: Most guests in use at once; who asks for more waits, first come first served.
        message_limit: Most bytes of a message.
        keep_seconds: How long the guest of a run that is over is kept for a next turn.
    """

    def __init__(
        self, wall: Wall, warm: int, max_workers: int | None, message_limit: int, keep_seconds: float
    ) -> None:
        self.wall = wall
        self.slots = CapacityLimiter(max_workers, name=f"{wall.name} sandboxes")
        self._shelves = PerLoop(
            lambda: Shelf(wall, warm, self.slots, message_limit, keep_seconds), lambda shelf: shelf.aclose()
        )

    async def lease(self) -> Lease:
        """Return a guest, waiting in line for a slot."""
        return await (await self._shelves.get()).lease()

    async def until_warm(self) -> None:
        """Wait until the guests to be kept ready are, on this loop."""
        await (await self._shelves.get()).until_warm()

    async def aclose(self) -> None:
        """End every guest of this loop, and release what the wall holds. A next lease starts anew."""
        await self._shelves.aclose()
        await self.wall.aclose()
