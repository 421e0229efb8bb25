"""The tools that come along and need no network."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from manyhands.errors import AgentToolExecutionError, InterpreterError
from manyhands.tools.builtin import FinalAnswerTool, PythonInterpreterTool, UserInputTool


class TestFinalAnswer:
    async def test_any_answer_is_given_back(self) -> None:
        final = FinalAnswerTool()
        answer = object()
        assert await final.acall(answer) is answer
        assert await final.acall({"answer": 42}) == 42
        assert final.check_arguments({"answer": [1]}) == {"answer": [1]}
        assert await final(answer="x") == "x"


class TestPythonInterpreter:
    async def test_prints_and_last_value_are_given(self) -> None:
        interpreter = PythonInterpreterTool()
        assert await interpreter.acall("print('hi')\n6 * 7") == "Stdout:\nhi\n\nOutput: 42"

    async def test_calls_share_no_variables(self) -> None:
        interpreter = PythonInterpreterTool()
        await interpreter.acall("secret = 1")
        with pytest.raises(InterpreterError, match="secret"):
            await interpreter.acall("secret")

    async def test_calls_go_on_side_by_side(self) -> None:
        interpreter = PythonInterpreterTool()
        answers = await asyncio.gather(*(interpreter.acall(f"x = {n}\nx + 1") for n in range(20)))
        assert answers == [f"Stdout:\n\nOutput: {n + 1}" for n in range(20)]

    async def test_failure_shows_what_was_printed_before(self) -> None:
        with pytest.raises(InterpreterError, match=r"(?s)ZeroDivisionError.*Stdout until then:\nbefore"):
            await PythonInterpreterTool().acall("print('before')\n1 / 0")

    async def test_only_authorized_modules_are_imported(self) -> None:
        code = "import colorsys\ncolorsys.rgb_to_hsv(0, 0, 1)[2]"
        with pytest.raises(InterpreterError, match="colorsys"):
            await PythonInterpreterTool().acall(code)
        allowed = PythonInterpreterTool(authorized_imports=["colorsys"])
        assert (await allowed.acall(code)).endswith("Output: 1")
        assert "colorsys" in allowed.inputs["code"]["description"]

    async def test_endless_code_ends_in_time(self) -> None:
        with pytest.raises(InterpreterError):
            await PythonInterpreterTool(timeout_seconds=0.2).acall("while True: pass")


class TestUserInput:
    async def test_question_is_asked_off_the_loop(self) -> None:
        asked: list[tuple[str, str]] = []

        def ask(prompt: str) -> str:
            asked.append((prompt, threading.current_thread().name))
            return "blue"

        assert await UserInputTool(ask).acall("Which colour?") == "blue"
        ((prompt, thread),) = asked
        assert prompt.startswith("Which colour?")
        assert thread.startswith("tool-user_input")

    def test_sync_code_asks_in_its_own_thread(self) -> None:
        here = threading.current_thread()
        assert UserInputTool(lambda _: str(threading.current_thread() is here))("Here?") == "True"

    async def test_async_way_to_ask_is_awaited(self) -> None:
        async def ask(prompt: str) -> str:
            await asyncio.sleep(0)
            return prompt[:3]

        assert await UserInputTool(ask).acall("abcdef") == "abc"

    async def test_questions_come_one_at_a_time_and_a_cancelled_one_is_not_shown(self) -> None:
        loop = asyncio.get_running_loop()
        shown: list[str] = []
        first_is_shown = asyncio.Event()
        answer = threading.Event()

        def ask(prompt: str) -> str:
            shown.append(prompt.split()[0])
            loop.call_soon_threadsafe(first_is_shown.set)
            answer.wait(5)
            return "yes"

        tool = UserInputTool(ask)
        first = asyncio.create_task(tool.acall("one"))
        await first_is_shown.wait()
        second, third = (asyncio.create_task(tool.acall(name)) for name in ("two", "three"))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        answer.set()
        answers = [await first, await third]
        assert answers == ["yes", "yes"]
        assert shown == ["one", "three"]

    async def test_console_without_anybody_is_told(self) -> None:
        def ask(prompt: str) -> Any:
            raise EOFError

        with pytest.raises(AgentToolExecutionError, match="nobody is at the console"):
            await UserInputTool(ask).acall("Hello?")
