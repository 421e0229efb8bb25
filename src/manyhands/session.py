"""A conversation with an agent: turns that remember each other and wait for each other."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from manyhands._bridge import iterate_sync, run_sync
from manyhands.events import waiting
from manyhands.run import MAX_STEPS, SUCCESS, Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from manyhands.agents import MultiStepAgent
    from manyhands.memory import AgentMemory


class Session:
    """A conversation: each turn knows those before it. Turns asked for at once queue, first come first.

    A turn that fails or is cancelled leaves nothing behind in the memory.

    Args:
        agent: The agent to talk with.

    Attributes:
        memory: The steps of all turns.
        state: The variables of the conversation.
    """

    def __init__(self, agent: MultiStepAgent) -> None:
        self.agent = agent
        # A run that is never run: it only holds what all turns share.
        self._ground = agent.new_run("", agent.run_options(None, None, None, None, None))
        self._ground.close()
        self._lock = threading.Lock()
        self._last_turn: Future[None] | None = None

    @property
    def memory(self) -> AgentMemory:
        """The steps of all turns."""
        return self._ground.memory

    @property
    def state(self) -> dict[str, Any]:
        """The variables of the conversation."""
        return self._ground.state

    def arun(
        self,
        task: str,
        stream: bool = False,
        images: list[Any] | None = None,
        additional_args: dict[str, Any] | None = None,
        max_steps: int | None = None,
        return_full_result: bool | None = None,
        *,
        timeout: float | None = None,
    ) -> Run:
        """Say the next thing; the arguments are those of :meth:`MultiStepAgent.arun`."""
        options = self.agent.run_options(images, additional_args, max_steps, return_full_result, timeout)
        return self.agent.new_run(task, options, continues=self._ground, turn=self._turn)

    def run(self, task: str, stream: bool = False, **options: Any) -> Any:
        """Say the next thing, from sync code; the arguments are those of :meth:`arun`."""
        run = self.arun(task, **options)
        return iterate_sync(aiter(run)) if stream else run_sync(run)

    @asynccontextmanager
    async def _turn(self, run: Run) -> AsyncIterator[None]:
        mine: Future[None] = Future()
        with self._lock:
            before, self._last_turn = self._last_turn, mine
        try:
            if before is not None and not before.done():
                with waiting("queue", "session"):
                    # A turn may come from any loop: futures of the threading kind know no loop.
                    await asyncio.shield(asyncio.wrap_future(before))
            run.executor = self._ground.executor
            async with self._kept_whole(run):
                yield
        finally:
            _pass_on(before, mine)

    @asynccontextmanager
    async def _kept_whole(self, run: Run) -> AsyncIterator[None]:
        steps = len(self.memory.steps)
        answered = False
        try:
            yield
            answered = run.status in ("running", SUCCESS, MAX_STEPS)
        finally:
            if not answered:
                del self.memory.steps[steps:]
            self._ground.executor = run.executor


def _pass_on(before: Future[None] | None, mine: Future[None]) -> None:
    """End my turn; one who gave up while queueing still waits for those in front."""
    if before is None or before.done():
        mine.set_result(None)
    else:
        before.add_done_callback(lambda _: mine.set_result(None))
