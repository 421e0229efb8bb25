"""litellm as a way to any provider: the real library, asked for a simulated provider and a real proxy."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from manyhands.errors import (
    BadRequestError,
    CallerError,
    MissingExtraError,
    RateLimitError,
)
from manyhands.messages import (
    ChatMessage,
    MessageRole,
    TokenUsage,
    agglomerate_stream_deltas,
    message,
)
from manyhands.models.cleaning import REMOVE_PARAMETER
from manyhands.models.litellm import LiteLLMModel
from manyhands.models.openai import OpenAIModel
from manyhands.testing import SimulatedProvider
from manyhands.testing.simulated import Call, Reply
from tests.models.litellm_needs import WARNINGS, only_litellm_blocks_the_loop, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.models.base import Model

needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason='litellm is not installed: pip install "manyhands[litellm]"',
)
pytestmark = [pytest.mark.filterwarnings(text) for text in WARNINGS]

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with only_litellm_blocks_the_loop():
        yield


@pytest.fixture(autouse=True, scope="module")
def sweep_behind_litellm() -> Iterator[None]:
    yield
    sweep()


@pytest.fixture(autouse=True)
def no_look_ups_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def model(base: str, model_id: str = "openai/tiny", **settings: Any) -> LiteLLMModel:
    return LiteLLMModel(model_id, **{"api_base": base, "api_key": "sk-test-123", **settings})


async def streamed(asked: Model, messages: list[ChatMessage] = TASK, **options: Any) -> ChatMessage:
    return agglomerate_stream_deltas([delta async for delta in asked.agenerate_stream(messages, **options)])


# --- Asking ------------------------------------------------------------------------------------


@needs_litellm
async def test_what_is_asked_arrives() -> None:
    async with SimulatedProvider(policy=lambda _: Reply(calls=[Call("look")]), record=1) as provider:
        asked = model(provider.base_url, temperature=0.5, extra_body={"top_k": 3})
        await asked.agenerate(
            TASK,
            stop_sequences=["Observation:"],
            tools_to_call_from=[TOOL],
            max_tokens=9,
            seed=REMOVE_PARAMETER,
        )
        (request,) = provider.received
    assert request.body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Say hello."}],
        "stop": ["Observation:"],
        "tools": [TOOL],
        "tool_choice": "required",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
    }


@needs_litellm
async def test_a_model_that_takes_no_stop_sequences_is_cut_here() -> None:
    async with SimulatedProvider(policy=lambda _: "one STOP two", record=2) as provider:
        asked = model(provider.base_url, "openai/o3-mini")
        assert (await asked.agenerate(TASK, stop_sequences=["STOP"])).content == "one "
        assert (await streamed(asked, stop_sequences=["STOP"])).content == "one "
        assert all("stop" not in request.body for request in provider.received)


@needs_litellm
def test_messages_are_flattened_for_those_who_need_it() -> None:
    assert LiteLLMModel("ollama/llama3").flatten_messages_as_text
    assert LiteLLMModel("groq/llama3").flatten_messages_as_text
    assert not LiteLLMModel("openai/tiny").flatten_messages_as_text
    assert not LiteLLMModel("ollama/llama3", flatten_messages_as_text=False).flatten_messages_as_text
    assert not LiteLLMModel("ollama/llama3").native_tool_messages
    assert LiteLLMModel("openai/tiny").native_tool_messages


@needs_litellm
def test_one_model_serves_loop_after_loop_and_leaves_nothing_to_the_next() -> None:
    async def ask(asked: LiteLLMModel) -> ChatMessage:
        got = await asked.agenerate(TASK)
        assert any("sk-test-123" in name for name in kept())
        return got

    def kept() -> list[str]:
        litellm: Any = import_module("litellm")
        return list(litellm.in_memory_llm_clients_cache.cache_dict)

    with SimulatedProvider(policy=lambda _: "Hello!") as provider:
        asked = model(provider.base_url)
        for _ in range(3):
            assert asyncio.run(ask(asked)).content == "Hello!"
        assert asked.generate(TASK).content == "Hello!"
        assert "".join(delta.content or "" for delta in asked.generate_stream(TASK)) == "Hello!"
        # The loop of `generate` is kept; those before are closed.
        assert len([name for name in kept() if "sk-test-123" in name]) == 1


# --- When it goes wrong ------------------------------------------------------------------------


# --- What stays out of sight -------------------------------------------------------------------


@needs_litellm
def test_a_model_is_described_without_its_keys_and_comes_back() -> None:
    asked = LiteLLMModel(
        "openai/tiny",
        "http://user:pass@host/v1?key=1",
        "sk-secret",
        temperature=0.5,
        aws_secret_access_key="x",
        litellm_params={"api_key": "y", "tier": "z"},
        max_tokens=5,
    )
    described = asked.to_dict()
    assert described == {
        "class": "LiteLLMModel",
        "model_id": "openai/tiny",
        "api_base": "http://host/v1",
        "temperature": 0.5,
        "litellm_params": {"tier": "z"},
        "max_tokens": 5,
    }
    assert LiteLLMModel.from_dict(described).to_dict() == described
    assert "sk-secret" not in repr(asked)


@needs_litellm
def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(CallerError, match="model_id"):
        LiteLLMModel()


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r'LiteLLMModel .*pip install "manyhands\[litellm\]"'):
        LiteLLMModel("openai/tiny")


@needs_litellm
def test_building_a_model_imports_nothing_and_the_first_call_does_not_hold_up_the_loop() -> None:
    script = """
