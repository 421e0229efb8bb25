"""MLX runs on Apple's processors only: a stand-in with the calls used of it, and an opt-in test."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import ToolCallingAgent, tool
from manyhands.errors import BadRequestError, MissingExtraError
from manyhands.messages import MessageRole, TokenUsage, agglomerate_stream_deltas, message
from manyhands.models.mlx import MLXModel
from tests.models.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Tokenizer:
    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        assert options["tokenize"] is True
        self.shown = (messages, options)
        return list(range(len(messages[-1]["content"].split())))


class Library:
    """What mlx_lm does, one character at a time."""

    def __init__(self) -> None:
        self.text = "Hello there, world."
        self.wait = 0.0
        self.loads: list[tuple[Any, ...]] = []
        self.asked: list[dict[str, Any]] = []
        self.threads: set[str] = set()
        self.running = self.most = self.written = self.closed = 0

    def load(self, path: str, **settings: Any) -> tuple[str, Tokenizer]:
        self.threads.add(threading.current_thread().name)
        self.loads.append((path, settings))
        return f"weights of {path}", Tokenizer()

    def stream_generate(
        self, model: Any, tokenizer: Any, prompt: list[int], *, max_tokens: int = 256, sampler: Any = None
    ) -> Iterator[Any]:
        self.asked.append({"model": model, "prompt": prompt, "max_tokens": max_tokens, "sampler": sampler})
        self.running += 1
        self.most = max(self.most, self.running)
        self.threads.add(threading.current_thread().name)
        try:
            for count, character in enumerate(self.text[:max_tokens], 1):
                time.sleep(self.wait)
                self.written += 1
                yield SimpleNamespace(text=character, prompt_tokens=len(prompt), generation_tokens=count)
        finally:
            self.running -= 1
            self.closed += 1


def put_in_place(stand_in: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in for mlx_lm where it would be imported from."""
    mlx, utils = ModuleType("mlx_lm"), ModuleType("mlx_lm.sample_utils")
    mlx.load, mlx.stream_generate = stand_in.load, stand_in.stream_generate  # type: ignore[attr-defined]
    utils.make_sampler = lambda **given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlx_lm", mlx)
    monkeypatch.setitem(sys.modules, "mlx_lm.sample_utils", utils)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    """A stand-in for mlx_lm, put where it would be imported from."""
    stand_in = Library()
    put_in_place(stand_in, monkeypatch)
    return stand_in


async def test_a_reply_comes_whole_or_in_pieces_with_its_token_counts(library: Library) -> None:
    model = MLXModel("org/model", trust_remote_code=True, load_kwargs={"lazy": True})
    got = await model.agenerate(TASK)
    deltas = [delta async for delta in model.agenerate_stream(TASK)]
    assert agglomerate_stream_deltas(deltas) == got
    assert got.content == library.text
    assert got.token_usage == TokenUsage(2, len(library.text))
    assert library.loads == [("org/model", {"tokenizer_config": {"trust_remote_code": True}, "lazy": True})]
    assert library.asked[0] == {
        "model": "weights of org/model",
        "prompt": [0, 1],
        "max_tokens": 4096,
        "sampler": None,
    }
    assert not model.native_tool_messages


async def test_options_go_to_the_library_under_its_names(library: Library) -> None:
    model = MLXModel(
        "org/model", max_tokens=5, top_p=0.9, apply_chat_template_kwargs={"enable_thinking": False}
    )
    await model.agenerate(TASK, tools_to_call_from=[TOOL], temperature=0.5, top_p=1.0)
    assert library.asked[0]["sampler"] == {"temp": 0.5, "top_p": 0.9}
    assert library.asked[0]["max_tokens"] == 5
    assert model.tokenizer.shown[1]["tools"] == [TOOL]
    assert model.tokenizer.shown[1]["enable_thinking"] is False
    await model.agenerate(TASK, max_new_tokens=6)
    assert library.asked[1]["max_tokens"] == 6
    with pytest.raises(BadRequestError, match="frequency_of_cats"):
        await model.agenerate(TASK, frequency_of_cats=1)
    with pytest.raises(BadRequestError, match="response_format"):
        await model.agenerate(TASK, response_format={"type": "json_object"})


@pytest.mark.parametrize("stop", ["there", "e, w"])
async def test_a_stop_sequence_ends_the_reply(library: Library, stop: str) -> None:
    got = await MLXModel("org/model").agenerate(TASK, stop_sequences=[stop])
    assert got.content == library.text.partition(stop)[0]
    assert library.written == len(library.text.partition(stop)[0]) + len(stop)
    assert library.closed == 1


async def test_all_models_live_in_one_thread_and_take_turns(library: Library) -> None:
    library.wait = 0.001
    models = [MLXModel("org/one"), MLXModel("org/two")]
    await asyncio.gather(*(model.agenerate(TASK) for model in models * 3))
    assert library.most == len(library.threads) == 1
    assert len(library.loads) == 2


async def test_cancelling_a_call_stops_it_and_frees_the_model(library: Library) -> None:
    library.wait, library.text = 0.002, "x" * 4000
    model = MLXModel("org/model")
    call = asyncio.create_task(model.agenerate(TASK))
    await until(lambda: library.written >= 3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        assert (await model.agenerate(TASK, max_tokens=2)).content == "xx"
    assert library.closed == 2
    assert library.written < 500
    assert library.most == len(library.threads) == 1


def test_one_model_serves_loop_after_loop_and_sync_code(library: Library) -> None:
    model = MLXModel("org/model")
    for _ in range(2):
        assert asyncio.run(model.agenerate(TASK)).content == library.text
    assert model.generate(TASK).content == library.text
    assert "".join(delta.content or "" for delta in model.generate_stream(TASK)) == library.text
    assert len(library.loads) == 1


@tool
def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country.
    """
    return {"Norway": 5, "Peru": 34}[country]


async def test_an_agent_works_on_calls_written_as_text(library: Library) -> None:
    library.text = '{"name": "final_answer", "arguments": {"answer": 39}}'
    assert await ToolCallingAgent(tools=[population], model=MLXModel("org/model")).arun("How many?") == 39


@pytest.mark.usefixtures("library")
def test_a_model_is_described_and_comes_back() -> None:
    model = MLXModel("org/model", load_kwargs={"lazy": True, "token": "hf_secret"}, temperature=0.5)
    described = model.to_dict()
    assert described == {
        "class": "MLXModel",
        "model_id": "org/model",
        "trust_remote_code": False,
        "max_tokens": 4096,
        "load_kwargs": {"lazy": True},
        "temperature": 0.5,
    }
    assert MLXModel.from_dict(described).to_dict() == described


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlx_lm", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"MLXModel .*manyhands\[mlx\]"):
        MLXModel("org/model")


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_MLX_MODEL"), reason="set MANYHANDS_LIVE_MLX_MODEL on an Apple computer"
)
async def test_live() -> None:
    model = MLXModel(os.environ["MANYHANDS_LIVE_MLX_MODEL"])
    replies = await asyncio.gather(*(model.agenerate(TASK, max_tokens=32) for _ in range(3)))
    assert all(reply.text for reply in replies)
