"""vLLM cannot run on every machine: a stand-in with the calls used of it, and an opt-in test."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any

import pytest

from manyhands import ToolCallingAgent, tool
from manyhands.errors import BadRequestError, MissingExtraError, ProviderError
from manyhands.messages import MessageRole, TokenUsage, agglomerate_stream_deltas, message
from manyhands.models.vllm import VLLMModel
from tests.models.waiting import until

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1


@dataclass
class StructuredOutputsParams:
    json: Any = None
    json_object: bool | None = None


@dataclass
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 16
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class CompletionOutput:
    text: str
    token_ids: list[int]


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool


class Tokenizer:
    def apply_chat_template(self, messages: Any, **options: Any) -> list[int]:
        assert options["tokenize"] is True
        assert options["return_dict"] is False
        self.shown = (messages, options)
        return list(range(len(messages[-1]["content"].split())))


@dataclass
class Engine:
    """Writes the engine's text, one character a step, for all requests at once."""

    text: str = "Hello there, world."
    wait: float = 0.0
    active: dict[str, tuple[SamplingParams, int]] = field(default_factory=dict)
    most: int = 0
    steps: int = 0
    threads: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    asked: list[tuple[Any, SamplingParams]] = field(default_factory=list)
    broken: bool = False

    def add_request(self, request_id: str, prompt: Any, params: SamplingParams) -> None:
        self.threads.add(threading.current_thread().name)
        self.asked.append((prompt, params))
        self.active[request_id] = (params, 0)
        self.most = max(self.most, len(self.active))

    def abort_request(self, request_ids: list[str]) -> None:
        self.threads.add(threading.current_thread().name)
        for name in request_ids:
            del self.active[name]
        self.aborted += request_ids

    def step(self) -> list[RequestOutput]:
        self.threads.add(threading.current_thread().name)
        time.sleep(self.wait)
        self.steps += 1
        assert self.active, "a step without work would wait for ever"
        if self.broken:
            raise RuntimeError("the engine is dead")
        outputs = []
        for name, (params, done) in list(self.active.items()):
            assert params.output_kind is RequestOutputKind.DELTA
            done += 1
            finished = done >= min(len(self.text), params.max_tokens)
            outputs.append(RequestOutput(name, [CompletionOutput(self.text[done - 1], [1])], finished))
            self.active[name] = (params, done)
            if finished:
                del self.active[name]
        return outputs


class LLM:
    made: list[LLM] = []

    def __init__(self, model: str, **settings: Any) -> None:
        self.name, self.settings = model, settings
        self.llm_engine = Engine()
        self.tokenizer = Tokenizer()
        self.made.append(self)

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """A stand-in for vLLM, put where it would be imported from."""
    vllm, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vllm.LLM = LLM  # type: ignore[attr-defined]
    for part in (SamplingParams, RequestOutputKind, StructuredOutputsParams):
        setattr(params, part.__name__, part)
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    LLM.made = []
    return LLM


async def loaded(**settings: Any) -> tuple[VLLMModel, Engine]:
    model = VLLMModel("org/model", **settings)
    await model.aload()
    return model, model.model.llm_engine


@pytest.mark.usefixtures("library")
async def test_a_reply_comes_whole_or_in_pieces_with_its_token_counts() -> None:
    model, engine = await loaded(model_kwargs={"max_model_len": 100})
    assert LLM.made[0].settings == {"max_model_len": 100}
    got = await model.agenerate(TASK)
    deltas = [delta async for delta in model.agenerate_stream(TASK)]
    assert agglomerate_stream_deltas(deltas) == got
    assert got.content == engine.text
    assert got.token_usage == TokenUsage(2, len(engine.text))
    assert [delta.content for delta in deltas[:3]] == ["H", "e", "l"]
    assert engine.asked[0][0] == {"prompt_token_ids": [0, 1]}
    assert not model.native_tool_messages


@pytest.mark.usefixtures("library")
async def test_options_go_into_the_sampling_params() -> None:
    model, engine = await loaded(top_p=0.9, apply_chat_template_kwargs={"enable_thinking": False})
    await model.agenerate(TASK, ["STOP"], tools_to_call_from=[TOOL], max_new_tokens=5, temperature=0.5)
    params = engine.asked[0][1]
    assert (params.top_p, params.temperature, params.max_tokens) == (0.9, 0.5, 5)
    assert model.tokenizer.shown[1]["tools"] == [TOOL]
    assert model.tokenizer.shown[1]["enable_thinking"] is False
    await model.agenerate(TASK)
    assert (engine.asked[1][1].temperature, engine.asked[1][1].max_tokens) == (0.0, 2048)
    with pytest.raises(BadRequestError, match="frequency_of_cats"):
        await model.agenerate(TASK, frequency_of_cats=1)


@pytest.mark.usefixtures("library")
async def test_a_schema_becomes_structured_outputs() -> None:
    model, engine = await loaded()
    schema = {"type": "object", "properties": {}}
    await model.agenerate(
        TASK, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )
    await model.agenerate(TASK, response_format={"type": "json_object"})
    first, second = (params.structured_outputs for _, params in engine.asked)
    assert first == StructuredOutputsParams(json=schema)
    assert second == StructuredOutputsParams(json_object=True)


