"""What local models share: a thread of their own, and calls that end when told to. No library is needed."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import BadRequestError, CallerError, ConnectionFailedError, ProviderError
from manyhands.messages import MessageRole, TokenUsage, agglomerate_stream_deltas, message
from manyhands.models.local import Call, LocalModel, OneThread
from tests.models.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.models.local import Request

TASK = [message(MessageRole.USER, "Say hello.")]


class Typist(LocalModel):
    """Types a text, three letters at a time."""

    def __init__(self, text: str = "Hello there, world.", wait: float = 0.0, **kwargs: Any) -> None:
        super().__init__("typist", **kwargs)
        self.text, self.wait = text, wait
        self.begins = ""
        self.loads = 0
        self.running = 0
        self.most = 0
        self.asked: list[Request] = []
        self.threads: set[str] = set()
        self.during: Callable[[], object] = int  # what happens with each piece

    def _load(self) -> None:
        self.loads += 1
        self.threads.add(threading.current_thread().name)

    def _reply(self, call: Call, request: Request) -> None:
        self.asked.append(request)
        self.threads.add(threading.current_thread().name)
        self.running += 1
        self.most = max(self.most, self.running)
        call.input_tokens = 7
        call.begin(self.begins)
        try:
            for start in range(0, len(self.text), 3):
                time.sleep(self.wait)
                self.during()
                call.output_tokens += 1
                call.feed(self.text[start : start + 3])
                if call.stopped:
                    return
        finally:
            self.running -= 1


async def test_a_reply_comes_whole_or_in_pieces_with_its_token_counts() -> None:
    model = Typist("Hello!")
    got = await model.agenerate(TASK)
    deltas = [delta async for delta in model.agenerate_stream(TASK)]
    assert [delta.content for delta in deltas] == ["Hel", "lo!", None]
    assert got == agglomerate_stream_deltas(deltas)
    assert got.token_usage == TokenUsage(7, 2)
    assert model.loads == 1


@pytest.mark.parametrize("stop", ["there", "e, w", "d."])
async def test_a_stop_sequence_ends_the_reply(stop: str) -> None:
    model = Typist()
    got = await model.agenerate(TASK, stop_sequences=[stop])
    assert got.content == model.text.partition(stop)[0]
    assert (await model.agenerate(TASK, ["there"], stop="lo")).content == "Hel"


async def test_thoughts_are_parted_from_text_and_no_stop_sequence_ends_them() -> None:
    model = Typist("<think>a STOP b</think>\n\none STOP two", strip_thinking=True)
    got = await model.agenerate(TASK, stop_sequences=["STOP"])
    assert (got.content, got.reasoning_content) == ("one ", "a STOP b")
    model.begins, model.text = "<|assistant|><think>\n", "on it</think>two"
    got = await model.agenerate(TASK)
    assert (got.content, got.reasoning_content) == ("two", "on it")
    model.begins, model.text = "", "never <think>"
    assert (await model.agenerate(TASK)).content == "never <think>"
    plain = Typist("<think>a</think>b")
    assert (await plain.agenerate(TASK)).content == "<think>a</think>b"


async def test_settings_of_the_model_win_and_those_of_providers_are_left_out() -> None:
    model = Typist(top_p=0.5)
    await model.agenerate(TASK, top_p=1, top_k=3, tool_choice="auto", stream=True)
    assert model.asked[0].options == {"top_p": 0.5, "top_k": 3}


async def test_calls_stand_in_line_and_share_one_thread() -> None:
    model = Typist(wait=0.001)
    await asyncio.gather(*(model.agenerate(TASK) for _ in range(5)))
    assert model.most == model.loads == len(model.threads) == 1


async def test_a_cancelled_call_keeps_its_turn_until_it_has_really_ended() -> None:
    model = Typist("x" * 3000, wait=0.02)
    first = asyncio.create_task(model.agenerate(TASK))
    await until(lambda: model.running)
    second = asyncio.create_task(model.agenerate(TASK, stop_sequences=["xxxx"]))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(5):
        assert (await second).content == ""
    assert model.most == len(model.threads) == 1
    assert model._thread.stats()["abandoned_threads"] == 0


async def test_an_error_of_the_library_becomes_ours_and_the_model_goes_on() -> None:
    model = Typist()
    for raised, kind in [
        (RuntimeError("out of memory"), ProviderError),
        (ValueError("no such option"), BadRequestError),
        (ConnectionError("the Hub is away"), ConnectionFailedError),
    ]:

        def fail(raised: Exception = raised) -> None:
            raise raised

        model.during = fail
        with pytest.raises(kind, match=f"typist: {raised}"):
            await model.agenerate(TASK)
    model.during = int
    assert (await model.agenerate(TASK)).content == model.text


async def test_a_model_that_fails_to_load_tries_again() -> None:
    class Shy(Typist):
        def _load(self) -> None:
            super()._load()
            if self.loads == 1:
                raise OSError("the folder is not mounted")

    model = Shy()
    with pytest.raises(ProviderError, match="not mounted"):
        await model.aload()
    await model.aload()
    assert (await model.agenerate(TASK)).content == model.text
    assert model.loads == 2


def test_a_loop_that_is_gone_stops_its_call() -> None:
    model = Typist("x" * 30_000, wait=0.005)

    async def leave() -> None:
        asyncio.get_running_loop().create_task(model.agenerate(TASK))
        await until(lambda: model.running)

    asyncio.run(leave())
    model.text = "Hello!"
    assert asyncio.run(model.agenerate(TASK)).content == "Hello!"
    assert model.generate(TASK).content == "Hello!"
    assert model.most == 1


async def test_one_thread_is_never_two() -> None:
    thread, running, most = OneThread(), 0, 0

    def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.03)
        running -= 1

    for _ in range(3):
        task = asyncio.create_task(thread.run(work))
        await asyncio.sleep(0.01)
        task.cancel()
    await thread.run(work)
    assert most == 1


def test_a_model_without_a_name_is_refused() -> None:
    class Nameless(Typist):
        def __init__(self) -> None:
            LocalModel.__init__(self, None)

    with pytest.raises(CallerError, match="Nameless needs a model_id"):
        Nameless()
