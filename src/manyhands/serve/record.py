"""A run as the server knows it: from the queue to what is left of it when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from manyhands.approvals import ApprovalRequest
from manyhands.events import ApprovalEnd
from manyhands.run import CANCELLED, error_dict
from manyhands.serve.eventlog import EventLog
from manyhands.serve.events import Narrator, usage
from manyhands.serve.jsonable import RESULT, encoded, jsonable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manyhands.run import Run

QUEUED, RUNNING, PAUSED = "queued", "running", "paused"
_SHORT_TASK = 200


class Record:
    """One run, its events, and who watches it.

    Args:
        run: The run, not yet begun.
        number: Its place among all runs.
        agent: The name under which its agent is served.
        tenant: Whose it is.
        session: The conversation that it is a turn of.
        cancel_on_disconnect: Whether it ends when its watchers leave.
        keep_events: Most events that are kept.

    Attributes:
        id: The run's id.
        run: The run; ``None`` when it has ended.
        task: The task of asyncio that drives it.
        pending: What waits for people, by id, that of the runs below included.
        watchers: Clients that wait for it or stream it.
        ended: Set at its end.
        kept: Bytes that it keeps from then on, roughly.
    """

    def __init__(
        self,
        run: Run,
        number: int,
        agent: str,
        tenant: str,
        session: str | None,
        *,
        cancel_on_disconnect: bool = False,
        keep_events: int = 2000,
    ) -> None:
        self.id = run.id
        self.run: Run | None = run
        self.number = number
        self.agent = agent
        self.tenant = tenant
        self.session = session
        self.cancel_on_disconnect = cancel_on_disconnect
        self.asked = run.task
        self.log = EventLog(keep_events)
        self.pending: dict[str, ApprovalRequest] = {}
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()
        self.kept = 0
        self.created_at = time.time()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self._narrator = Narrator()
        self._left: dict[str, Any] = {}
        self._output = b"null"
        self._steps = b"null"
        self._grace: asyncio.TimerHandle | None = None
        run.observers.append(self.observe)

    # --- Its life -------------------------------------------------------------------------------

    def observe(self, run: Run, event: Any) -> None:
        """Take in one event of the run, or of one that it started."""
        if isinstance(event, ApprovalRequest):
            self.pending[event.id] = event
        elif isinstance(event, ApprovalEnd):
            self.pending.pop(event.request_id, None)
        for kind, told in self._narrator.write(run, event):
            self.log.append(kind, told)

    def begin(self) -> None:
        """Note that it has left the queue."""
        self.started_at = time.time()

    def cancel(self, reason: str = "") -> bool:
        """End it, wherever it is; return whether there was anything to end."""
        if self.ended.is_set() or self.run is None or self.task is None:
            return False
        if self.started_at is None:
            return self.task.cancel(reason)
        return self.run.cancel(reason)

    def finish(self) -> None:
        """Keep what is wanted of it, and let go of the run."""
        run = self.run
        if run is None:
            return
        self.ended_at = time.time()
        if self.started_at is None:
            run.cancel()
            self._tell_unbegun(run)
        self._left = self._state(run)
        self._output = encoded(jsonable(run.output, RESULT))
        self._steps = encoded(jsonable(run.memory.get_succinct_steps(), RESULT))
        self.run = self.task = None
        self.pending.clear()
        self._stop_grace()
        self.log.end()
        self.kept = self.log.size + len(self._output) + len(self._steps) + 2 * len(self.asked) + 2000
        self.ended.set()

    def _tell_unbegun(self, run: Run) -> None:
        """A run that was cancelled in the queue has told nothing itself."""
        fields = {"status": CANCELLED, "error": None, "steps": 0, "seconds": 0.0, "token_usage": None}
        base = {"type": "run_end", "run_id": run.id, "parent_id": None, "time": time.time()}
        self.log.append("run_end", encoded({**base, **fields}))

    # --- Those who watch ------------------------------------------------------------------------

    def join(self) -> None:
        """Note one more watcher."""
        self.watchers += 1
        self._stop_grace()

    def leave(self, grace: float) -> None:
        """Note that a watcher has left; the last one may take the run along.

        Args:
            grace: Seconds in which one may come back.
        """
        self.watchers -= 1
        if self.cancel_on_disconnect and not self.watchers and not self.ended.is_set():
            loop = asyncio.get_running_loop()
            self._grace = loop.call_later(grace, self.cancel, "its client has left")

    @contextlib.contextmanager
    def watched(self, grace: float) -> Iterator[None]:
        """Note a watcher for the time of a ``with``; see :meth:`leave`."""
        self.join()
        try:
            yield
        finally:
            self.leave(grace)

    def _stop_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    # --- How it is shown ------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """``queued``, ``running``, ``paused``, or how it ended."""
        if self.run is None:
            return str(self._left["status"])
        if self.started_at is None:
            return QUEUED
        return PAUSED if self.run.paused else RUNNING

    def summary(self, whole: bool = False) -> dict[str, Any]:
        """Return what a list shows of it.

        Args:
            whole: With all of the task.
        """
        state = self._left if self.run is None else self._state(self.run)
        task = self.asked if whole or len(self.asked) <= _SHORT_TASK else self.asked[: _SHORT_TASK - 1] + "…"
        return {
            "id": self.id,
            "agent": self.agent,
            "tenant": self.tenant,
            "session": self.session,
            "task": task,
            **state,
            "status": self.status,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "pending_approvals": len(self.pending),
        }

    def output(self) -> Any:
        """Return the final answer of a run that has ended, as JSON values."""
        return json.loads(self._output)

    def _state(self, run: Run) -> dict[str, Any]:
        error = run.error if self.ended_at is not None else None
        return {
            "status": run.status,
            "activity": run.activity,
            "step": run.step_number if self.started_at is not None else 0,
            "token_usage": usage(run.usage),
            "error": jsonable(error_dict(error)),
        }

    def view(self, steps: bool = False) -> bytes:
        """Return everything about it, as JSON.

        Args:
            steps: With all its steps.
        """
        told = {**self.summary(whole=True), "last_event": self.log.last}
        parts = [encoded(told)[:-1], b',"output":', self._output]
        if steps:
            run = self.run
            kept = self._steps if run is None else encoded(jsonable(run.memory.get_succinct_steps(), RESULT))
            parts += [b',"steps":', kept]
        return b"".join([*parts, b"}"])
