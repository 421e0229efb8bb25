"""Tools that come along: the final answer, a Python interpreter, and asking the user.

Those that read the web are in ``web`` and ``search``.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_sync, is_async_callable
from manyhands.errors import AgentToolExecutionError, InterpreterError
from manyhands.tools.base import Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.executors.base import PythonExecutor


class FinalAnswerTool(Tool):
    """Ends a run with an answer."""

    name = "final_answer"
    description = "Provides a final answer to the given problem."
    inputs = {"answer": {"type": "any", "description": "The final answer to the problem"}}
    output_type = "any"

    async def forward(self, answer: Any) -> Any:
        """Return ``answer``."""
        return answer


class PythonInterpreterTool(Tool):
    """Runs a piece of Python for an agent that acts by tool calls.

    Each call starts without variables, in an executor of its own, so that calls of any number of
    runs may go on side by side.

    Args:
        authorized_imports: Modules that the code may import beyond the harmless ones of the standard
            library.
        timeout_seconds: Limit on one call; ``None`` for none.
        executor: Runs the code; a local one by default, made at the first call.
    """

    name = "python_interpreter"
    description = "This is a tool that evaluates python code. It can be used to perform calculations."
    output_type = "string"
    _executor: PythonExecutor

    def __init__(
        self,
        authorized_imports: Sequence[str] | None = None,
        timeout_seconds: float | None = 30,
        executor: PythonExecutor | None = None,
    ) -> None:
        self.authorized_imports = list(authorized_imports or ())
        self.timeout_seconds = timeout_seconds
        self._given = executor
        more = f", and these: {', '.join(self.authorized_imports)}" if self.authorized_imports else ""
        self.inputs = {
            "code": {
                "type": "string",
                "description": (
                    "The python code to run in interpreter. Print what you want to see; the value of the "
                    "last line is shown as well. Variables do not live on to the next call. All variables "
                    f"must be defined in the code. It may import math, re, datetime and the like{more}."
                ),
            }
        }

    def setup(self) -> None:
        """Make the executor."""
        if self._given is not None:
            self._executor = self._given
            return
        from manyhands.executors.local import LocalPythonExecutor

        self._executor = LocalPythonExecutor(self.authorized_imports, timeout_seconds=self.timeout_seconds)

    async def forward(self, code: str) -> str:
        """Run ``code``, and return what it printed and the value of its last line.

        Raises:
            InterpreterError: The code failed; its prints are in ``logs``.
        """
        executor = self._executor.spawn()
        try:
            result = await executor.acall(code)
        except InterpreterError as error:
            if not error.logs:
                raise
            raise type(error)(f"{error}\nStdout until then:\n{error.logs}", logs=error.logs) from error
        finally:
            if executor is not self._executor:
                await executor.acleanup()
        return f"Stdout:\n{result.logs}\nOutput: {result.output}"


class UserInputTool(Tool):
    """Asks the person at the console, one question at a time; other runs go on meanwhile.

    A run that is cancelled takes its question back if it has not been shown yet; the line typed for
    one that has been shown is dropped.

    Args:
        ask: Shows a prompt and returns the answer, sync or async; the console's ``input`` by default.
    """

    name = "user_input"
    description = "Asks for user's input on a specific question"
    inputs = {"question": {"type": "string", "description": "The question to ask the user"}}
    output_type = "string"

    def __init__(self, ask: Callable[[str], Any] = input) -> None:
        self._ask = ask

    async def forward(self, question: str) -> str:
        """Return what the user answers to ``question``.

        Raises:
            AgentToolExecutionError: There is nobody to ask.
        """
        prompt = f"{question} => Type your answer here: "
        if is_async_callable(self._ask):
            return str(await self._ask(prompt))
        waiting = _Question(self._ask, prompt)
        try:
            return await call_sync(waiting.put, label=f"tool-{self.name}")
        except asyncio.CancelledError:
            waiting.taken_back = True
            raise


_console = threading.Lock()


class _Question:
    """A question that waits until the console is free."""

    def __init__(self, ask: Callable[[str], Any], prompt: str) -> None:
        self._ask = ask
        self._prompt = prompt
        self.taken_back = False

    def put(self) -> str:
        with _console:
            if self.taken_back:
                return ""
            try:
                return str(self._ask(self._prompt))
            except EOFError as error:
                raise AgentToolExecutionError(
                    "The user cannot be asked: nobody is at the console. Go on without an answer."
                ) from error
