"""What people can do with a run while it goes on: see what it asks, pause it, talk to it, change its limits.

All of it may be done from any thread. A run that nobody steers pays for none of it.
"""

from __future__ import annotations

import asyncio
import math
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from manyhands.errors import CallerError, check_count, check_seconds
from manyhands.events import LimitsChanged, MessageInjected, RunPaused, RunResumed, waiting
from manyhands.steps import Timing, UserMessageStep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from manyhands.approvals import ApprovalRequest
    from manyhands.events import Lifecycle
    from manyhands.run import Run
    from manyhands.steps import MemoryStep

# Held for moments only, and rarely: one for all runs.
_lock = threading.Lock()


class Steering:
    """What is between a run and people.

    Attributes:
        gate: Done when the run may go on; ``None`` while it is not paused.
        said: Messages that its model has not seen yet.
        requests: What it, or a run that it started, asks people now.
    """

    __slots__ = ("gate", "requests", "said")

    def __init__(self) -> None:
        self.gate: Future[None] | None = None
        self.said: list[str] = []
        self.requests: dict[str, ApprovalRequest] = {}


class Steered:
    """The side of a run that people steer; base of :class:`~manyhands.run.Run`.

    Attributes:
        steering: What is between the run and people; ``None`` as long as there is nothing.
    """

    # Slots: with more than 29 attributes in its dict, a run would cost 1.3 KiB more.
    __slots__ = ("_time_limit", "steering")

    def __init__(self) -> None:
        self.steering: Steering | None = None
        # The limit on the time of the work, and when the work began on the loop's clock.
        self._time_limit: tuple[asyncio.Timeout, float] | None = None

    # --- Requests -------------------------------------------------------------------------------

    @property
    def pending(self) -> dict[str, ApprovalRequest]:
        """The open requests to people by id, oldest first: of the run, and of the runs that it started."""
        return {} if self.steering is None else dict(self.steering.requests)

    def list_request(self, request: ApprovalRequest) -> None:
        """Show a request as pending, here and at the runs above."""
        one: Run | None = cast("Run", self)
        with _lock:
            while one is not None:
                one._steered().requests[request.id] = request
                one = one.parent

    def unlist_request(self, request: ApprovalRequest) -> None:
        """Show a request as pending no more."""
        one: Run | None = cast("Run", self)
        with _lock:
            while one is not None:
                one._steered().requests.pop(request.id, None)
                one = one.parent

    # --- Pausing --------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the run was asked to pause; it then stops before its next step."""
        return self.steering is not None and self.steering.gate is not None and self._goes_on()

    def pause(self) -> bool:
        """Let the run, and the runs that it started, stop before their next step.

        The step under way is finished. Time limits go on; see :meth:`set_limit`.

        Returns:
            Whether it is paused now; ``False`` if it has ended.
        """
        if not self._goes_on():
            return False
        with _lock:
            steering = self._steered()
            already = steering.gate is not None
            if not already:
                steering.gate = Future()
        if not already:
            self._tell_soon(RunPaused(self._run.id))
        return True

    def resume(self) -> bool:
        """Let a paused run go on.

        Returns:
            Whether it was paused.
        """
        if not self.paused:
            return False
        with _lock:
            steering = self._steered()
            gate, steering.gate = steering.gate, None
        if gate is None:
            return False
        gate.set_result(None)
        self._tell_soon(RunResumed(self._run.id))
        return True

    # --- Talking --------------------------------------------------------------------------------

    def inject(self, text: str) -> bool:
        """Say something to the run: its model sees it, as words of the user, at the next step.

        What is said keeps its order, and is a step in memory. If the run ends before its next step, the
        message is its last step, and a continuation of the conversation sees it.

        Args:
            text: What to say.

        Returns:
            Whether it was taken; ``False`` if the run has ended.

        Raises:
            CallerError: It is no text, or an empty one.
        """
        if not isinstance(text, str) or not text.strip():
            raise CallerError(f"What is said to a run is a text, not {text!r}.")
        if not self._goes_on():
            return False
        with _lock:
            self._steered().said.append(text)
        self._tell_soon(MessageInjected(self._run.id, text))
        return True

    # --- Limits ---------------------------------------------------------------------------------

    def set_limit(
        self,
        *,
        max_steps: int | None = None,
        timeout: float | None = None,
        budget: Mapping[str, float | None] | None = None,
    ) -> bool:
        """Change limits of the run while it goes on; those not named stay.

        Args:
            max_steps: Most steps in all; a run that is beyond already answers from what it knows.
            timeout: Most seconds in all, from the moment the run had its slot, ``math.inf`` for no limit; a
                run that is beyond already ends at once.
            budget: What the run's budget allows in all, by kind, ``None`` for no limit. A budget that is
                shared changes for all who share it; a run without one gets one that counts from now.

        Returns:
            Whether it was done; ``False`` if the run has ended.

        Raises:
            CallerError: No limit is named, or one makes no sense; then nothing is changed.
        """
        named = {"max_steps": max_steps, "timeout": timeout, "budget": dict(budget) if budget else None}
        changed = {name: limit for name, limit in named.items() if limit is not None}
        if not changed:
            raise CallerError("Name a limit to change: max_steps, timeout or budget.")
        check_count("max_steps", max_steps)
        check_seconds("timeout", timeout)
        if not self._goes_on():
            return False
        run = self._run
        if budget:
            _limit_budget(run, budget)
            self._soon(self._reschedule)
        if max_steps is not None:
            run.options.max_steps = max_steps
        if timeout is not None:
            run.options.timeout = None if math.isinf(timeout) else timeout
            self._soon(self._reschedule)
        self._tell_soon(LimitsChanged(run.id, changed))
        return True

    def _reschedule(self) -> None:
        """Set the alarm to the end of the run's time: by its own limit, or by that of its budget."""
        if self._time_limit is None or not self._goes_on():
            return  # it has not begun with its work, or is done with it
        limit, began = self._time_limit
        if limit.expired():
            return
        seconds, budget = self._run.options.timeout, self._run.budget
        due = math.inf if seconds is None else began + seconds
        if budget is not None:
            due = min(due, asyncio.get_running_loop().time() + budget.remaining_seconds)
        limit.reschedule(None if due == math.inf else due)

    def _change_time(self) -> None:
        """Take in that somebody changed how much time there is; from any thread."""
        self._soon(self._reschedule)

    # --- On the run's loop ----------------------------------------------------------------------

    @property
    def _run(self) -> Run:
        return cast("Run", self)

    def _goes_on(self) -> bool:
        return self._run.status in ("created", "running")

    def _steered(self) -> Steering:
        if self.steering is None:
            self.steering = Steering()
        return self.steering

    def _tell_soon(self, event: Lifecycle) -> None:
        if self._run.observers:
            self._soon(self._run.tell, event)

    def _soon(self, call: Callable[..., object], *args: Any) -> None:
        """Make a call on the loop of the run; right here if the run has not begun."""
        task = self._run._task
        loop = None if task is None else task.get_loop()
        if loop is None or asyncio._get_running_loop() is loop:
            call(*args)
        else:
            with suppress(RuntimeError):  # the loop has ended, and the run with it
                loop.call_soon_threadsafe(call, *args)


