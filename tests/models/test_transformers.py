"""A tiny model with random weights, made and saved here with a tokenizer trained here, on the CPU.

What it says means nothing, but it is the same each time. Where its words matter, its tokens are forced.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands import CodeAgent, ToolCallingAgent, tool
from manyhands.errors import BadRequestError, CallerError, MissingExtraError, ProviderError
from manyhands.messages import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    MessageRole,
    agglomerate_stream_deltas,
    message,
)
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.transformers import TokenText, TransformersModel
from tests.models.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason='torch or transformers is not installed: pip install "manyhands[transformers]"',
)
pytestmark = [
    # Of the libraries below.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ more | default('') }}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model: two layers, random weights, a byte-level tokenizer with a chat template."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    made = tmp_path_factory.mktemp("tiny")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Say hello to the world. Observation: a cat sat there."] * 20, trainer)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )
    wrapped.save_pretrained(made)
    config = transformers.LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(7)
    transformers.LlamaForCausalLM(config).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def tiny(folder: Path) -> TransformersModel:
    return TransformersModel(str(folder), max_new_tokens=40)


class Says:
    """Forces what the model writes: it is one of the library's logits processors, for one call."""

    def __init__(self, asked: TransformersModel, text: str, wait: float = 0.0) -> None:
        self.asked, self.text, self.wait = asked, text, wait
        self.ids: list[int] | None = None
        self.start: int | None = None
        self.tokens = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.ids is None:
            self.ids = [*self.asked.tokenizer(self.text, add_special_tokens=False)["input_ids"], 1]
            self.start = input_ids.shape[-1]
        time.sleep(self.wait)
        self.tokens += 1
        scores[:] = -1e9
        scores[:, self.ids[(input_ids.shape[-1] - self.start) % len(self.ids)]] = 1e9
        return scores


