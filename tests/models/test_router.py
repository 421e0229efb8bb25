"""litellm's Router over several simulated providers."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.errors import CallerError, MissingExtraError, RateLimitError
from manyhands.messages import MessageRole, message
from manyhands.models.router import LiteLLMRouterModel
from manyhands.testing import SimulatedProvider
from tests.models.litellm_needs import WARNINGS, only_litellm_blocks_the_loop, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_litellm = pytest.mark.skipif(
    importlib.util.find_spec("litellm") is None,
    reason='litellm is not installed: pip install "manyhands[litellm]"',
)
pytestmark = [pytest.mark.filterwarnings(text) for text in WARNINGS]

TASK = [message(MessageRole.USER, "Say hello.")]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
QUICK = {"num_retries": 1, "retry_after": 0, "allowed_fails": 0, "cooldown_time": 30}


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


def deployments(*bases: str) -> list[dict[str, Any]]:
    return [
        {
            "model_name": "group",
            "litellm_params": {"model": "openai/tiny", "api_base": base, "api_key": f"sk-{number}"},
        }
        for number, base in enumerate(bases)
    ]


@needs_litellm
async def test_the_work_is_shared_and_a_failing_deployment_left_alone() -> None:
    async with (
        SimulatedProvider(policy=lambda _: "one", faults={"500": 1.0}) as broken,
        SimulatedProvider(policy=lambda _: "two") as sound,
    ):
        asked = LiteLLMRouterModel("group", deployments(broken.base_url, sound.base_url), QUICK)
        replies = [(await asked.agenerate(TASK)).content for _ in range(6)]
        assert replies == ["two"] * 6
        assert broken.stats.requests <= 2


@needs_litellm
async def test_many_first_calls_at_once_make_one_router() -> None:
    async with SimulatedProvider(policy=lambda _: "Hello!") as provider:
        asked = LiteLLMRouterModel("group", deployments(provider.base_url))
        replies = await asyncio.gather(*(asked.agenerate(TASK) for _ in range(20)))
    assert [reply.content for reply in replies] == ["Hello!"] * 20


@needs_litellm
async def test_when_all_are_cooling_down_it_is_a_rate_limit_with_a_time() -> None:
    async with SimulatedProvider(faults={"429": 1.0}, retry_after=2) as provider:
        asked = LiteLLMRouterModel("group", deployments(provider.base_url), {**QUICK, "num_retries": 0})
        with pytest.raises(RateLimitError, match=r"group \(litellm Router\)"):
            await asked.agenerate(TASK)
        with pytest.raises(RateLimitError) as raised:
            await asked.agenerate(TASK)
    assert raised.value.status == 429
    assert raised.value.retry_after is not None
    assert raised.value.retry_after > 0


@needs_litellm
def test_a_model_is_described_without_its_keys() -> None:
    asked = LiteLLMRouterModel("group", deployments("http://a/v1"), {"redis_password": "p", "num_retries": 2})
    assert asked.to_dict() == {
        "class": "LiteLLMRouterModel",
        "model_id": "group",
        "model_list": [
            {"model_name": "group", "litellm_params": {"model": "openai/tiny", "api_base": "http://a/v1"}}
        ],
        "client_kwargs": {"num_retries": 2},
    }
    assert LiteLLMRouterModel.from_dict(asked.to_dict()).to_dict() == asked.to_dict()


@needs_litellm
def test_a_group_that_is_not_in_the_list_is_refused() -> None:
    with pytest.raises(CallerError, match="'other'.*group"):
        LiteLLMRouterModel("other", deployments("http://a/v1"))


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "litellm", raising=False)
    monkeypatch.setattr("manyhands.models.libraries._installed", lambda _: False)
    with pytest.raises(MissingExtraError, match=r"LiteLLMRouterModel .*manyhands\[litellm\]"):
        LiteLLMRouterModel("group", deployments("http://a/v1"))
