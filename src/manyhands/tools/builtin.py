"""Tools that come along: the final answer, a Python interpreter, and asking the user.

Those that read the web are in ``web`` and ``search``.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from manyhands._bridge import is_async_callable
from manyhands.approvals import ask_question
from manyhands.errors import AgentToolExecutionError, CallerError, InterpreterError
from manyhands.events import current_run
from manyhands.terminal import NOBODY, at_terminal, printable
from manyhands.tools.base import Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manyhands.approvals import ApprovalRequest
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
    """Asks a person, and waits for the answer while everything else goes on.

    In a run the question is also a request (see :class:`~manyhands.approvals.ApprovalRequest`) that anybody
    may answer: in ``run.pending``, as an event, over HTTP. The first answer counts. The time limits of tools
    do not count the wait.

    Args:
        ask: ``"console"`` for the person at the terminal, who is asked one question at a time; or a function
            that shows a prompt and returns the answer. An async one is awaited; sync ones are called one at
            a time, off the loop. ``None`` for the handler of the agent's ``approvals``, and whoever else
            answers.
        timeout: Most seconds to wait; by default those of the agent's ``approvals``.
    """

    name = "user_input"
    description = "Asks for user's input on a specific question"
    inputs = {"question": {"type": "string", "description": "The question to ask the user"}}
    output_type = "string"
    keeps_own_time = True

    def __init__(
        self, ask: Callable[[str], Any] | str | None = "console", *, timeout: float | None = None
    ) -> None:
        if not (ask is None or ask == "console" or callable(ask)):
            raise CallerError(f'ask is a function of the prompt, "console" or None, not {ask!r}.')
        self._ask = "console" if ask is input else ask
        self.timeout = timeout

    async def forward(self, question: str) -> str:
        """Return what the user answers to ``question``.

        Raises:
            ApprovalDeniedError: The question is refused, or nobody answers in time.
            AgentToolExecutionError: There is nobody to ask.
        """
        run = current_run.get()
        if run is not None:
            handler = None if self._ask is None else self._handle
            return await ask_question(run, self, question, handler, self.timeout)
        if self._ask is None:
            raise AgentToolExecutionError(
                "Nobody can be asked outside of a run: give UserInputTool(ask=...)."
            )
        try:
            async with asyncio.timeout(self.timeout):
                return await self._answer(question)
        except EOFError as error:
            raise AgentToolExecutionError(f"The user cannot be asked: {_ALONE}") from error

    async def _handle(self, request: ApprovalRequest) -> str | None:
        try:
            return await self._answer(request.reason)
        except EOFError:
            request.deny(_ALONE)
            return None

    async def _answer(self, question: str) -> str:
        prompt = f"{question} => Type your answer here: "
        ask = self._ask
        if callable(ask) and is_async_callable(ask):
            return str(await ask(prompt))
        async with at_terminal() as terminal:
            if not callable(ask):
                return await terminal.line(printable(prompt))
            return str(await terminal.call(functools.partial(ask, prompt), label=f"tool-{self.name}"))


_ALONE = f"{NOBODY}. Go on without an answer."
