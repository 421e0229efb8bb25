"""One set of behaviours for every model that runs in this process: what each writes is played to it.

transformers is the real library with a tiny model whose tokens are forced; vLLM and MLX are stand-ins, for
they do not run on every machine.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.messages import ChatMessage, MessageRole, agglomerate_stream_deltas, message
from manyhands.models.mlx import MLXModel
from manyhands.models.vllm import VLLMModel
from tests.models import test_mlx, test_transformers
from tests.models.test_transformers import Scripted, folder
from tests.models.test_vllm import library as vllm_library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands.models.local import LocalModel

pytestmark = test_transformers.pytestmark
__all__ = ["folder", "vllm_library"]  # fixtures
TASK = [message(MessageRole.SYSTEM, "Be brief."), message(MessageRole.USER, "Say hello.")]


def transformers_model(request: pytest.FixtureRequest, script: list[str]) -> LocalModel:
    model = Scripted(str(request.getfixturevalue("folder")), max_new_tokens=400)
    model.script = iter(script)
    return model


def vllm_model(request: pytest.FixtureRequest, script: list[str]) -> LocalModel:
    request.getfixturevalue("vllm_library")
    texts = iter(script)

    class Played(VLLMModel):
        def _reply(self, call: Any, asked: Any) -> None:
            self.model.llm_engine.text = next(texts)
            asked.options.setdefault("max_tokens", 400)
            super()._reply(call, asked)

    return Played("org/model")


class PlayedLibrary(test_mlx.Library):
    def __init__(self, script: list[str]) -> None:
        super().__init__()
        self.texts = iter(script)

    def stream_generate(self, *args: Any, **options: Any) -> Iterator[Any]:
        self.text = next(self.texts)
        return super().stream_generate(*args, **options)


def mlx_model(request: pytest.FixtureRequest, script: list[str]) -> LocalModel:
    test_mlx.put_in_place(PlayedLibrary(script), request.getfixturevalue("monkeypatch"))
    return MLXModel("org/model")


DOORS = {"transformers": transformers_model, "vllm": vllm_model, "mlx": mlx_model}
HERE = [
    name
    for name in DOORS
    if name != "transformers" or all(map(importlib.util.find_spec, ("torch", "transformers")))
]


@pytest.fixture(params=HERE)
def playing(request: pytest.FixtureRequest) -> Callable[..., LocalModel]:
    return lambda *script: DOORS[request.param](request, list(script))


async def folded(model: LocalModel, **options: Any) -> ChatMessage:
    return agglomerate_stream_deltas([delta async for delta in model.agenerate_stream(TASK, **options)])


async def test_a_reply_comes_to_the_same_whole_and_in_pieces(playing: Any) -> None:
    said = "Hello, wörld 👋. How are you?"
    model = playing(said, said)
    whole = await model.agenerate(TASK)
    assert (whole.role, whole.content) == (MessageRole.ASSISTANT, said)
    assert whole.token_usage.input_tokens > 0
    assert whole.token_usage.output_tokens > 5
    assert await folded(model) == whole


async def test_stop_sequences_end_a_reply_wherever_they_fall(playing: Any) -> None:
    said = "I look. Observation: a cat"
    model = playing(said, said, "and on", "and on")
    for stops in (["vation", "never"], ["and", " o"]):
        whole = await model.agenerate(TASK, stop_sequences=stops)
        assert whole.content in ("I look. Obser", "")
        assert (await folded(model, stop_sequences=stops)).content == whole.content


async def test_a_call_cut_short_leaves_the_model_to_the_next(playing: Any) -> None:
    model = playing("a very long reply " * 9, "next")
    deltas = model.agenerate_stream(TASK)
    assert (await anext(deltas)).content
    await deltas.aclose()
    assert (await model.agenerate(TASK)).content == "next"


@tool
def look(at: str) -> str:
    """Looks at a thing.

    Args:
        at: The thing.
    """
    return f"saw {at}"


CALLING = (
    'I look at both.\n<tool_call>\n{"name": "look", "arguments": {"at": "a"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {"at": "b"}}\n</tool_call>',
    '[{"name": "look", "arguments": {"at": "c"}}, {"name": "look", "arguments": {"at": "d"}}]',
    '{"name": "final_answer", "arguments": {"answer": "all seen"}}',
)
CODING = (
    "I look.\n<code>\nseen = look('a')\nprint(seen)\n</code> and on",
    "<code>\nfinal_answer(seen + '!')\n</code>",
)


def steps_of(agent: Any) -> list[dict[str, Any]]:
    """The steps of a run, without what depends on time, tokenizers and chance."""
    found = []
    for step in agent.memory.steps:
        data = step.dict()
        for name in ("timing", "model_input_messages", "token_usage"):
            data.pop(name, None)
        data.get("model_output_message", {}).pop("token_usage", None)
        for call in data.get("tool_calls") or ():
            call.pop("id")
        found.append(data)
    return found


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("kind", "script", "answer"),
    [(ToolCallingAgent, CALLING, "all seen"), (CodeAgent, CODING, "saw a!")],
)
async def test_the_same_run_gives_the_same_steps_on_every_model(
    kind: Any, script: tuple[str, ...], answer: str, streams: bool, request: pytest.FixtureRequest
) -> None:
    runs = []
    for name in HERE:
        agent = kind(
            model=DOORS[name](request, list(script)), tools=[look], stream_outputs=streams, max_tool_threads=1
        )
        assert await agent.arun("Look around.") == answer
        runs.append(steps_of(agent))
    assert all(run == runs[0] for run in runs[1:])
    if kind is ToolCallingAgent:
        assert "saw a\nsaw b" in str(runs[0][1]["observations"])
        assert "saw c\nsaw d" in str(runs[0][2]["observations"])