def _limit_budget(run: Run, limits: Mapping[str, float | None]) -> None:
    from manyhands.limits.budget import Budget

    try:
        if run.budget is None:
            run.budget = Budget(**limits)  # type: ignore[arg-type]
            run.budget.begin()
        else:
            run.budget.set_limit(**limits)
    except (TypeError, ValueError) as error:
        raise CallerError(f"budget={dict(limits)!r} cannot be: {error}") from error


# --- In the run ------------------------------------------------------------------------------------


async def between_steps(run: Run, close_step: Callable[[Run, MemoryStep], Awaitable[None]]) -> None:
    """Let ``run`` wait while it is paused, and hear what was said to it.

    Args:
        run: The run, about to take a step.
        close_step: Puts a step into memory and tells of it.
    """
    while (gate := _closed_gate(run)) is not None:
        with waiting("pause"):
            # Shielded: others, too, wait for this gate.
            await asyncio.shield(asyncio.wrap_future(gate))
    while run.steering is not None and run.steering.said:
        await close_step(run, UserMessageStep(run.steering.said.pop(0), Timing.now()))


def _closed_gate(run: Run) -> Future[None] | None:
    one: Run | None = run
    while one is not None:
        if one.steering is not None and one.steering.gate is not None:
            return one.steering.gate
        one = one.parent
    return None


def keep_unheard(run: Run) -> None:
    """Put what was said to ``run`` too late for another step into its memory."""
    while run.steering is not None and run.steering.said:
        run.memory.steps.append(UserMessageStep(run.steering.said.pop(0), Timing.now()))
