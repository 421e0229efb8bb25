"""Tools written for something else: smolagents' own objects, and whatever looks like them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from manyhands.errors import AgentToolCallError, ToolDefinitionError
from manyhands.tools import Tool, resolve_tools


class LookAlike:
    """Has what smolagents' tools have, and nothing of ours."""

    name = "look_alike"
    description = "Looks like a tool."
    inputs = {
        "text": {"type": "string", "description": "What to say."},
        "times": {"type": "integer", "description": "How often.", "nullable": True},
    }
    output_type = "string"

    def __init__(self) -> None:
        self.threads: list[str] = []

    def forward(self, text: str, times: int = 1) -> str:
        self.threads.append(threading.current_thread().name)
        return text * times

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        return self.forward(*args, **kwargs)


class AsyncLookAlike(LookAlike):
    async def forward(self, text: str, times: int = 1) -> str:  # type: ignore[override]
        await asyncio.sleep(0)
        return text * times


class TestLookAlikes:
    async def test_object_is_called_as_it_is(self) -> None:
        foreign = LookAlike()
        adapted = resolve_tools([foreign])["look_alike"]
        assert isinstance(adapted, Tool)
        assert await adapted.acall(text="ab", times=2) == "abab"
        assert await adapted.acall("ab") == "ab"
        assert all(name.startswith("tool-look_alike") for name in foreign.threads)

    def test_sync_code_calls_it_in_its_own_thread(self) -> None:
        foreign = LookAlike()
        assert resolve_tools([foreign])["look_alike"]("ab") == "ab"
        assert foreign.threads == [threading.current_thread().name]

    async def test_what_its_async_forward_returns_is_awaited(self) -> None:
        adapted = resolve_tools([AsyncLookAlike()])["look_alike"]
        assert await adapted.acall("ab", 2) == "abab"
        assert await adapted("ab") == "ab"

    def test_it_is_described_and_its_calls_are_checked(self) -> None:
        adapted = resolve_tools([LookAlike()])["look_alike"]
        assert adapted.json_schema()["function"]["parameters"]["required"] == ["text"]
        assert adapted.to_code_prompt().startswith(
            "def look_alike(text: str, times: int | None = None) -> str:"
        )
        assert adapted.check_arguments({"text": "x"}) == {"text": "x"}
        with pytest.raises(AgentToolCallError, match="no argument 'time'; did you mean 'times'"):
            adapted.check_arguments({"text": "x", "time": 2})

    def test_its_mistakes_are_told_like_ours(self) -> None:
        foreign = LookAlike()
        foreign.output_type = "text"
        with pytest.raises(ToolDefinitionError, match="result of the tool 'look_alike' has the type 'text'"):
            resolve_tools([foreign])


class TestSmolagents:
    @pytest.fixture
    def smolagents(self) -> Any:
        return pytest.importorskip("smolagents", reason="smolagents is not installed")

    async def test_decorated_function_of_smolagents_works(self, smolagents: Any) -> None:
        tool = smolagents.tool

        @tool  # type: ignore[untyped-decorator]
        def repeat(text: str, times: int = 2) -> str:
            """Repeat a text.

            Args:
                text: What to repeat.
                times: How often.
            """
            return text * times

        adapted = resolve_tools([repeat])["repeat"]
        assert await adapted.acall(text="ab") == "abab"
        assert await adapted.acall({"text": "ab", "times": 1}) == "ab"
        assert adapted.check_arguments({"text": "ab"}) == {"text": "ab"}
        assert adapted.json_schema()["function"]["parameters"]["required"] == ["text"]
        assert "def repeat(text: str" in adapted.to_code_prompt()

    async def test_tool_class_of_smolagents_is_set_up_by_its_own_first_call(self, smolagents: Any) -> None:
        class Counter(smolagents.Tool):  # type: ignore[misc]
            name = "counter"
            description = "Counts."
            inputs = {"step": {"type": "integer", "description": "By how much."}}
            output_type = "integer"

            def setup(self) -> None:
                self.total = 10
                self.is_initialized = True

            def forward(self, step: int) -> int:
                self.total += step
                return self.total

        adapted = resolve_tools([Counter()])["counter"]
        assert [await adapted.acall(step=1), await adapted.acall(step=1)] == [11, 12]

    def test_ready_made_tools_of_smolagents_are_taken(self, smolagents: Any) -> None:
        adapted = resolve_tools([smolagents.FinalAnswerTool()])["final_answer"]
        assert adapted(answer=42) == 42