@pytest.mark.usefixtures("library")
async def test_calls_share_batches_and_one_thread() -> None:
    model, engine = await loaded()
    engine.wait = 0.002
    replies = await asyncio.gather(*(model.agenerate(TASK) for _ in range(50)))
    assert {reply.content for reply in replies} == {engine.text}
    assert engine.most > 40
    assert engine.steps < 4 * len(engine.text)
    assert len(engine.threads) == 1
    assert engine.active == {}


@pytest.mark.usefixtures("library")
async def test_a_call_that_comes_later_joins_and_may_end_first() -> None:
    model, engine = await loaded()
    engine.wait, engine.text = 0.005, "x" * 300
    slow = asyncio.create_task(model.agenerate(TASK))
    await until(lambda: engine.steps)
    quick = await model.agenerate(TASK, max_tokens=3)
    assert quick.content == "xxx"
    assert not slow.done()
    assert (await slow).content == engine.text


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("stop", ["there", "e, w"])
async def test_a_stop_sequence_ends_the_reply_and_its_request(stop: str) -> None:
    model, engine = await loaded()
    got = await model.agenerate(TASK, stop_sequences=[stop])
    assert got.content == engine.text.partition(stop)[0]
    assert engine.active == {}
    assert len(engine.aborted) == 1


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("who", ["the one that drives", "a passenger"])
async def test_cancelling_a_call_takes_its_request_out_and_leaves_the_others(who: str) -> None:
    model, engine = await loaded()
    engine.wait, engine.text = 0.002, "x" * 200
    driver = asyncio.create_task(model.agenerate(TASK))
    await until(lambda: engine.active)
    passenger = asyncio.create_task(model.agenerate(TASK))
    await until(lambda: len(engine.active) == 2)
    gone, stays = (driver, passenger) if who == "the one that drives" else (passenger, driver)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (await stays).content == engine.text
    assert len(engine.aborted) == 1
    assert engine.active == {}
    assert (await model.agenerate(TASK, max_tokens=2)).content == "xx"
    assert len(engine.threads) == 1


@pytest.mark.usefixtures("library")
async def test_a_stream_left_early_takes_its_request_out() -> None:
    model, engine = await loaded()
    engine.wait, engine.text = 0.002, "x" * 2000
    deltas = model.agenerate_stream(TASK)
    await anext(deltas)
    await deltas.aclose()
    await until(lambda: not engine.active)
    assert engine.steps < 1000


@pytest.mark.usefixtures("library")
async def test_an_engine_that_breaks_is_told_to_all_who_wait() -> None:
    model, engine = await loaded()
    engine.wait, engine.text = 0.002, "x" * 100
    calls = [asyncio.create_task(model.agenerate(TASK)) for _ in range(3)]
    await until(lambda: len(engine.active) == 3)
    engine.broken = True
    async with asyncio.timeout(5):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(error, ProviderError) and "is dead" in str(error) for error in ended)


@pytest.mark.usefixtures("library")
def test_one_model_serves_several_loops_at_once_and_sync_code() -> None:
    model = VLLMModel("org/model")
    replies: list[str] = []
    threads = [
        threading.Thread(target=lambda: replies.append(asyncio.run(model.agenerate(TASK)).text))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert replies == ["Hello there, world."] * 4
    assert model.generate(TASK).content == "Hello there, world."
    assert len(LLM.made) == 1


@tool
def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country.
    """
    return {"Norway": 5, "Peru": 34}[country]


@pytest.mark.usefixtures("library")
async def test_an_agent_works_on_calls_written_as_text() -> None:
    model, engine = await loaded()
    engine.text = '{"name": "final_answer", "arguments": {"answer": 39}}'
    assert await ToolCallingAgent(tools=[population], model=model).arun("How many?") == 39


@pytest.mark.usefixtures("library")
def test_a_model_is_described_and_comes_back() -> None:
    model = VLLMModel("org/model", {"max_model_len": 9, "hf_token": "hf_secret"}, temperature=0.5)
    described = model.to_dict()
    assert described == {
        "class": "VLLMModel",
        "model_id": "org/model",
        "model_kwargs": {"max_model_len": 9},
        "temperature": 0.5,
    }
    assert VLLMModel.from_dict(described).to_dict() == described


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"VLLMModel .*manyhands\[vllm\]"):
        VLLMModel("org/model")


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_VLLM_MODEL"), reason="set MANYHANDS_LIVE_VLLM_MODEL where vLLM runs"
)
async def test_live() -> None:
    model = VLLMModel(os.environ["MANYHANDS_LIVE_VLLM_MODEL"], {"max_model_len": 2048})
    replies = await asyncio.gather(*(model.agenerate(TASK, max_tokens=32) for _ in range(8)))
    assert all(reply.text for reply in replies)
    deltas = [delta async for delta in model.agenerate_stream(TASK, max_tokens=32)]
    assert agglomerate_stream_deltas(deltas).content == replies[0].content
