"""Requests and tokens per minute that hold over many processes.

Like :class:`~manyhands.limits.rate.RateLimiter`, with the buckets, the line and the pause in Redis, on the
server's clock.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from manyhands._bridge import PerLoop, run_in_background, start_in_background
from manyhands.errors import check_seconds
from manyhands.events import waiting
from manyhands.limits.bucket import MINUTE
from manyhands.limits.rate import RateStats, _checked_rate, _checked_tokens, _told
from manyhands.limits.redis.link import Link, pool_maker
from manyhands.limits.redis.scripts import RATE
from manyhands.limits.waiting import checked_timeout, refuse_on_loop
from manyhands.models.libraries import require

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from redis.asyncio import Redis

T = TypeVar("T")

# Tickets renewed by one script: Redis serves others in between.
_AT_ONCE = 500


class RedisReservation:
    """What one call may use; settle it when the call is over.

    Nothing here waits: what is said goes to Redis in the order in which it was said.

    Attributes:
        requests: Requests reserved: 1, or 0 once cancelled.
        tokens: Tokens reserved, or used once settled.
        at: When the call was let out, by this process's ``time.monotonic``.
        let_out_at: The same by the clock of Redis, in seconds since 1970.
    """

    __slots__ = (
        "_epoch",
        "_limiter",
        "_link",
        "_request",
        "_spent",
        "_use",
        "at",
        "let_out_at",
        "requests",
        "tokens",
    )

    def __init__(self, limiter: RedisRateLimiter, link: Link, grant: str, tokens: float) -> None:
        _, let_out_at, self._request, self._use, *spent, self._epoch, _ = grant.split()
        self._limiter = limiter
        self._link = link
        self._spent = (spent[0], spent[1])
        self.let_out_at = float(let_out_at)
        self.at = monotonic()
        self.requests = 1
        self.tokens = tokens

    def settle(self, tokens: float) -> None:
        """Replace the tokens reserved by those really used; what was too much is there for others now."""
        self._settle(_checked_tokens(tokens), self.requests)

    def cancel(self) -> None:
        """Give everything back: the call was never sent."""
        self._settle(0, 0)

    def observe(self, headers: Mapping[str, str]) -> None:
        """Take in the ``x-ratelimit-*`` headers of the answer to this call."""
        self._limiter.observe(headers, self)

    def refused(self, seconds: float) -> None:
        """Note that the provider refused this call: everyone on the key waits for ``seconds``.

        Many calls under way are refused together; that counts as one refusal. What is refused costs
        nothing, so all that was reserved is given back.
        """
        self._limiter.pause(seconds, self)
        self.cancel()

    def _settle(self, tokens: float, requests: int) -> None:
        more = (requests - self.requests, tokens - self.tokens)
        self.requests, self.tokens = requests, tokens
        if more != (0, 0):
            self._limiter._tell(self._link, "settle", self._request, more[0], self._use, more[1])


class RedisRateLimiter:
    """Requests and tokens per minute, over all processes that name the same key in the same Redis.

    First come, first served: nobody passes a large request. Of different limits that processes ask for
    the lowest holds; what nobody has asked for in the last two minutes is forgotten.

    Args:
        url_or_client: ``redis://...``, ``rediss://...``, ``unix://...``, or a ``redis.asyncio.Redis``
            whose settings are taken over.
        key: What the provider counts by (see :func:`~manyhands.limits.rate.rate_key`).
        requests_per_minute: Most requests in any minute; ``None`` for no limit but the provider's.
        tokens_per_minute: Most tokens in any minute, prompts and replies together.
        burst: Requests that may go at once after a quiet time; the next follow at even distances.
        token_burst_seconds: Seconds of the token allowance that may be used at once.
        prefix: What all keys in Redis begin with.
        lease: Seconds after which the place in line of a process that died is given up.
        socket_timeout: Most seconds to wait for an answer of Redis.

    Raises:
        MissingExtraError: The package ``redis`` is not installed.
        TypeError: A limit is no number, or ``url_or_client`` no address.
        ValueError: A limit is not above 0.
    """

    _minute = MINUTE

    def __init__(
        self,
        url_or_client: str | Redis,
        key: str,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        burst: int = 1,
        token_burst_seconds: float = 30.0,
        prefix: str = "manyhands",
        lease: float = 15.0,
        socket_timeout: float = 5.0,
    ) -> None:
        require("RedisRateLimiter", "redis", "redis")
        self.name = key
        self._limits = _limits(requests_per_minute, tokens_per_minute)
        self._burst = _checked_rate(burst, "burst")
        self._token_burst = _checked_rate(token_burst_seconds, "token_burst_seconds") / MINUTE
        self._lease = check_seconds("lease", lease) or 15.0
        base = f"{{{prefix}:rate:{key}}}"
        kinds = ("line", "tickets", "sequence", "wants", "state", "asked", "grant:")
        self._keys = [f"{base}:{kind}" for kind in kinds]
        self._channels = f"{base}:wake:"
        patience = check_seconds("socket_timeout", socket_timeout) or 5.0
        make_pool = pool_maker(url_or_client, patience)
        self._links: PerLoop[Link] = PerLoop(
            lambda: Link(make_pool(), self._channels, self._lease, patience, self._renew), Link.aclose
        )

    # --- Going through ---------------------------------------------------------------------------

    async def reserve(self, tokens: float = 0, timeout: float | None = None) -> RedisReservation:  # noqa: ASYNC109
        """Wait until one request of ``tokens`` may be sent, and reserve it.

        Args:
            tokens: Tokens that prompt and reply are expected to use.
            timeout: Most seconds to wait.

        Raises:
            TimeoutError: It may not be sent in time.
            RedisUnavailableError: Redis does not answer, or has not answered for a whole lease.
        """
        seconds = checked_timeout(timeout)
        reservation = await self._take(_checked_tokens(tokens), seconds)
        if reservation is None:
            raise TimeoutError(
                f"The rate limit of {self.name!r} lets no request through within {seconds:g}s."
            )
        return reservation

    def reserve_sync(self, tokens: float = 0, timeout: float | None = None) -> RedisReservation:
        """Do as :meth:`reserve`, in sync code.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        return self._from_sync("reserve_sync()", "reserve()", self.reserve(tokens, timeout))

    async def try_reserve(self, tokens: float = 0) -> RedisReservation | None:
        """Reserve one request if it may be sent at once and nobody waits, else return ``None``.

        Unlike the local limiter's this has to be awaited: Redis must be asked.
        """
        return await self._take(_checked_tokens(tokens), 0)

    async def athrottle(self, tokens: float = 0) -> None:
        """Wait until one request of ``tokens`` may be sent."""
        await self.reserve(tokens)

    def throttle(self, tokens: float = 0) -> None:
        """Wait until one request of ``tokens`` may be sent, in sync code.

        Raises:
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        self._from_sync("throttle()", "athrottle()", self.athrottle(tokens))

    async def _take(self, tokens: float, seconds: float) -> RedisReservation | None:
        link = await self._links.get()
        await link.listen()
        ticket = link.new_ticket()
        grant = None
        try:
            async with asyncio.timeout(seconds if 0 < seconds < math.inf else None):
                grant = await self._wait(link, ticket, tokens, waits=seconds > 0)
        except TimeoutError:
            return None
        finally:
            link.forget(ticket)
            if grant is None:
                # After the question in any case: if it was let through after all, that is given back.
                self._send(link, "leave", ticket)
        return RedisReservation(self, link, grant, tokens) if grant else None

    async def _wait(self, link: Link, ticket: str, tokens: float, *, waits: bool) -> str | None:
        waiter = link.expect(ticket, repr(tokens))
        ask = partial(self._send, link, "reserve", ticket, repr(tokens), int(waits))
        answer = await ask()
        if answer.startswith("go"):
            return str(answer)
        if not waits:
            return None
        with waiting("rate limit", self.name):
            while not answer.startswith("go"):
                # First in line: ask again when the time has come. Else sleep until called.
                nap = float(answer.removeprefix("nap ")) if answer else None
                answer = await waiter.next(nap) or await ask()
        return str(answer)

    async def _renew(self, link: Link) -> None:
        """Renew the places in line of a loop, and take up calls that got lost."""
        tickets = [(ticket, waiter.wants) for ticket, waiter in link.waiting.items()]
        for at in range(0, len(tickets), _AT_ONCE):
            some = tickets[at : at + _AT_ONCE]
            answers = await self._send(link, "beat", *(part for pair in some for part in pair))
            for (ticket, _), answer in zip(some, answers, strict=True):
                if ticket not in link.waiting:
                    # It left while it was renewed: it must not come back.
                    if not answer:
                        self._send(link, "leave", ticket)
                elif answer:
                    link.waiting[ticket].call(answer)

    # --- What comes back -------------------------------------------------------------------------

    def pause(
        self, seconds: float, refused: RedisReservation | None = None, *, pace: float | None = None
    ) -> None:
        """Let nobody go for ``seconds``, in any process, then let calls out slowly at first.

        On a running event loop it does not wait for Redis; :meth:`apause` does.

        Args:
            seconds: What the provider asked for in ``Retry-After``.
            refused: The call that was refused. Of all calls that were under way when the first of
                them was refused, only that one slows the pace; all may prolong the pause.
            pace: Calls a second that went out when the provider refused, where somebody else has counted.
        """
        link, epoch = (refused._link, refused._epoch) if refused else (None, "")
        self._tell(link, "pause", seconds, epoch, pace or "")

    async def apause(self, seconds: float) -> None:
        """Do as :meth:`pause`, and return when it holds."""
        await self._say("pause", seconds, "", "")

    def observe(self, headers: Mapping[str, str], reservation: RedisReservation | None = None) -> None:
        """Take in what a provider's headers say about its limits and what is left of them.

        Args:
            headers: Headers of an answer; ``x-ratelimit-*`` and ``anthropic-ratelimit-*`` are read.
            reservation: The call that was answered: what was used since it was sent is taken off.
        """
        told = [*_told(headers, "requests"), *_told(headers, "tokens")]
        if all(number is None for number in told):
            return
        texts = ["" if number is None else repr(number) for number in told]
        sent = ("", "", "")
        if reservation is not None:
            sent = (repr(reservation.let_out_at), *reservation._spent)
        self._tell(reservation._link if reservation else None, "observe", *texts, *sent)

    # --- Limits and watching ---------------------------------------------------------------------

    async def aconfigure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Change what this process asks for; the arguments are those of the class."""
        before, self._limits = self._limits, _limits(requests_per_minute, tokens_per_minute)
        await self._send(await self._links.get(), "configure", before)

    def configure(
        self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        """Do as :meth:`aconfigure`, in sync code."""
        work = self.aconfigure(requests_per_minute, tokens_per_minute)
        self._from_sync("configure()", "aconfigure()", work)

    async def astats(self) -> RateStats:
        """Return the limiter as it is now, over all processes."""
        answers = await self._send(await self._links.get(), "stats")
        requests, tokens, requests_used, tokens_used, waiting, paused_for, pace = answers
        return RateStats(
            requests_per_minute=float(requests),
            tokens_per_minute=float(tokens),
            requests_used=float(requests_used),
            tokens_used=float(tokens_used),
            waiting=int(waiting),
            paused_for=float(paused_for),
            pace=float(pace),
        )

    def stats(self) -> RateStats:
        """Do as :meth:`astats`, in sync code."""
        return self._from_sync("stats()", "astats()", self.astats())

    async def aclose(self) -> None:
        """Close the running loop's connections; each loop's are closed with it in any case."""
        await self._links.aclose()

    # --- Asking Redis ----------------------------------------------------------------------------

    def _send(self, link: Link, operation: str, *args: object) -> asyncio.Future[Any]:
        common = (self._channels, self._lease, self._minute, self._burst, self._token_burst, self._limits)
        return link.send(RATE, self._keys, operation, *common, *args)

    def _tell(self, link: Link | None, operation: str, *args: object) -> None:
        """Have something done; in order with what else this loop asks, and without waiting on a loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            run_in_background(self._say(operation, *args))
            return
        if link is not None and link.loop is loop and not link.closed:
            self._once(link, operation, *args)
        else:
            start_in_background(self._say(operation, *args))

    async def _say(self, operation: str, *args: object) -> None:
        await self._once(await self._links.get(), operation, *args)

    def _once(self, link: Link, operation: str, *args: object) -> asyncio.Future[Any]:
        return self._send(link, "once", link.new_ticket(), operation, *args)

    @staticmethod
    def _from_sync(call: str, instead: str, work: Coroutine[Any, Any, T]) -> T:
        try:
            refuse_on_loop(call, instead)
        except RuntimeError:
            work.close()
            raise
        return run_in_background(work)

    def __repr__(self) -> str:
        requests, tokens = self._limits.split()
        return f"<RedisRateLimiter {self.name!r} {requests} requests/min, {tokens} tokens/min>"


def _limits(requests_per_minute: float | None, tokens_per_minute: float | None) -> str:
    requests = _checked_rate(requests_per_minute, "requests_per_minute")
    tokens = _checked_rate(tokens_per_minute, "tokens_per_minute")
    return f"{requests!r} {tokens!r}"
