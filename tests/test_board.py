"""The board shows what a crowd is doing, fits the screen, and costs next to nothing."""

from __future__ import annotations

import asyncio
import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from manyhands import ChatMessage, ServerError, ToolCallingAgent
from manyhands.crowd import Crowd, Flight, MapResult, Progress
from manyhands.limits import LimitedModel
from manyhands.observe.board import render, showing
from manyhands.observe.snapshot import Meter, Snapshot, counts, duration, progress_line, room
from manyhands.steps import Timing
from manyhands.testing import FunctionModel
from tests.agents.replies import final


def progress_with(in_flight: int) -> Progress:
    """A crowd in the middle of its work: two failures, one success, and many tasks in flight."""
    progress = Progress(total=2000, began=time.monotonic() - 10)
    for state, error in (
        ("success", None),
        ("error", ServerError("It fell [over].")),
        ("max_steps_error", None),
    ):
        progress.count(MapResult(state, 0, "", None, state, error, 1, None, Timing(0, 1), 2))
    for number in range(in_flight):
        flight = Flight(number, f"id-{number}", f"Task [b]{number}[/b]\nof many", time.monotonic(), Timing(0))
        flight.pausing = number % 4 == 0
        progress.flights[number] = flight
    return progress


def drawn(now: Snapshot, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(render(now, "manyhands map"))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_board_shows_totals_rate_eta_activities_failures_and_the_slowest() -> None:
    meter = Meter(progress_with(8))
    meter.earlier, meter.bad, meter.note = 100, 1, "Ctrl-C again stops at once."
    picture = drawn(meter.read(rows=3))
    for part in (
        "104 of 2,000  5%",
        "1 succeeded   2 failed   8 in flight   1,888 to go   100 done before   1 bad lines",
        "0.3/s   elapsed 10.0s   eta ",
        "starting 6, retry 2",
        "ServerError 1, max_steps_error 1   (retried 3 times)",
        "max_steps_error: no answer within its steps",
        "Task [b]0[/b] of many",
        "Ctrl-C again stops at once.",
    ):
        assert part in picture, picture
    assert "id-2" in picture
    assert "id-3" not in picture


@pytest.mark.parametrize("width", [30, 60, 200])
def test_no_line_is_longer_than_the_screen(width: int) -> None:
    picture = drawn(Meter(progress_with(20)).read(rows=10), width)
    assert max(map(len, picture.splitlines())) <= width


def test_the_rate_is_that_of_the_last_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("manyhands.observe.snapshot.time.monotonic", lambda: now)
    progress = Progress(total=1000, began=now)
    meter = Meter(progress)
    for _ in range(240):
        now += 0.25
        progress.done += 1
        meter.read()
    for _ in range(200):
        now += 0.25
        meter.read()
    assert meter.read().rate == 0
    assert meter.read().eta is None


def test_without_a_known_total_there_is_no_eta() -> None:
    progress = progress_with(0)
    progress.total = None
    now = Meter(progress).read()
    assert (now.total, now.left, now.eta) == (None, None, None)
    assert "3 " in drawn(now)
    assert progress_line(now).startswith(
        "[10.0s] 3 done; 2 failed (ServerError 1, max_steps_error 1); 0 in flight;"
    )


def test_a_look_at_a_thousand_runs_takes_a_small_part_of_a_quarter_second() -> None:
    meter = Meter(progress_with(1000))
    best = min(_seconds(lambda: meter.read(rows=10)) for _ in range(5))
    # Measured: 0.6 ms. Many times that is still no burden four times a second.
    assert best < 0.02


def _seconds(fn: Any) -> float:
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "?"), (0.04, "0.0s"), (59.94, "59.9s"), (187, "3:07"), (7387, "2:03:07")]
)
def test_durations_are_written_as_people_do(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_counts_are_written_with_their_names() -> None:
    assert counts((("model", 1200), ("tool get_weather", 3))) == "model 1,200, tool get_weather 3"


async def test_a_live_board_ends_with_the_last_state() -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        await asyncio.sleep(0)
        return final("yes")

    console = Console(file=io.StringIO(), width=90, height=30, force_terminal=True, color_system=None)
    agent = ToolCallingAgent(model=FunctionModel(reply))
    async with Crowd(agent, ["a"] * 30) as crowd, showing(crowd.progress, console, "thirty tasks"):
        assert len([result async for result in crowd]) == 30
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "thirty tasks" in shown
    assert "30 of 30  100%" in shown
    # The cursor is back.
    assert shown.rstrip().endswith("\x1b[?25h")


async def test_display_shows_the_board_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        return final("yes")

    agent = ToolCallingAgent(model=FunctionModel(reply))
    assert len([result async for result in agent.amap(["a", "b"], display=True)]) == 2
    assert "2 of 2  100%" in capsys.readouterr().out


# --- Limits and money ---------------------------------------------------------------------------------


async def test_the_board_shows_how_much_room_the_limits_leave() -> None:
    opened = asyncio.Event()

    async def reply(messages: list[ChatMessage]) -> ChatMessage:
        await opened.wait()
        return final("yes")

    model = LimitedModel(FunctionModel(reply), max_concurrency=3, requests_per_minute=600)
    async with Crowd(ToolCallingAgent(model=model), ["a"] * 8) as crowd:
        fetching = asyncio.ensure_future(crowd.batch())
        meter = Meter(crowd.progress, [crowd.agent])
        async with asyncio.timeout(20):
            while dict(meter.read().activities) != {"model": 3, "slot": 5}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        now = meter.read(rows=3)
        assert "model function: 3 of 3 taken, 5 wait" in now.limits
        assert any("of 600 requests/min" in limit for limit in now.limits)
        assert re.search(r"limits +model function: 3 of 3 taken, 5 wait", drawn(now))
        opened.set()
        await fetching


async def test_money_is_shown_where_the_price_of_the_model_is_known() -> None:
    progress = progress_with(0)
    progress.input_tokens, progress.output_tokens = 1_000_000, 100_000

    def agent(name: str) -> ToolCallingAgent:
        return ToolCallingAgent(model=FunctionModel(str, model_id=name))

    pytest.importorskip("genai_prices")
    known, unknown = Meter(progress, [agent("gpt-4o-mini")]), Meter(progress, [agent("nobody knows")])
    two = Meter(progress, [agent("gpt-4o-mini"), agent("gpt-4o")])
    for meter in (known, unknown, two):
        await meter.learn_price()
    assert known.read().money == pytest.approx(0.15 + 0.06)
    assert "$0.2100" in drawn(known.read())
    assert unknown.read().money is None and two.read().money is None


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"kind": "slots", "name": "x", "limit": 5, "held": 2, "waiting": 0}, "x: 2 of 5 taken"),
        (
            {"kind": "rate", "name": "https://api.example.com/v1/abc/gpt", "requests_per_minute": 500.0}
            | {"requests_used": 12.4, "tokens_per_minute": None, "waiting": 3, "paused_for": 2.5},
            "api.example.com/gpt: 12 of 500 requests/min, paused 2.5s, 3 wait",
        ),
        ({"kind": "rate", "name": "k", "pace": 1.25, "waiting": 0}, "k: climbing, 1.2/s"),
        ({"kind": "rate", "name": "k", "waiting": 0}, "k: no limit"),
    ],
)
def test_room_is_told_in_words(limit: dict[str, Any], said: str) -> None:
    assert room(limit) == said
