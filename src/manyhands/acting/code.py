"""Acting by writing Python: the reply's code runs in the run's executor."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from manyhands.acting.calls import CodeTool
from manyhands.asking import ask_model
from manyhands.errors import InterpreterError
from manyhands.events import ActionOutput, CodeEnd, CodeStart
from manyhands.limits.capacity import CapacityLimiter
from manyhands.messages import ChatMessage
from manyhands.parsing import extract_code, extract_structured_code, rename_final_answer_variable
from manyhands.steps import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from manyhands.executors.base import CodeOutput, PythonExecutor
    from manyhands.run import Run
    from manyhands.steps import ActionStep

MAX_OUTPUT_CHARS = 20_000

CODE_RESPONSE_FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "ThoughtAndCodeAnswer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "thought": {"type": "string", "description": "What to do next, and why."},
                "code": {"type": "string", "description": "Python that does it."},
            },
            "required": ["thought", "code"],
            "additionalProperties": False,
        },
    },
}


def cut_middle(text: str, limit: int = MAX_OUTPUT_CHARS) -> str:
    """Return ``text``, its middle left out where it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    note = f"\n..._This content has been truncated to stay below {limit} characters_...\n"
    return text[:half] + note + text[-half:]


class CodeActing:
    """Asks for code, runs it, and shows the model what came of it.

    Args:
        make_executor: Makes the executor of a run that has none yet.
        tags: Opening and closing tag of code blocks, as regular expressions.
        closing_tag: The closing tag as text; also a stop sequence.
        structured: Ask for ``{"thought": ..., "code": ...}`` in JSON instead of tagged blocks.
    """

    def __init__(
        self,
        make_executor: Callable[[], PythonExecutor],
        tags: tuple[str, str],
        closing_tag: str,
        structured: bool = False,
    ) -> None:
        self._make_executor = make_executor
        self._tags = tags
        self._closing_tag = closing_tag
        self._structured = structured
        self._turns = CapacityLimiter(1, name="executor")
        self._stop = ["Observation:", "Calling tools:"]
        if not structured and closing_tag not in "".join(tags[:1]):
            # Where both tags are alike, stopping at one would stop before the code.
            self._stop.append(closing_tag)

    async def begin(self, run: Run) -> None:
        """Give ``run`` its executor, tools and variables."""
        executor = self._executor_of(run)
        if executor.serves_one_run:
            await self._turns.acquire()
        executor.send_tools(_code_tools(*run.agent.callables.values()))
        if run.state:
            executor.send_variables(run.state)

    def _executor_of(self, run: Run) -> PythonExecutor:
        if run.executor is None:
            run.executor = self._make_executor()
        return run.executor

    async def act(self, run: Run, step: ActionStep) -> ActionOutput:
        """Ask for code and run it."""
        step.model_input_messages = shown = run.memory.shown()
        reply = await ask_model(
            run,
            list(shown),
            stop_sequences=self._stop,
            response_format=CODE_RESPONSE_FORMAT if self._structured else None,
        )
        call = self._read(run, step, self._with_closing_tag(reply))
        await run.emit(call)
        run.activity = "code"
        if run.observers:
            run.tell(CodeStart(run.id, call.arguments))
        try:
            result = await self._executor_of(run).acall(call.arguments)
        except BaseException as error:
            _note_failure(run, step, error)
            raise
        finally:
            run.activity = ""
        output = _note_result(run, step, result)
        await run.emit(output)
        return output

    def _read(self, run: Run, step: ActionStep, reply: ChatMessage) -> ToolCall:
        """Fill ``step`` with what ``reply`` says, and return what is to be done."""
        step.model_output_message = reply
        step.model_output = text = reply.text
        step.token_usage = reply.token_usage
        step.code_action = code = rename_final_answer_variable(self._code(text))
        call = ToolCall("python_interpreter", code, f"call_{len(run.memory.steps)}")
        step.tool_calls = [call]
        return call

    def _with_closing_tag(self, reply: ChatMessage) -> ChatMessage:
        """Put back the closing tag at which the reply stopped, so that the model reads whole blocks."""
        text = reply.text
        if self._structured or not text.strip() or text.rstrip().endswith(self._closing_tag):
            return reply
        return ChatMessage(
            reply.role,
            text + self._closing_tag,
            raw=reply.raw,
            token_usage=reply.token_usage,
            reasoning_content=reply.reasoning_content,
        )

    def _code(self, text: str) -> str:
        return extract_structured_code(text) if self._structured else extract_code(text, self._tags)

    async def end(self, run: Run) -> None:
        """Release the executor of ``run``."""
        if run.executor is None:
            return
        if run.executor.serves_one_run:
            self._turns.release()
        else:
            await run.executor.aend_run()


def _note_failure(run: Run, step: ActionStep, error: BaseException) -> None:
    logs = error.logs if isinstance(error, InterpreterError) else ""
    if logs:
        step.observations = f"Execution logs:\n{logs}"
    if run.observers:
        run.tell(CodeEnd(run.id, None, logs, error))


def _note_result(run: Run, step: ActionStep, result: CodeOutput) -> ActionOutput:
    if run.observers:
        run.tell(CodeEnd(run.id, result.output, result.logs, None))
    logs = f"Execution logs:\n{result.logs}"
    shown = cut_middle(_shown(result.output) if result.shown is None else result.shown)
    step.observations = f"{logs}\nLast output from code snippet:\n{shown}"
    step.action_output = result.output
    return ActionOutput(result.output, result.is_final_answer)


def _shown(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__} that cannot be shown: {error}>"


@functools.lru_cache(maxsize=256)
def _code_tools(*tools: Any) -> dict[str, CodeTool]:
    """Return the functions that generated code calls, made once for all runs with these tools."""
    return {tool.name: CodeTool(tool) for tool in tools}
