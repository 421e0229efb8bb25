"""One block of code on its way through Monty: begun, suspended at each call of a tool, and taken up again."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_user
from manyhands.executors.monty.values import entering, leaving, shown_objects
from manyhands.executors.monty.workers import monty_package

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_monty import MontySession

    from manyhands.executors.local.output import Output
    from manyhands.executors.monty.kept import Kept
    from manyhands.executors.monty.workers import Farm, Place

FINAL_ANSWER = "final_answer"
#: Seconds that code has to end after its final answer, with its variables kept; then it is ended without.
_UNWIND_SECONDS = 0.3


class TimeUp(Exception):
    """The time of the code is over."""


@dataclass(slots=True)
class Pause:
    """What the code waits for.

    Attributes:
        snapshot: Monty's own object, which is answered.
        kind: ``call`` of a tool, ``system``, ``name``, ``futures``, or ``done``.
        name: What is called, or looked up.
        place: Where in which source.
        call_id: Number of the call.
        args: Its arguments.
        kwargs: Its arguments.
        refusal: Why they cannot leave Monty.
        waiting: Numbers of the calls of which one has to be answered.
        value: The value of the block, when it is done.
        image: Its variables then.
        took: Seconds until it came to this.
    """

    snapshot: Any
    kind: str
    name: str = ""
    place: tuple[str, int, int] = ("", 0, 0)
    call_id: int = 0
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    refusal: str = ""
    waiting: tuple[int, ...] = ()
    value: Any = None
    image: bytes | None = None
    took: float = 0.0


def _pause(snapshot: Any) -> Pause:
    """Read a snapshot; on a thread, since large values take their time."""
    kind = type(snapshot).__name__
    if kind == "MontyComplete":
        return Pause(snapshot, "done", value=shown_objects(snapshot.output))
    if kind == "NameLookupSnapshot":
        return Pause(snapshot, "name", snapshot.variable_name)
    if kind == "FutureSnapshot":
        return Pause(snapshot, "futures", waiting=tuple(snapshot.pending_call_ids))
    at = snapshot.position
    pause = Pause(
        snapshot,
        "system" if snapshot.is_os_function else "call",
        str(snapshot.function_name),
        (at.filename, at.start, at.end),
        snapshot.call_id,
    )
    what = f"An argument of {pause.name}()"
    try:
        pause.args = leaving(tuple(snapshot.args), what)
        pause.kwargs = leaving(dict(snapshot.kwargs), what)
    except TypeError as error:
        pause.refusal = str(error)
    except RecursionError:
        pause.refusal = f"{what} cannot leave Monty: it is nested too deeply."
    return pause


def _advance(place: Place, work: Callable[[MontySession], Any], session: MontySession) -> Pause:
    """Let the code run on; where it has ended, the worker has nothing more to do for it."""
    begun = time.perf_counter()
    pause = _pause(work(session))
    pause.took = time.perf_counter() - begun
    if pause.kind == "done":
        pause.image = session.dump()
        place.close()
    return pause


def _dumped(place: Place, pause: Pause, _: MontySession) -> bytes:
    image: bytes = pause.snapshot.dump()
    place.close()
    return image


def _image_at_rest(session: MontySession) -> bytes:
    session.feed_start("None")  # refused where something still waits for an answer
    return session.dump()


class Block:
    """Runs one block.

    Args:
        farm: Where workers are from.
        tools: The tools by name.
        kept: What the run has in Monty, with what is known of this block.
        seconds: What the code may take, without the time of its tools.
        park_after: Seconds after which code that waits for a tool gives its worker back.
        output: Takes what is printed.

    Attributes:
        called: Whether a tool has been called.
        missing_module: The module that was asked for last and is not there.
        raised: Errors of tools, by the text that the code saw.
        answer: The final answer, in a tuple, once there is one.
    """

    def __init__(
        self,
        farm: Farm,
        tools: Mapping[str, Any],
        kept: Kept,
        seconds: float | None,
        park_after: float,
        output: Output,
    ) -> None:
        self._farm = farm
        self._tools = tools
        self.kept = kept
        self._seconds = seconds
        self._park_after = park_after
        self._output = output
        self._place: Place | None = None
        self._parked: bytes | None = None
        self._image: bytes | None = None
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._naps: set[int] = set()
        self._used = 0.0
        self.called = False
        self.missing_module: str | None = None
        self.raised: dict[str, BaseException] = {}
        self.answer: tuple[Any] | None = None

    async def run(self, prelude: list[str], text: str, inputs: Mapping[str, Any]) -> Any:
        """Run ``text`` and return its value; ``answer`` is set instead where it called ``final_answer``.

        Args:
            prelude: Sources to run before.
            text: The code.
            inputs: Variables to set before.

        Raises:
            TimeUp: Its time is over.
            pydantic_monty.MontyError: It failed.
        """
        pause = await self._turn(partial(self._begin, prelude, text, inputs))
        while pause.kind != "done" and self.answer is None:
            pause = await self._answered(pause)
        if self.answer is not None:
            await self._unwind(pause)
            return None
        return pause.value

    def _begin(self, prelude: list[str], text: str, inputs: Mapping[str, Any], session: MontySession) -> Any:
        if self.kept.image is not None:
            session.load_session(self.kept.image)
        for source in prelude:
            session.feed_start(source)
        values = {name: entering(value, f"The variable '{name}'") for name, value in inputs.items()}
        stubs = {name: _stub(name) for name in self._tools if name in _BUILTINS}
        return session.feed_start(text, inputs={**values, **stubs}, print_callback=self._print)

    def _print(self, _: str, text: str) -> None:
        if self.answer is None:
            self._output.write(text)

    async def image(self) -> bytes:
        """Return the variables as they are now."""
        if self._image is not None:
            return self._image
        assert self._place is not None
        return await self._place.do(lambda session: session.dump())

    async def image_after_error(self) -> bytes:
        """Return the variables as a failure left them.

        Raises:
            RuntimeError: The code was stopped in its midst, so that there is nothing to go on from.
            pydantic_monty.MontyError: They cannot be written down.
        """
        assert self._place is not None
        return await self._place.do(_image_at_rest)

    async def end(self, *, broken: bool) -> None:
        """End what still runs and give the worker back.

        Args:
            broken: The code was stopped in its midst.
        """
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            if self._place is not None:
                place, self._place = self._place, None
                await place.leave(broken=broken)

    # --- On and off the worker -------------------------------------------------------------------

    async def _turn(self, work: Callable[[MontySession], Any]) -> Pause:
        """Let the code run on until it waits for something."""
        if self._place is None:
            self._place = await self._farm.enter()
        pause = await self._place.do(partial(_advance, self._place, work))
        self._used += pause.took
        self._image = pause.image
        if pause.kind != "done" and self._time_left() == 0:
            raise TimeUp
        return pause

    async def _go_on(self, pause: Pause, answer: Callable[[Any], Any]) -> Pause:
        """Answer what the code waits for; on another worker if it gave up its own."""
        if self._parked is None:
            return await self._turn(lambda _: answer(pause.snapshot))
        parked, self._parked = self._parked, None
        return await self._turn(
            lambda session: answer(session.load_snapshot(parked, print_callback=self._print))
        )

    async def _park(self, pause: Pause) -> None:
        """Give the worker back while the code waits: all of it is a few bytes meanwhile."""
        if self._place is None:
            return
        place = self._place
        self._parked = await place.do(partial(_dumped, place, pause))
        self._place = None
        await place.leave()

    async def _wait(self, pause: Pause, tasks: list[asyncio.Task[Any]], seconds: float | None) -> None:
        """Wait for the first of ``tasks``.

        Args:
            pause: What they answer.
            tasks: Tool calls, or sleeps.
            seconds: Most seconds, where they count as time of the code.
        """
        grace = 0 if self._farm.wanted else self._park_after
        begun = time.perf_counter()
        if seconds is not None:
            grace = min(grace, seconds)
        done, _ = await asyncio.wait(tasks, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            await self._park(pause)
            left = None if seconds is None else max(0.0, seconds - grace)
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if seconds is not None:
            self._used += time.perf_counter() - begun
        if not done:
            raise TimeUp

    # --- Answers -----------------------------------------------------------------------------------

    async def _answered(self, pause: Pause) -> Pause:
        if pause.kind == "call":
            return await self._call(pause)
        if pause.kind == "futures":
            return await self._settle(pause)
        if pause.kind == "system":
            return await self._system(pause)
        if pause.name in self._tools:
            stub = _stub(pause.name)
            return await self._go_on(pause, lambda snapshot: snapshot.resume(value=stub))
        return await self._go_on(pause, lambda snapshot: snapshot.resume())

    async def _call(self, pause: Pause) -> Pause:
        refusal = self._refusal(pause)
        if refusal is not None:
            return await self._go_on(pause, lambda snapshot: snapshot.resume({"exception": refusal}))
        self.called = True
        target = self._tools[pause.name]
        call = _called(target, pause.args, pause.kwargs or {})
        task = self._tasks[pause.call_id] = asyncio.create_task(call, name=f"tool {pause.name}")
        if self._side_by_side(pause):
            return await self._go_on(pause, lambda snapshot: snapshot.resume({"future": ...}))
        await self._wait(pause, [task], None)
        del self._tasks[pause.call_id]
        if pause.name == FINAL_ANSWER and not task.cancelled() and task.exception() is None:
            self.answer = (task.result(),)
            return pause
        return await self._go_on(pause, self._resume(pause.name, task))

    def _refusal(self, pause: Pause) -> Exception | None:
        """Why a tool cannot be called like that."""
        if pause.name not in self._tools:
            return NameError(f"name '{pause.name}' is not defined")
        filename, start, end = pause.place
        function = self.kept.handed.get(filename, {}).get((start, end))
        if function is not None:
            message = f"An argument of {pause.name}() cannot leave Monty: it is the function {function}."
            return TypeError(message)
        return TypeError(pause.refusal) if pause.refusal else None

    def _side_by_side(self, pause: Pause) -> bool:
        filename, start, end = pause.place
        return pause.name != FINAL_ANSWER and (start, end) in self.kept.together.get(filename, ())

    def _resume(self, name: str, task: asyncio.Task[Any]) -> Callable[[Any], Any]:
        def answer(snapshot: Any) -> Any:
            return _resumed(snapshot, self._outcome(name, task), name)

        return answer

    def _outcome(self, name: str, task: asyncio.Task[Any]) -> dict[str, Any]:
        """How a call ended, as Monty takes it."""
        try:
            return {"return_value": entering(task.result(), f"The result of {name}()")}
        except asyncio.CancelledError:
            error: BaseException = RuntimeError(f"{name}() was cancelled")
        except BaseException as failed:
            error = failed
        plain = _plain_error(error)
        self.raised[str(plain)] = error
        return {"exception": plain}

    async def _settle(self, pause: Pause) -> Pause:
        """Wait for one of the calls that began without being waited for."""
        tasks = {number: self._tasks[number] for number in pause.waiting}
        only_naps = self._naps.issuperset(tasks)
        await self._wait(pause, list(tasks.values()), self._time_left() if only_naps else None)
        done = {number: task for number, task in tasks.items() if task.done()}
        for number in done:
            del self._tasks[number]

        def answer(snapshot: Any) -> Any:
            names = {number: task.get_name().removeprefix("tool ") for number, task in done.items()}
            outcomes = {number: self._outcome(names[number], task) for number, task in done.items()}
            return snapshot.resume(outcomes)

        return await self._go_on(pause, answer)

    async def _system(self, pause: Pause) -> Pause:
        """What code asks of an operating system: it may sleep, and there is nothing else."""
        if pause.name == "import":
            self.missing_module = str(pause.args[0])
        if not pause.name.endswith("sleep") or pause.refusal:
            return await self._go_on(pause, lambda snapshot: snapshot.resume_not_handled())
        seconds = max(0.0, float(pause.args[0]))
        nap = asyncio.create_task(asyncio.sleep(seconds), name="tool sleep")
        self._tasks[pause.call_id] = nap
        if pause.name.endswith("async_sleep"):
            self._naps.add(pause.call_id)
            return await self._go_on(pause, lambda snapshot: snapshot.resume({"future": ...}))
        await self._wait(pause, [nap], self._time_left())
        del self._tasks[pause.call_id]
        return await self._go_on(pause, self._resume("sleep", nap))

    def _time_left(self) -> float | None:
        return None if self._seconds is None else max(0.0, self._seconds - self._used)

    async def _unwind(self, pause: Pause) -> None:
        """End the code after its final answer, so that its variables stay.

        Raises:
            TimeUp: It does not end.
        """
        try:
            async with asyncio.timeout(_UNWIND_SECONDS):
                after = await self._go_on(
                    pause, lambda snapshot: snapshot.resume({"exc_type": "SystemExit", "message": ""})
                )
        except monty_package().MontyRuntimeError:
            return
        except TimeoutError:
            raise TimeUp from None
        if after.kind != "done":
            raise TimeUp


def _resumed(snapshot: Any, outcome: dict[str, Any], name: str) -> Any:
    """Answer a call; where Monty does not take the value after all, with an error that says so."""
    try:
        return snapshot.resume(outcome)
    except monty_package().MontyError as error:
        refusal = TypeError(f"The result of {name}() cannot enter Monty: {error}")
        try:
            return snapshot.resume({"exception": refusal})
        except RuntimeError:  # it was taken, and the code failed with it
            raise error from None


_BUILTINS = frozenset(dir(builtins))


def _stub(name: str) -> Callable[..., None]:
    """A function that stands for a tool; Monty keeps its name and asks us when it is called."""

    def stub() -> None: ...

    stub.__name__ = stub.__qualname__ = name
    return stub


async def _called(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    acall = getattr(target, "acall", None)
    if acall is not None and inspect.iscoroutinefunction(acall):
        return await acall(*args, **kwargs)
    return await call_user(target, *args, **kwargs)


def _plain_error(error: BaseException) -> Exception:
    """The same error as one of the language's own, which Monty knows."""
    own = next(cls for cls in type(error).__mro__ if getattr(builtins, cls.__name__, None) is cls)
    try:
        args = [str(error.args[0])] if own is KeyError and error.args else [str(error)]
        return own(*args) if issubclass(own, Exception) else RuntimeError(*args)
    except Exception:  # its constructor takes more than a text, or it has none
        return RuntimeError(f"{type(error).__name__}: {error.args}")
