"""The server: its life, its pace, its limits and its faults."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from contextlib import asynccontextmanager
from statistics import fmean
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from manyhands.testing.faults import FaultPlan, latency_source
from manyhands.testing.quota import Quota, duration
from manyhands.testing.simulated import ChatRequest, SimulatedProvider, WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}]}
TEXT = "All hands on deck. " * 20


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[SimulatedProvider, aiohttp.ClientSession]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        SimulatedProvider(**settings) as provider,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        yield provider, session


async def ask(provider: SimulatedProvider, session: aiohttp.ClientSession, **more: Any) -> tuple[int, str]:
    async with session.post(f"{provider.base_url}/chat/completions", json=BODY | more) as response:
        return response.status, await response.text()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - what is waited for happens inside the server, which tells nobody
            await asyncio.sleep(0)


# Life


async def test_stopping_leaves_no_task_and_no_connection_behind() -> None:
    before = asyncio.all_tasks()
    async with served() as (provider, session):
        await asyncio.gather(*(ask(provider, session) for _ in range(20)))
    assert asyncio.all_tasks() == before
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(provider, session)


async def test_stopping_cuts_off_requests_that_would_never_end() -> None:
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as session:
        async with SimulatedProvider(faults={"stall": 1}) as provider:
            waiting = [asyncio.create_task(ask(provider, session)) for _ in range(5)]
            await until(lambda: provider.stats.in_flight == 5)
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)
    assert provider.stats.in_flight == 0
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_ends_its_request() -> None:
    async with served(latency=60) as (provider, session):
        leaving = asyncio.create_task(ask(provider, session))
        await until(lambda: provider.stats.in_flight == 1)
        leaving.cancel()
        await until(lambda: provider.stats.in_flight == 0)
        assert provider.stats.disconnects == 1


async def test_it_comes_back_at_the_same_address() -> None:
    provider = SimulatedProvider()
    async with aiohttp.ClientSession() as session:
        async with provider:
            address = provider.base_url
            assert (await ask(provider, session))[0] == 200
        async with provider:
            assert provider.base_url == address
            assert (await ask(provider, session))[0] == 200
    assert provider.stats.requests == 2


async def test_starting_twice_is_an_error() -> None:
    async with SimulatedProvider() as provider:
        with pytest.raises(RuntimeError, match="started already"):
            await provider.astart()


async def test_a_taken_port_is_an_error_and_leaves_it_stopped() -> None:
    async with SimulatedProvider() as first:
        second = SimulatedProvider(port=first.port)
        with pytest.raises(OSError, match="address already in use"):
            await second.astart()
        assert "stopped" in repr(second)


def test_it_runs_on_a_thread_of_its_own_for_sync_code() -> None:
    threads = threading.active_count()
    with SimulatedProvider() as provider:
        assert threading.active_count() == threads + 1

        async def talk() -> int:
            async with aiohttp.ClientSession() as session:
                return (await ask(provider, session))[0]

        assert asyncio.run(talk()) == 200
    assert threading.active_count() == threads
    provider.stop()


def test_a_taken_port_is_an_error_in_the_thread_that_starts_it() -> None:
    with SimulatedProvider() as first, pytest.raises(OSError, match="address already in use"):
        SimulatedProvider(port=first.port).start()


async def test_serve_tells_when_it_is_ready_and_ends_when_cancelled() -> None:
    ready: asyncio.Queue[SimulatedProvider] = asyncio.Queue()
    serving = asyncio.create_task(SimulatedProvider().serve(ready.put_nowait))
    provider = await ready.get()
    async with aiohttp.ClientSession() as session:
        assert (await ask(provider, session))[0] == 200
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert "stopped" in repr(provider)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
async def test_run_forever_ends_on_a_signal_and_returns_the_figures(number: str) -> None:
    import signal
    import sys

    code = (
        "from manyhands.testing.simulated import SimulatedProvider\n"
        "stats = SimulatedProvider().run_forever(lambda provider: print(provider.base_url, flush=True))\n"
        "print(stats.requests)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await process.stdout.readline()).decode().strip()
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/chat/completions", json=BODY) as answer,
    ):
        assert answer.status == 200
    process.send_signal(getattr(signal, number))
    output, errors = await process.communicate()
    assert (output, errors, process.returncode) == (b"1\n", b"", 0)


async def test_the_latest_requests_are_kept_on_request() -> None:
    async with served(record=2) as (provider, session):
        for text in ("one", "two", "three"):
            await ask(provider, session, messages=[{"role": "user", "content": text}])
        assert [chat.text_of() for chat in provider.received] == ["two", "three"]
        assert "Authorization" not in repr(provider.received)


# Figures


async def test_the_peak_in_flight_counts_requests_at_the_same_time() -> None:
    gate = asyncio.Event()

    async def policy(_: object) -> str:
        await gate.wait()
        return "go"

    async with served(policy=policy) as (provider, session):
        waiting = [asyncio.create_task(ask(provider, session)) for _ in range(300)]
        await until(lambda: provider.stats.in_flight == 300)
        gate.set()
        await asyncio.gather(*waiting)
        stats = provider.stats
    assert (stats.requests, stats.peak_in_flight, stats.in_flight) == (300, 300, 0)
    assert stats.by_status == {200: 300}
    assert stats.completion_tokens == 300
    assert stats.tokens_per_second > 0


async def test_two_thousand_requests_at_once_lose_none() -> None:
    everyone_is_in = asyncio.Event()

    async def policy(chat: ChatRequest) -> str:
        if provider.stats.in_flight == 2000:
            everyone_is_in.set()
        await everyone_is_in.wait()
        return chat.text_of()

    async with served(policy=policy) as (provider, session):

        async def one(number: int) -> bool:
            said = [{"role": "user", "content": f"number {number}"}]
            status, text = await ask(provider, session, messages=said)
            return status == 200 and f'"number {number}"' in text

        assert all(await asyncio.gather(*(one(number) for number in range(2000))))


# Pace


async def test_a_fixed_latency_holds_for_plain_and_streamed_answers() -> None:
    async with served(latency=0.1) as (provider, session):
        for stream in (False, True):
            began = time.monotonic()
            await ask(provider, session, stream=stream)
            assert time.monotonic() - began >= 0.1


async def test_requests_wait_side_by_side() -> None:
    async with served(latency=0.2) as (provider, session):
        began = time.monotonic()
        await asyncio.gather(*(ask(provider, session) for _ in range(50)))
        assert time.monotonic() - began < 2


async def test_a_stream_comes_at_the_speed_of_writing() -> None:
    async with served(tokens_per_second=400, policy=lambda _: TEXT) as (provider, session):
        began, first, arrived = time.monotonic(), 0.0, 0
        async with session.post(
            f"{provider.base_url}/chat/completions", json=BODY | {"stream": True}
        ) as response:
            async for _ in response.content.iter_any():
                first = first or time.monotonic() - began
                arrived += 1
        whole = time.monotonic() - began
    assert whole >= len(TEXT) / 4 / 400
    assert first < whole / 2
    assert arrived > 3


async def test_a_plain_answer_comes_when_all_of_it_is_written() -> None:
    async with served(tokens_per_second=400, policy=lambda _: TEXT) as (provider, session):
        began = time.monotonic()
        await ask(provider, session)
        assert time.monotonic() - began >= len(TEXT) / 4 / 400


@pytest.mark.parametrize(
    ("latency", "low", "high", "mean"),
    [
        ((0.2, 0.4), 0.2, 0.4, 0.3),
        ("uniform:0.2,0.4", 0.2, 0.4, 0.3),
        ("lognormal:0.5,0.4", 0.0, 9.0, 0.5),
        ("0.25", 0.25, 0.25, 0.25),
        (lambda rng: rng.expovariate(2), 0.0, 99.0, 0.5),
    ],
)
def test_latency_is_drawn_as_told_and_repeats_with_the_seed(
    latency: Any, low: float, high: float, mean: float
) -> None:
    draw, again, other = latency_source(latency, 1), latency_source(latency, 1), latency_source(latency, 2)
    drawn = [draw() for _ in range(4000)]
    assert all(low <= seconds <= high for seconds in drawn)
    assert fmean(drawn) == pytest.approx(mean, rel=0.1)
    assert drawn == [again() for _ in range(4000)]
    assert low == high or drawn != [other() for _ in range(4000)]


@pytest.mark.parametrize(
    "latency", ["soon", "uniform:1", "lognormal:0,1", "normal:1,2", -1, (0.1, -2), "nan"]
)
def test_a_senseless_latency_is_refused_at_once(latency: Any) -> None:
    with pytest.raises(ValueError, match="latency"):
        SimulatedProvider(latency=latency)


# Limits


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_request_above_the_rate_gets_429_and_the_time_to_wait() -> None:
    async with served(requests_per_minute=2) as (provider, session):
        for remaining in ("1", "0"):
            async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
                assert response.status == 200
                assert response.headers["x-ratelimit-limit-requests"] == "2"
                assert response.headers["x-ratelimit-remaining-requests"] == remaining
        async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "30"
            assert 29_000 < int(response.headers["retry-after-ms"]) <= 30_000
            error = (await response.json())["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
    assert "Please try again in" in error["message"]


async def test_each_key_has_a_rate_of_its_own() -> None:
    async with served(requests_per_minute=1) as (provider, session):
        statuses = []
        for key in ("a", "a", "b", "b"):
            headers = {"Authorization": f"Bearer {key}"}
            url = f"{provider.base_url}/chat/completions"
            async with session.post(url, json=BODY, headers=headers) as response:
                statuses.append(response.status)
    assert statuses == [200, 429, 200, 429]


async def test_tokens_of_the_reply_count_against_the_token_rate() -> None:
    async with served(tokens_per_minute=50, policy=lambda _: "x" * 400) as (provider, session):
        statuses = [(await ask(provider, session))[0] for _ in range(2)]
    assert statuses == [200, 429]


def test_waiting_as_told_is_enough_and_less_is_not() -> None:
    clock = Clock()
    quota = Quota(90, None, burst=2, clock=clock)
    for _ in range(3):
        quota.admit("", 1)
    for _ in range(20):
        with pytest.raises(WireError) as refused:
            quota.admit("", 1)
        assert refused.value.headers is not None
        wait = int(refused.value.headers["retry-after-ms"]) / 1000
        clock.now += wait - 0.01
        with pytest.raises(WireError):
            quota.admit("", 1)
        clock.now += 0.01
        quota.admit("", 1)


def test_the_bucket_lets_through_the_rate_and_no_more() -> None:
    clock, rng = Clock(), random.Random(3)
    quota = Quota(600, None, burst=1, clock=clock)
    admitted = 0
    while clock.now < 1060:
        try:
            quota.admit("", 1)
            admitted += 1
        except WireError:
            pass
        clock.now += rng.random() * 0.02
    assert 600 <= admitted <= 611


def test_a_request_that_can_never_pass_is_told_so_without_a_time() -> None:
    with pytest.raises(WireError, match="too large") as refused:
        Quota(None, 100, clock=Clock()).admit("", 101)
    assert "Retry-After" not in (refused.value.headers or {})


def test_many_keys_do_not_fill_the_memory() -> None:
    quota = Quota(1, None, clock=Clock())
    for number in range(20_000):
        quota.admit(str(number), 1)
    assert len(quota._keys) == 10_000


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.02, "20ms"), (1.5, "1.5s"), (59.9, "59.9s"), (60, "1m0s"), (359.2, "6m0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("settings", [{"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"burst": 0}])
def test_a_limit_that_lets_nothing_through_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        SimulatedProvider(**settings)


# Faults


@pytest.mark.parametrize("status", [429, 500, 503, 418])
async def test_a_status_fault_is_an_error_answer(status: int) -> None:
    async with served(faults=[status], retry_after=3) as (provider, session):
        async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
            assert response.status == status
            assert response.headers.get("Retry-After") == ("3" if status in (429, 503) else None)
            assert "injected" in (await response.json())["error"]["message"]
        assert (await ask(provider, session))[0] == 200
        assert provider.stats.faults == {str(status): 1}
        assert provider.stats.by_status == {status: 1, 200: 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_breaks_the_connection_before_the_answer(stream: bool) -> None:
    async with served(faults={"reset": 1}) as (provider, session):
        with pytest.raises(aiohttp.ClientOSError):
            await ask(provider, session, stream=stream)
        await until(lambda: provider.stats.in_flight == 0)
        assert provider.stats.disconnects == 0
        assert not provider.stats.by_status


async def test_a_stalled_request_is_never_answered() -> None:
    async with served(faults={"stall": 1}) as (provider, session):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(provider, session)
        await until(lambda: provider.stats.in_flight == 0)
        assert provider.stats.faults == {"stall": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_answer_breaks_off_in_the_middle(stream: bool) -> None:
    async with served(faults={"truncate": 1}, policy=lambda _: TEXT) as (provider, session):
        url, got = f"{provider.base_url}/chat/completions", b""
        async with session.post(url, json=BODY | {"stream": stream}) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                async for piece in response.content.iter_any():
                    got += piece
    assert b"All " in got
    assert b"[DONE]" not in got


@pytest.mark.parametrize("stream", [False, True])
async def test_a_frozen_answer_stops_in_the_middle_and_stays_open(stream: bool) -> None:
    async with served(faults={"freeze": 1}, policy=lambda _: TEXT) as (provider, session):
        url = f"{provider.base_url}/chat/completions"
        async with session.post(url, json=BODY | {"stream": stream}) as response:
            assert b"All " in await response.content.readany()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await response.read()
        await until(lambda: provider.stats.in_flight == 0)


async def test_bad_json_is_a_whole_answer_that_cannot_be_read() -> None:
    async with served(faults={"bad_json": 1}) as (provider, session):
        status, text = await ask(provider, session)
        assert status == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
        _, text = await ask(provider, session, stream=True)
        lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        with pytest.raises(json.JSONDecodeError):
            [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_dripped_answer_is_whole_but_slow(stream: bool) -> None:
    async with served(faults={"drip": 1}, drip_seconds=0.2, policy=lambda _: TEXT) as (provider, session):
        began = time.monotonic()
        status, text = await ask(provider, session, stream=stream)
        assert time.monotonic() - began >= 0.2
    assert status == 200
    assert text.endswith("[DONE]\n\n" if stream else "}")


def test_rates_hold_and_repeat_with_the_seed() -> None:
    rates = {"500": 0.02, "reset": 0.01, "stall": 0.001, "truncate": 0.01, "bad_json": 0.01}
    plan, again, other = FaultPlan(rates, 7), FaultPlan(rates, 7), FaultPlan(rates, 8)
    drawn = [plan.next() for _ in range(50_000)]
    for kind, rate in rates.items():
        assert drawn.count(kind) / 50_000 == pytest.approx(rate, rel=0.3)
    assert drawn == [again.next() for _ in range(50_000)]
    assert drawn != [other.next() for _ in range(50_000)]


def test_rates_can_be_written_as_text() -> None:
    as_text, as_rates = FaultPlan("500=0.2, reset=0.1"), FaultPlan({500: 0.2, "reset": 0.1})
    assert [as_text.next() for _ in range(500)] == [as_rates.next() for _ in range(500)]


@pytest.mark.parametrize(
    "faults", [{"200": 0.1}, {"explode": 0.1}, {"500": 1.5}, {"500": 0.6, "503": 0.6}, "500", "500=much"]
)
def test_senseless_faults_are_refused_at_once(faults: Any) -> None:
    with pytest.raises(ValueError, match=r"[Ff]ault"):
        SimulatedProvider(faults=faults)


async def test_under_all_faults_every_request_comes_to_an_end() -> None:
    kinds = ("429", "500", "503", "reset", "truncate", "bad_json", "drip")
    async with served(faults=dict.fromkeys(kinds, 0.1), drip_seconds=0.05) as (provider, session):
        results = await asyncio.gather(
            *(ask(provider, session, stream=number % 2 == 0) for number in range(400)), return_exceptions=True
        )
        await until(lambda: provider.stats.in_flight == 0)
        stats = provider.stats
    unexpected = [
        r for r in results if isinstance(r, BaseException) and not isinstance(r, aiohttp.ClientError)
    ]
    assert unexpected == []
    assert set(stats.faults) == set(kinds)
    assert stats.requests == stats.by_status.total() + stats.faults["reset"] + stats.disconnects