import asyncio, sys, time
from manyhands.messages import MessageRole, message
from manyhands.models.litellm import LiteLLMModel
from manyhands.models.openai import OpenAIModel
model = LiteLLMModel("openai/tiny", "http://127.0.0.1:1/v1", "k")
assert "litellm" not in sys.modules
async def main():
    call = asyncio.create_task(model.agenerate([message(MessageRole.USER, "hi")]))
    beats = 0
    while "litellm" not in sys.modules or not hasattr(sys.modules["litellm"], "acompletion"):
        await asyncio.sleep(0.005)
        beats += 1
    call.cancel()
    print(beats)
asyncio.run(main())
"""
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) > 20


# --- An agent on it ----------------------------------------------------------------------------


# --- A real proxy ------------------------------------------------------------------------------


def proxy_python() -> Path | None:
    """A Python with LiteLLM's proxy: it has an environment of its own, or is in this one."""
    own = Path(sys.prefix) / "proxy" / "bin" / "python"
    if own.exists():
        return own
    return Path(sys.executable) if importlib.util.find_spec("litellm_proxy_extras") is not None else None


PROXY_PYTHON = proxy_python()
PROXY = """
model_list:
  - model_name: mocked
    litellm_params: {model: openai/nothing, api_key: none, mock_response: "Hello from the proxy."}
  - model_name: limited
    litellm_params: {model: openai/nothing, api_key: none, mock_response: "litellm.RateLimitError"}
litellm_settings: {num_retries: 0}
general_settings: {master_key: sk-proxy-1}
"""


@contextmanager
def running_proxy(folder: Path) -> Iterator[str]:
    """A LiteLLM proxy as a process of its own; gives its address, and ends it."""
    (folder / "proxy.yaml").write_text(PROXY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DISABLE_ADMIN_UI": "True",
    }
    command = [str(PROXY_PYTHON), "-c", "from litellm import run_server; run_server()"]
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--config", str(folder / "proxy.yaml"), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=subprocess.STDOUT, env=env, cwd=folder, start_new_session=True,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


async def alive(base: str) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(90):
        while True:
            try:
                async with session.get(f"{base}/health/liveliness") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # it takes its time to start
            await asyncio.sleep(0.2)


@needs_litellm
@pytest.mark.slow
@pytest.mark.skipif(
    PROXY_PYTHON is None, reason='no proxy is installed: `make test` does, or "litellm[proxy]"'
)
async def test_a_real_proxy_answers_streams_and_refuses(tmp_path: Path) -> None:
    with running_proxy(tmp_path) as base:
        await alive(base)
        through = model(f"{base}/v1", "openai/mocked", api_key="sk-proxy-1")
        direct = OpenAIModel("mocked", api_base=f"{base}/v1", api_key="sk-proxy-1")
        for asked in (through, direct):
            got = await asked.agenerate(TASK)
            folded = await streamed(asked)
            assert got.content == folded.content == "Hello from the proxy."
            assert isinstance(got.token_usage, TokenUsage)
            assert folded.token_usage is not None
        with pytest.raises(RateLimitError):
            await model(f"{base}/v1", "openai/limited", api_key="sk-proxy-1").agenerate(TASK)
        with pytest.raises(BadRequestError, match="unheard"):
            await model(f"{base}/v1", "openai/unheard-of", api_key="sk-proxy-1").agenerate(TASK)


@pytest.mark.skipif(
    not os.environ.get("MANYHANDS_LIVE_LITELLM_MODEL"),
    reason="set MANYHANDS_LIVE_LITELLM_MODEL and its provider's key to ask the real one",
)
async def test_live() -> None:
    asked = LiteLLMModel(os.environ["MANYHANDS_LIVE_LITELLM_MODEL"])
    assert (await asked.agenerate(TASK, max_tokens=64)).text
    assert (await streamed(asked, max_tokens=64)).token_usage is not None