class Endless(Says):
    """Writes one word for ever."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self.ids is None:
            super().__call__(input_ids, scores)
            assert self.ids is not None
            self.ids.pop()
        return super().__call__(input_ids, scores)


async def pieces(asked: TransformersModel, **options: Any) -> list[ChatMessageStreamDelta]:
    return [delta async for delta in asked.agenerate_stream(TASK, **options)]


# --- Asking ------------------------------------------------------------------------------------


@needs_torch
async def test_it_is_loaded_at_the_first_call_and_counts_its_tokens(folder: Path) -> None:
    asked = TransformersModel(str(folder), max_new_tokens=5, torch_dtype="float32")
    assert asked.model is None
    got = await asked.agenerate(TASK)
    assert got.role == MessageRole.ASSISTANT
    assert got.text
    prompt = asked.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say hello."}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert got.token_usage is not None
    assert got.token_usage.input_tokens == len(prompt)
    assert got.token_usage.output_tokens == 5
    assert not asked.native_tool_messages


@needs_torch
async def test_a_stream_says_what_the_whole_reply_says(tiny: TransformersModel) -> None:
    whole = await tiny.agenerate(TASK)
    deltas = await pieces(tiny)
    assert len(deltas) > 5
    assert agglomerate_stream_deltas(deltas) == whole


@needs_torch
async def test_many_streams_at_once_never_mix(tiny: TransformersModel) -> None:
    texts = [f"Reply number {number}, all of it." for number in range(8)]
    calls = [tiny.agenerate(TASK, logits_processor=[Says(tiny, text)]) for text in texts]
    await tiny.aload()
    assert [reply.content for reply in await asyncio.gather(*calls)] == texts


@needs_torch
async def test_characters_of_several_tokens_come_whole(tiny: TransformersModel) -> None:
    text = "Grüße, 世界! 🎉 done"
    await tiny.aload()
    deltas = await pieces(tiny, logits_processor=[Says(tiny, text)])
    assert "".join(delta.content or "" for delta in deltas) == text
    assert all("\ufffd" not in (delta.content or "") for delta in deltas)


@needs_torch
@pytest.mark.parametrize("stop", ["Observation:", "vation: a c", "n", "🎉"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_sequence_ends_the_reply_wherever_its_tokens_are_cut(
    tiny: TransformersModel, stop: str, stream: bool
) -> None:
    text = "So I look. Observation: a cat 🎉 sat there and there and there."
    await tiny.aload()
    forced = Says(tiny, text)
    options: dict[str, Any] = {"stop_sequences": [stop, "never"], "logits_processor": [forced]}
    if stream:
        got = agglomerate_stream_deltas(await pieces(tiny, **options))
    else:
        got = await tiny.agenerate(TASK, **options)
    assert got.content == text.partition(stop)[0]
    assert got.token_usage is not None
    # It did not write on behind it.
    assert forced.ids is not None
    assert got.token_usage.output_tokens == forced.tokens < len(forced.ids)


@needs_torch
async def test_what_may_begin_a_stop_sequence_is_told_when_it_does_not(tiny: TransformersModel) -> None:
    await tiny.aload()
    got = await tiny.agenerate(
        TASK, stop_sequences=["there!"], logits_processor=[Says(tiny, "a cat sat the")]
    )
    assert got.content == "a cat sat the"


@needs_torch
async def test_options_go_to_generate(folder: Path) -> None:
    asked = TransformersModel(str(folder), max_new_tokens=50, max_tokens=3, seed=REMOVE_PARAMETER)
    assert await length(asked) == 3
    assert await length(asked, max_tokens=2) == 2
    assert await length(asked, max_new_tokens=4, temperature=0, tool_choice="auto") == 4
    assert await length(asked, temperature=0.7, top_p=0.9) == 3
    assert await length(asked, num_beams=2) == 3


async def length(asked: TransformersModel, **options: Any) -> int:
    got = await asked.agenerate(TASK, **options)
    assert got.text
    assert got.token_usage is not None
    return got.token_usage.output_tokens


@needs_torch
async def test_an_option_that_generate_does_not_know_is_told(tiny: TransformersModel) -> None:
    with pytest.raises(BadRequestError, match="frequency_of_cats"):
        await tiny.agenerate(TASK, frequency_of_cats=1)
    with pytest.raises(BadRequestError, match="response_format"):
        await tiny.agenerate(TASK, response_format={"type": "json_object"})
    assert (await tiny.agenerate(TASK)).text


# --- What it is shown --------------------------------------------------------------------------


class Shown(TransformersModel):
    """Keeps the prompts that it gets."""

    def _reply(self, call: Any, request: Any) -> None:
        render = self.tokenizer.apply_chat_template
        self.prompt = render(
            self._clean(request), tools=request.tools, tokenize=False, add_generation_prompt=True
        )
        super()._reply(call, request)


@needs_torch
async def test_the_chat_template_gets_tools_and_roles_it_knows(folder: Path) -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({}, "look"), "c1")
    conversation = [
        message(MessageRole.SYSTEM, "Be brief."),
        message(MessageRole.USER, "one"),
        message(MessageRole.USER, "two"),
        ChatMessage(MessageRole.ASSISTANT, None, [call]),
        ChatMessage(MessageRole.TOOL_RESPONSE, "a cat", tool_call_id="c1"),
    ]
    asked = Shown(str(folder), max_new_tokens=2, apply_chat_template_kwargs={"more": "!"})
    await asked.agenerate(conversation, tools_to_call_from=[TOOL])
    head, *turns = asked.prompt.splitlines()
    assert json.loads(head.removeprefix("<|tools|>")) == [TOOL]
    assert turns[:3] == ["<|system|>Be brief.", "<|user|>one", "two"]
    assert turns[3].startswith("<|assistant|>Calling tools:")
    assert turns[-2:] == ["<|user|>a cat", "<|assistant|>"]


@needs_torch
async def test_a_model_that_is_loaded_already_can_be_used(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = await asyncio.to_thread(transformers.AutoModelForCausalLM.from_pretrained, str(folder))
    tokenizer = await asyncio.to_thread(transformers.AutoTokenizer.from_pretrained, str(folder))
    asked = TransformersModel(model=model, tokenizer=tokenizer, max_new_tokens=3)
    assert asked.model_id == str(folder)
    assert (await asked.agenerate(TASK)).text
    assert asked.model is model


# --- Turns, cancellation, loops ----------------------------------------------------------------


@needs_torch
async def test_one_call_runs_at_a_time_first_come_first_served(tiny: TransformersModel) -> None:
    running, most, order = 0, 0, []

    class Slow(Says):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            nonlocal running, most
            if self.ids is None:
                running += 1
                most = max(most, running)
                order.append(self.text)
            if self.ids is not None and self.tokens == len(self.ids) - 1:
                running -= 1
            return super().__call__(input_ids, scores)

    await tiny.aload()
    texts = ["one cat", "two cats", "three cats"]
    await asyncio.gather(*(tiny.agenerate(TASK, logits_processor=[Slow(tiny, text)]) for text in texts))
    assert most == 1
    assert order == texts


@needs_torch
@pytest.mark.parametrize("stream", [False, True])
async def test_cancelling_a_call_stops_it_and_frees_the_model(tiny: TransformersModel, stream: bool) -> None:
    await tiny.aload()
    endless = Endless(tiny, " cat", wait=0.002)
    options: dict[str, Any] = {"max_new_tokens": 100_000, "logits_processor": [endless]}
    call = asyncio.ensure_future(pieces(tiny, **options) if stream else tiny.agenerate(TASK, **options))
    await until(lambda: endless.tokens >= 3)
    waiting = asyncio.create_task(tiny.agenerate(TASK, logits_processor=[Says(tiny, "next")]))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        assert (await waiting).content == "next"
    done = endless.tokens
    await asyncio.sleep(0.1)
    assert endless.tokens == done, "it still writes"


@needs_torch
async def test_a_stream_left_early_stops(tiny: TransformersModel) -> None:
    await tiny.aload()
    endless = Endless(tiny, " cat")
    deltas = tiny.agenerate_stream(TASK, max_new_tokens=100_000, logits_processor=[endless])
    assert (await anext(deltas)).content == " cat"
    await deltas.aclose()
    async with asyncio.timeout(5):
        assert (await tiny.agenerate(TASK, logits_processor=[Says(tiny, "next")])).content == "next"


@needs_torch
async def test_a_call_cancelled_in_line_never_starts(tiny: TransformersModel) -> None:
    await tiny.aload()
    endless, second = Endless(tiny, " cat"), Says(tiny, "second")
    first = asyncio.create_task(tiny.agenerate(TASK, max_new_tokens=100_000, logits_processor=[endless]))
    await until(lambda: endless.tokens)
    waiting = asyncio.create_task(tiny.agenerate(TASK, logits_processor=[second]))
    await asyncio.sleep(0.02)
    for task in (waiting, first):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await tiny.agenerate(TASK, logits_processor=[Says(tiny, "third")])).content == "third"
    assert second.tokens == 0


@needs_torch
def test_one_model_serves_several_loops_at_once_and_sync_code(folder: Path) -> None:
    asked = TransformersModel(str(folder), max_new_tokens=10)
    replies: list[str] = []

    def ask() -> None:
        replies.append(asyncio.run(asked.agenerate(TASK)).text)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(replies) == 3
    assert set(replies) == {asked.generate(TASK).text}
    assert "".join(delta.content or "" for delta in asked.generate_stream(TASK)) == replies[0]


@needs_torch
def test_a_loop_that_ends_in_the_middle_frees_the_model(folder: Path) -> None:
    asked = TransformersModel(str(folder))
    endless = Endless(asked, " cat")

    async def leave() -> None:
        asyncio.get_running_loop().create_task(
            asked.agenerate(TASK, max_new_tokens=100_000, logits_processor=[endless])
        )
        await until(lambda: endless.tokens)

    asyncio.run(leave())
    assert asyncio.run(asked.agenerate(TASK, logits_processor=[Says(asked, "next")])).content == "next"


@needs_torch
async def test_the_loop_runs_on_while_it_computes(tiny: TransformersModel) -> None:
    await tiny.aload()
    beats = 0
    call = asyncio.create_task(
        tiny.agenerate(TASK, max_new_tokens=200, logits_processor=[Endless(tiny, " cat")])
    )
    while not call.done():
        await asyncio.sleep(0.002)
        beats += 1
    assert beats > 10


# --- Setting it up -----------------------------------------------------------------------------


@needs_torch
async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="nothing"):
        await TransformersModel(str(tmp_path / "nothing")).agenerate(TASK)


@needs_torch
def test_a_model_is_described_and_comes_back() -> None:
    asked = TransformersModel(
        "org/model",
        "auto",
        "bfloat16",
        max_tokens=7,
        model_kwargs={"token": "hf_secret", "revision": "r1"},
        temperature=0.5,
    )
    described = asked.to_dict()
    assert described == {
        "class": "TransformersModel",
        "model_id": "org/model",
        "device_map": "auto",
        "torch_dtype": "bfloat16",
        "trust_remote_code": False,
        "max_new_tokens": 7,
        "model_kwargs": {"revision": "r1"},
        "temperature": 0.5,
    }
    assert TransformersModel.from_dict(described).to_dict() == described
    with pytest.raises(CallerError, match="model_id"):
        TransformersModel()


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"TransformersModel .*manyhands\[transformers\]"):
        TransformersModel("org/model")


def test_text_is_complete_however_its_tokens_are_cut() -> None:
    class Bytes:
        """A tokenizer of single bytes; what stands first loses its space, as with sentencepiece."""

        @staticmethod
        def decode(ids: list[int], skip_special_tokens: bool) -> str:
            assert skip_special_tokens
            return bytes(ids).decode("utf-8", "replace").removeprefix(" ")

    text = TokenText(Bytes())
    said = [text.add(byte) for byte in " a 🎉 b".encode()]
    assert "".join(said) + text.end() == "a 🎉 b"
    assert not any("\ufffd" in piece for piece in said)
    assert text.add(0xF0) == ""
    assert text.end() == "\ufffd"


# --- Agents on it ------------------------------------------------------------------------------


@tool
def population(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country.
    """
    return {"Norway": 5, "Peru": 34}[country]


