"""Replies are shown while they are written, several at once, within the screen and at a bounded cost."""

from __future__ import annotations

import asyncio
import io
import re
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from manyhands import AgentLogger, ChatMessage, ChatMessageStreamDelta, CodeAgent, Model
from manyhands.messages import ChatMessageToolCallFunction, ChatMessageToolCallStreamDelta
from manyhands.observe.live import Stream, last_lines, region
from tests.agents.replies import code


class Screen(io.StringIO):
    """A terminal that counts how often something is written to it."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(
        file=Screen(), width=width, height=height, force_terminal=True, color_system=None, highlight=False
    )


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


class Writer(Model):
    """A model that writes a piece whenever it is let.

    Args:
        pieces: The replies, each in pieces.
        each: Awaited before each piece.
    """

    def __init__(self, pieces: list[list[str]], each: Any) -> None:
        super().__init__(model_id="writer")
        self._pieces = pieces
        self._each = each

    async def agenerate_stream(self, messages: list[ChatMessage], **options: Any) -> Any:  # type: ignore[override]
        for piece in self._pieces.pop(0):
            yield ChatMessageStreamDelta(piece)
            await self._each(piece)


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_reply_is_on_the_screen_before_it_is_whole_and_the_plan_too() -> None:
    console = terminal()
    go_on = asyncio.Semaphore(0)

    async def each(piece: str) -> None:
        if "half" in piece:
            await go_on.acquire()

    pieces = [["plan half", " plan rest"], ["Thought: half", " of it.\n<code>\nfinal_answer(1)\n</code>"]]
    agent = CodeAgent(
        model=Writer(pieces, each),
        logger=AgentLogger(1, console),
        stream_outputs=True,
        planning_interval=9,
        name="author",
    )
    run = asyncio.ensure_future(agent.arun("go"))
    await until(lambda: "plan half" in written(console))
    assert "plan rest" not in written(console) and "author · plan" in written(console)
    go_on.release()
    await until(lambda: "Thought: half" in written(console))
    assert "of it." not in written(console) and "author · step 1" in written(console)
    go_on.release()
    assert await run == 1
    await asyncio.to_thread(agent.logger.flush)
    # What was written stands there whole, and the cursor is back.
    assert "Thought: half of it." in written(console)
    await until(lambda: written(console).rfind("\x1b[?25h") > written(console).rfind("\x1b[?25l"))


async def test_replies_written_at_the_same_time_are_not_mixed() -> None:
    console = terminal(width=120, height=50)
    words = [f"agent{number}word{place}" for number in range(4) for place in range(30)]
    logger = AgentLogger(1, console)

    async def each(piece: str) -> None:
        await asyncio.sleep(0.001)

    async def one(number: int) -> Any:
        own = [f"{word} " for word in words if word.startswith(f"agent{number}")]
        model = Writer([["Thought: ", *own, code("final_answer(1)").partition("\n")[2]]], each)
        return await CodeAgent(model=model, logger=logger, stream_outputs=True, name=f"a{number}").arun("go")

    await asyncio.gather(*map(one, range(4)))
    await asyncio.to_thread(logger.flush)
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written(console)).splitlines()
    for line in lines:
        assert len(set(re.findall(r"agent(\d)word", line))) <= 1, line
    for number in range(4):
        assert any(f"agent{number}word29" in line and " │ " in line for line in lines)


async def test_drawing_costs_so_much_a_second_and_nothing_a_piece() -> None:
    console = terminal()

    async def each(piece: str) -> None:
        await asyncio.sleep(0)

    pieces = [["Thought: ", *["word "] * 5000, "\n<code>\nfinal_answer(1)\n</code>"]]
    logger = AgentLogger(1, console)
    agent = CodeAgent(model=Writer(pieces, each), logger=logger, stream_outputs=True)
    began = time.monotonic()
    await agent.arun("go")
    await asyncio.to_thread(logger.flush)
    seconds = time.monotonic() - began
    # Ten drawings a second of a few writes each; the blocks before and after are some more.
    assert console.file.writes < 60 + 10 * 5 * seconds  # type: ignore[attr-defined]


def test_a_piece_of_any_kind_is_shown() -> None:
    stream = Stream("title")
    stream.add(ChatMessageStreamDelta(reasoning_content="hm "))
    stream.add(ChatMessageStreamDelta("text"))
    function = ChatMessageToolCallFunction('{"where": ', "look")
    stream.add(ChatMessageStreamDelta(tool_calls=[ChatMessageToolCallStreamDelta(0, "1", function=function)]))
    stream.add(ChatMessageStreamDelta(tool_calls=[ChatMessageToolCallStreamDelta(0)]))
    assert stream.text == 'hm text\nlook {"where": '


@given(st.integers(1, 60), st.integers(10, 200), st.integers(4, 60), st.text(max_size=400))
def test_what_is_being_written_fits_the_screen(number: int, width: int, height: int, text: str) -> None:
    streams = [Stream(f"agent {name}") for name in range(number)]
    for stream in streams:
        stream.add(ChatMessageStreamDelta(text))
        stream.add(ChatMessageStreamDelta("\n".join("x" * 300 for _ in range(100))))
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(region(streams, ConsoleDimensions(width, height)))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width


@given(st.text(alphabet="ab日🙂 \n\t\x1b\r", max_size=300), st.integers(1, 10), st.integers(2, 40))
def test_the_last_lines_are_the_end_of_the_text(text: str, count: int, width: int) -> None:
    lines = last_lines(text, count, width)
    assert len(lines) <= count
    assert all(cell_len(line) <= width for line in lines)
    whole = "".join(last_lines(text, 10_000, width))
    assert whole.endswith("".join(lines))
    assert not any("\x1b" in line for line in lines)


def test_the_tail_of_a_stream_is_the_end_of_its_text() -> None:
    stream = Stream("title")
    for number in range(1000):
        stream.add(ChatMessageStreamDelta(f"{number},"))
    assert stream.text.endswith(stream.tail(50))
    assert 50 <= len(stream.tail(50)) < 60
