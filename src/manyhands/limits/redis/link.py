"""One event loop's link to Redis: two connections, one to speak and one to listen.

*Speaking*: scripts are sent in the order in which they were asked for, all that came up meanwhile in one
go. So whatever gives something back comes after what took it, also if the taker was cancelled in between;
and a thousand waiters need one connection. Every script here may be sent twice, so a connection that
broke costs nothing but a second attempt.

*Listening*: whoever waits has a ticket and sleeps until the ticket is called on the link's channel. One
task listens while somebody holds or waits, and renews all tickets three times in a lease; that is also
when a call is noticed that got lost on the way.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from manyhands.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.client import PubSub

    from manyhands.limits.redis.scripts import Script

logger = logging.getLogger("manyhands.limits")

# Tickets are renewed this often in a lease: two renewals may fail, the third is in time.
_BEATS = 3
# Most scripts sent in one go: Redis serves others in between.
_BATCH = 512
# Options of a client that belong to its own pool and cannot be copied to another.
_OWN_TO_A_POOL = ("maint_", "oss_", "orig_", "event_dispatcher", "lib_")


# Links stay until their loop ends, also if nobody else keeps them: only then are they closed in order.
_open: set[Link] = set()


class RedisUnavailableError(AgentError, ConnectionError):
    """Redis did not answer, or refused; nothing was taken that does not come back by itself.

    Args:
        where: The server, without its password.
        reason: What happened.
    """

    ends_run = True

    def __init__(self, where: str, reason: object) -> None:
        said = str(reason).rstrip(".") or type(reason).__name__
        super().__init__(
            f"The Redis at {where}, which keeps the shared limits, cannot be used: {said}. Check that it "
            "runs, that this process can reach it, and that address and password are right."
        )
        if isinstance(reason, BaseException):
            self.__cause__ = reason


class Waiter:
    """Somebody with a ticket, asleep until it is called.

    Args:
        wants: What the ticket is for, in the owner's words.
    """

    __slots__ = ("_calls", "wants")

    def __init__(self, wants: str) -> None:
        self.wants = wants
        self._calls: asyncio.Queue[str | Exception] = asyncio.Queue()

    def call(self, what: str | Exception) -> None:
        """Wake whoever waits; an error is raised there."""
        self._calls.put_nowait(what)

    async def next(self, seconds: float | None = None) -> str | None:
        """Sleep until called and return the call, ``None`` if ``seconds`` passed before."""
        try:
            async with asyncio.timeout(seconds):
                call = await self._calls.get()
        except TimeoutError:
            return None
        if isinstance(call, Exception):
            raise call
        return call


class Link:
    """One loop's connections.

    Args:
        pool: Makes the connections.
        channels: What the names of channels begin with.
        lease: Seconds for which a ticket counts after it was renewed last.
        patience: Most seconds to wait for any one answer.
        beat: Renews the tickets.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        channels: str,
        lease: float,
        patience: float,
        beat: Callable[[Link], Awaitable[None]],
    ) -> None:
        from redis.asyncio import Redis

        self.loop = asyncio.get_running_loop()
        self.id = uuid4().hex
        self.where = _address(pool)
        self.lease = lease
        self.held: dict[str, str] = {}
        self.waiting: dict[str, Waiter] = {}
        self.closed = False
        self._channel = channels + self.id
        self._patience = patience
        self._beat = beat
        self._redis: Redis = Redis(connection_pool=pool)
        self._pubsub: PubSub | None = None
        self._outbox: list[tuple[list[Any], asyncio.Future[Any]]] = []
        self._texts: dict[str, str] = {}
        self._sender: asyncio.Task[None] | None = None
        self._tender: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[None] | None = None
        self._count = 0
        self._heard_at = -math.inf
        for link in list(_open):
            if link.loop.is_closed():  # without a word: its connections are gone
                _open.discard(link)
        _open.add(self)

    def new_ticket(self) -> str:
        """Return a ticket that nobody else has."""
        self._count += 1
        return f"{self.id}:{self._count}"

    # --- Speaking --------------------------------------------------------------------------------

    def send(self, script: Script, keys: Sequence[str], *args: object) -> asyncio.Future[Any]:
        """Have a script run after all that were asked for before; the result may be waited for.

        Raises (when waited for):
            RedisUnavailableError: It could not be run.
        """
        self._texts[script.sha] = script.text
        answer: asyncio.Future[Any] = self.loop.create_future()
        # Often nobody waits: an error is then nobody's, and not one that was never looked at.
        answer.add_done_callback(_looked_at)
        self._outbox.append((["EVALSHA", script.sha, len(keys), *keys, *args], answer))
        if self._sender is None:
            self._sender = self.loop.create_task(self._send_all(), name="manyhands-redis-send")
        return answer

    async def _send_all(self) -> None:
        try:
            while self._outbox:
                batch = self._outbox[:_BATCH]
                try:
                    answers: list[Any] = await self._send([command for command, _ in batch])
                except Exception as error:
                    answers = [RedisUnavailableError(self.where, error)] * len(batch)
                # Only now: a batch that was cancelled on its way is sent again when the link closes.
                del self._outbox[: len(batch)]
                for (_, future), answer in zip(batch, answers, strict=True):
                    self._answer(future, answer)
        finally:
            self._sender = None

    async def _send(self, commands: list[list[Any]]) -> list[Any]:
        answers = await self._pipeline(commands)
        unknown = [at for at, answer in enumerate(answers) if _is_unknown_script(answer)]
        if unknown:
            # Redis is new here, or was started anew.
            await self._pipeline([["SCRIPT", "LOAD", text] for text in self._texts.values()])
            again = await self._pipeline([commands[at] for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        return answers

    async def _pipeline(self, commands: list[list[Any]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))

    def _answer(self, future: asyncio.Future[Any], answer: object) -> None:
        if future.done():
            return
        if not isinstance(answer, Exception):
            future.set_result(answer)
        elif isinstance(answer, RedisUnavailableError):
            future.set_exception(answer)
        else:
            future.set_exception(RedisUnavailableError(self.where, answer))

    # --- Listening -------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Return once tickets of this link are heard when they are called.

        Raises:
            RedisUnavailableError: There is no connection.
        """
        if self._tender is None or self._tender.done():
            self._listening = self.loop.create_future()
            self._listening.add_done_callback(_looked_at)
            self._tender = self.loop.create_task(self._tend(self._listening), name="manyhands-redis-listen")
        if self._listening is not None and not (
            self._listening.done() and self._listening.exception() is None
        ):
            await asyncio.shield(self._listening)

    def expect(self, ticket: str, wants: str) -> Waiter:
        """Return a waiter for a ticket; :meth:`forget` ends it."""
        waiter = self.waiting[ticket] = Waiter(wants)
        return waiter

    def forget(self, ticket: str) -> None:
        """Wait for a ticket no longer."""
        self.waiting.pop(ticket, None)

    async def _tend(self, listening: asyncio.Future[None]) -> None:
        """Listen and renew while there is something to tend, and a little longer."""
        try:
            await self._subscribe()
        except Exception as error:
            listening.set_exception(RedisUnavailableError(self.where, error))
            return
        except BaseException:
            listening.cancel()
            raise
        listening.set_result(None)
        try:
            await self._listen_and_renew()
        except Exception as error:
            # Whoever waits must not sleep on when nobody listens any more.
            self._fail(error)
            raise

    async def _listen_and_renew(self) -> None:
        pulse = self.lease / _BEATS
        due = self.loop.time() + pulse
        while True:
            connected = await self._hear(due)
            if self.loop.time() < due and connected:
                continue
            if not self.held and not self.waiting:
                return
            await self._renew()
            due = self.loop.time() + pulse

    async def _hear(self, due: float) -> bool:
        """Pass on the next call, if it comes before ``due``; return whether the connection is whole."""
        try:
            if self._pubsub is None:
                await self._subscribe()
                return False  # what was called in between was not heard
            message = await self._pubsub.get_message(timeout=max(0.0, due - self.loop.time()))
        except Exception as error:
            if self._pubsub is not None:  # the first failure of an outage; the next ones say the same
                logger.warning("%s Trying again.", RedisUnavailableError(self.where, error))
            await self._unsubscribe()
            await asyncio.sleep(min(1.0, self.lease / _BEATS))
            return False
        if message is not None and message["type"] == "message":
            ticket, _, what = message["data"].partition(" ")
            waiter = self.waiting.get(ticket)
            if waiter is not None:
                waiter.call(what)
        return True

    async def _subscribe(self) -> None:
        if self._pubsub is not None:
            return
        pubsub = self._redis.pubsub()
        try:
            await pubsub.subscribe(self._channel)
            # Only after its answer does Redis count this link as listening.
            if await pubsub.get_message(timeout=self._patience) is None:
                raise TimeoutError(f"no answer within {self._patience:g}s")
        except BaseException:
            await pubsub.aclose()  # type: ignore[no-untyped-call]
            raise
        self._pubsub = pubsub
        self._heard_at = self.loop.time()

    async def _unsubscribe(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with suppress(Exception):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _renew(self) -> None:
        try:
            await self._beat(self)
            self._heard_at = self.loop.time()
        except RedisUnavailableError as error:
            if self.loop.time() - self._heard_at < self.lease:
                return
            # Nothing holds their place any more.
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        for waiter in self.waiting.values():
            waiter.call(error)

    # --- The end ---------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send what is still to be sent, and close the connections."""
        self.closed = True
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
        if self._sender is None and self._outbox:
            self._sender = self.loop.create_task(self._send_all())
        if self._sender is not None:
            await asyncio.wait([self._sender])
        await self._unsubscribe()
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()
        _open.discard(self)


def _looked_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _is_unknown_script(answer: object) -> bool:
    from redis.exceptions import NoScriptError

    return isinstance(answer, NoScriptError)


# --- Where Redis is --------------------------------------------------------------------------------


def pool_maker(where: str | Redis, patience: float) -> Callable[[], ConnectionPool]:
    """Return what makes the connection pool of a loop.

    Args:
        where: An address such as ``redis://localhost:6379/0``, or an async client, whose settings are
            taken over; the client itself belongs to one loop and is not used.
        patience: Most seconds to wait for a connection, or an answer, where ``where`` does not say.

    Raises:
        TypeError: ``where`` is neither.
    """
    from redis import __version__
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.driver_info import DriverInfo

    ours: dict[str, Any] = {
        "decode_responses": True,
        # Scripts may be run twice; one retry outlives a connection that the server closed meanwhile.
        "retry": Retry(NoBackoff(), 1),
        # Unless told, every connection reads its version from disk, which blocks the loop.
        "driver_info": DriverInfo(lib_version=__version__),
    }
    times = {"socket_timeout": patience, "socket_connect_timeout": patience}
    if isinstance(where, str):
        return lambda: ConnectionPool.from_url(where, **times, **ours)
    if not isinstance(where, Redis):
        raise TypeError(f"An address or a redis.asyncio.Redis is needed, not {where!r}.")
    pool = where.connection_pool
    theirs = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if not name.startswith(_OWN_TO_A_POOL) and not (name in times and value is None)
    }
    return lambda: ConnectionPool(connection_class=pool.connection_class, **{**times, **theirs, **ours})


def _address(pool: ConnectionPool) -> str:
    """Return where a pool connects to, without user and password."""
    options = pool.connection_kwargs
    if "path" in options:
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