class Scripted(TransformersModel):
    """Writes these texts, one a call, through all of the real library."""

    script: Iterator[str]

    def _reply(self, call: Any, request: Any) -> None:
        request.options["logits_processor"] = [Says(self, next(self.script))]
        super()._reply(call, request)


@needs_torch
@pytest.mark.parametrize("stream", [False, True])
async def test_a_tool_calling_agent_works_on_calls_written_as_text(folder: Path, stream: bool) -> None:
    asked = Scripted(str(folder), max_new_tokens=400)
    asked.script = iter(
        [
            'I look. {"name": "population", "arguments": {"country": "Peru"}}\nObservation: made up',
            '{"name": "final_answer", "arguments": {"answer": 34}}',
        ]
    )
    agent = ToolCallingAgent(tools=[population], model=asked, stream_outputs=stream)
    assert await agent.arun("How many people live in Peru?") == 34


@needs_torch
async def test_a_code_agent_works(folder: Path) -> None:
    asked = Scripted(str(folder), max_new_tokens=400)
    asked.script = iter(["<code>\nfinal_answer(population('Peru') + 5)\n</code> and more"])
    run = CodeAgent(tools=[population], model=asked).arun("How many people live in Norway and Peru?")
    assert await run == 39
    assert run.usage is not None
    assert run.usage.output_tokens > 5
