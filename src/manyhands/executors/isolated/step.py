"""One snippet in a guest, from the host's side: its tools, prints, time and end."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_user
from manyhands.errors import ExecutionTimeoutError, InterpreterError
from manyhands.executors.base import CodeOutput
from manyhands.executors.isolated.frames import FrameError
from manyhands.executors.isolated.link import GuestGone
from manyhands.executors.isolated.values import CannotCross
from manyhands.executors.local.explain import is_builtin_exception
from manyhands.executors.local.output import MAX_SHOWN, cut, shown
from manyhands.executors.local.tools import FINAL_ANSWER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manyhands.executors.isolated.link import GuestLink
    from manyhands.executors.local.output import Output

#: Most calls of one guest under way; an honest one keeps to fewer.
_MAX_CALLS = 1000
#: Most characters that one step may print; an honest guest leaves the middle out long before.
_MAX_PRINTED = 64_000_000
_clock = time.perf_counter


class HostStep:
    """Runs one snippet in a guest, and ends it when it has to end.

    Args:
        link: The guest.
        number: Number of the step, of which no other step of this guest has it.
        tools: What the code may call.
        output: Where it prints.
        seconds: How long it may take, not counting the time in tools; ``None`` for no limit.
        grace: Seconds that it has to end when told to, before the guest is ended.
    """

    def __init__(
        self,
        link: GuestLink,
        number: int,
        tools: Mapping[str, Callable[..., Any]],
        output: Output,
        seconds: float | None,
        grace: float,
    ) -> None:
        self._link = link
        self._number = number
        self._tools = tools
        self._output = output
        self._seconds = seconds
        self._grace = grace
        self._printed = 0
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._in_tools: set[int] = set()
        self._origins: dict[int, BaseException] = {}
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer: Any = None
        self._started = _clock()
        self._waited = 0.0
        self._waits_since = 0.0
        self._timed_out = False

    async def run(self, message: dict[str, Any]) -> CodeOutput:
        """Run the snippet of ``message``.

        Raises:
            InterpreterError: It failed, or the guest did.
            ExecutionTimeoutError: Its time is over, and it has ended.
        """
        self._started = _clock()
        pump = asyncio.create_task(self._pump(message))
        try:
            await self._watch(pump)
        except asyncio.CancelledError:
            await _through(asyncio.create_task(self._end(pump)))
            raise
        finally:
            await self._end_calls()
        return await self._outcome(pump)

    # --- Time ---------------------------------------------------------------------------------

    async def _watch(self, pump: asyncio.Task[Any]) -> None:
        """Wait for the end of the code, or of its time."""
        ends: set[asyncio.Future[Any]] = {pump, self._answered}
        while not any(end.done() for end in ends):
            left = self._remaining()
            if left is not None and left <= 0:
                self._timed_out = True
                break
            # Time in tools does not count: look again, but not in a hurry.
            wait = None if left is None else max(left, 0.01)
            await asyncio.wait(ends, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        if self._timed_out:
            await self._end_calls()
        if not pump.done():
            await self._end(pump)

    def _remaining(self) -> float | None:
        if self._seconds is None:
            return None
        now = _clock()
        waited = self._waited + (now - self._waits_since if self._in_tools else 0.0)
        return self._seconds - (now - self._started - waited)

    async def _end(self, pump: asyncio.Task[Any]) -> None:
        """Tell the code to end; end the guest if it does not, or leaves threads behind."""
        if not pump.done():
            telling = asyncio.create_task(self._link.send({"t": "cancel", "step": self._number}))
            await asyncio.wait({pump}, timeout=self._grace)
            telling.cancel()  # one that reads nothing is not told
            await asyncio.wait({telling})
        left_over = pump.done() and pump.exception() is None and pump.result().get("threads")
        if left_over or not pump.done():
            await self._link.kill()
            await asyncio.wait({pump}, timeout=self._grace + 5)
        if not pump.done():
            pump.cancel()
            await asyncio.wait({pump})
        elif not pump.cancelled():
            pump.exception()  # looked at, even where nobody asks any more

    # --- Messages -----------------------------------------------------------------------------

    async def _pump(self, message: dict[str, Any]) -> dict[str, Any]:
        """Serve the guest until it says that the code has ended, and return what it says."""
        await self._link.send({"t": "run", "step": self._number, **message})
        while True:
            message = await self._link.receive()
            kind = message.get("t")
            if kind == "print":
                self._print(message.get("text"))
            elif kind == "call":
                self._begin_call(message)
            elif kind == "drop":
                self._drop_call(message.get("id"))
            elif kind in ("done", "error") and message.get("step") == self._number:
                return message
            else:
                raise GuestGone(f"it sent a message of an unknown kind, {str(kind)[:40]!r}")

    def _print(self, text: Any) -> None:
        if type(text) is not str:
            raise GuestGone("it printed what is no text")
        self._printed += len(text)
        if self._printed > _MAX_PRINTED:
            raise GuestGone(f"it printed more than {_MAX_PRINTED:,} characters")
        self._output.write(text)

    def _begin_call(self, message: dict[str, Any]) -> None:
        number, name = message.get("id"), message.get("tool")
        args, kwargs = message.get("args"), message.get("kwargs")
        if type(number) is not int or number <= 0 or number in self._calls or number in self._origins:
            raise GuestGone("it called a tool under a number that is none, or that it has used")
        if type(args) is not list or type(kwargs) is not dict or type(name) is not str:
            raise GuestGone("it called a tool without arguments")
        if len(self._calls) >= _MAX_CALLS:
            raise GuestGone(f"it called tools more than {_MAX_CALLS} times at once")
        if not self._in_tools:
            self._waits_since = _clock()
        self._in_tools.add(number)
        task = self._calls[number] = asyncio.create_task(self._serve(number, name, message))
        task.add_done_callback(lambda _: self._forget_call(number))

    def _drop_call(self, number: Any) -> None:
        task = self._calls.get(number) if type(number) is int else None
        if task is not None:
            task.cancel()

    # --- Tools --------------------------------------------------------------------------------

    async def _serve(self, number: int, name: str, message: dict[str, Any]) -> None:
        reply = await self._reply(number, name, message)
        self._leave_tool(number)  # what follows depends on the guest, and is its own time
        if reply is not None:
            await self._tell(number, name, reply)

    def _leave_tool(self, number: int) -> None:
        if number in self._in_tools:
            self._in_tools.discard(number)
            if not self._in_tools:
                self._waited += _clock() - self._waits_since

    def _forget_call(self, number: int) -> None:
        self._leave_tool(number)
        self._calls.pop(number, None)

    async def _tell(self, number: int, name: str, reply: dict[str, Any]) -> None:
        try:
            await self._link.send({"id": number, **reply})
        except FrameError as error:
            failure = TypeError(f"The result of {name}() cannot be used: {error}")
            await self._link.send({"id": number, **await self._failure(failure)})

    async def _reply(self, number: int, name: str, message: dict[str, Any]) -> dict[str, Any] | None:
        """Call the tool, and return what the guest is told; None where it is told nothing."""
        try:
            if message.get("step") != self._number:
                raise RuntimeError("The step that this call belongs to is over.")
            value = await self._called(name, message)
            if name == FINAL_ANSWER:
                self._finish(value)
                return {"t": "result", "value": None, "final": True}
            return await self._result(name, value)
        except GuestGone as gone:
            await self._link.condemn(str(gone))
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return {"t": "failed", "error": ["CancelledError", "RuntimeError", []]}
        except Exception as error:
            self._origins[number] = error
            return await self._failure(error)

    async def _called(self, name: str, message: dict[str, Any]) -> Any:
        tool = self._tools.get(name)
        if tool is None:
            raise NameError(f"There is no tool named {name[:100]!r}.")
        heavy = bool(message.get("$heavy"))
        args = [await self._link.decode(value, heavy) for value in message["args"]]
        kwargs = {key: await self._link.decode(v, heavy) for key, v in message["kwargs"].items()}
        acall = getattr(tool, "acall", None)
        if asyncio.iscoroutinefunction(acall):
            return await acall(*args, **kwargs)
        return await call_user(tool, *args, **kwargs)

    async def _result(self, name: str, value: Any) -> dict[str, Any]:
        try:
            reply = {"t": "result", "value": await self._link.encode(value)}
        except CannotCross as error:
            raise TypeError(f"The result of {name}() cannot be used: {error}.") from None
        return reply

    async def _failure(self, error: Exception) -> dict[str, Any]:
        """An error as the guest is told of it: its name, what it is caught as, and its text."""
        base = next(b for b in type(error).__mro__ if is_builtin_exception(b))
        arguments = list(error.args) if isinstance(error, KeyError) else [_text(error)]
        try:
            encoded = await self._link.encode(arguments)
        except CannotCross:
            encoded = [_text(error)]
        return {"t": "failed", "error": {"error": [type(error).__name__, base.__name__, encoded]}}

    def _finish(self, value: Any) -> None:
        """Note the final answer; the first one counts."""
        if not self._answered.done():
            self._answer = value
            self._answered.set_result(None)

    async def _end_calls(self) -> None:
        """Cancel what still works for the code and wait until it is gone."""
        while tasks := list(self._calls.values()):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- The end ------------------------------------------------------------------------------

    async def _outcome(self, pump: asyncio.Task[dict[str, Any]]) -> CodeOutput:
        logs = self._output.text()
        if self._answered.done():
            if pump.cancelled() or pump.exception() is not None:
                self._link.alive = False
            return CodeOutput(self._answer, logs, True, shown(self._answer))
        lost = (
            ""
            if self._link.alive
            else " It did not stop when told to, so the variables of earlier steps are lost."
        )
        if self._timed_out:
            text = f"Code execution exceeded the maximum execution time of {self._seconds} seconds"
            raise ExecutionTimeoutError(f"{text}.{lost}" if lost else text, logs=logs)
        try:
            message = pump.result()
        except FrameError as error:
            raise InterpreterError(f"The code and its variables do not fit: {error}", logs=logs) from None
        except GuestGone as gone:
            await self._link.kill()
            raise InterpreterError(_gone_text(gone), logs=logs) from None
        if message["t"] == "error":
            raise self._error(message, logs)
        return await self._done(message, logs)

    def _error(self, message: dict[str, Any], logs: str) -> InterpreterError:
        text = message.get("text")
        failure = InterpreterError(cut(text if type(text) is str else "", MAX_SHOWN), logs=logs)
        origin = message.get("origin")
        failure.__cause__ = self._origins.get(origin) if type(origin) is int else None
        return failure

    async def _done(self, message: dict[str, Any], logs: str) -> CodeOutput:
        text = cut(str(message.get("shown")), MAX_SHOWN)
        if "value" not in message:
            return CodeOutput(Stayed(str(message.get("kept"))[:100], text), logs, False, text)
        try:
            value = await self._link.decode(message["value"], bool(message.get("$heavy")))
        except CannotCross as error:
            raise InterpreterError(
                f"The value of the last line cannot be used: {error}.", logs=logs
            ) from None
        except GuestGone as gone:
            await self._link.kill()
            raise InterpreterError(_gone_text(gone), logs=logs) from None
        return CodeOutput(value, logs, False, text)


class Stayed:
    """Stands for the value of a last line that cannot leave the sandbox, such as a function or a module.

    Args:
        kind: Name of its type.
        text: How it shows itself.

    Attributes:
        kind: Name of its type.
    """

    __slots__ = ("_text", "kind")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _gone_text(gone: GuestGone) -> str:
    return f"The sandbox that ran the code is gone: {gone}. The variables of earlier steps are lost."


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as inner:
        return f"<no text: {type(inner).__name__}>"


async def _through(task: asyncio.Task[Any]) -> None:
    """Wait for ``task``, which is bounded, whoever cancels meanwhile."""
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue
