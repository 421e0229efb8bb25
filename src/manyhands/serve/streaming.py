"""The events of a run as bytes, for whatever framework serves it: nothing here knows one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from manyhands.serve.eventlog import EventLog
from manyhands.serve.events import Narrator

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from manyhands.run import Run


async def sse_events(run: Run, *, heartbeat: float = 15.0) -> AsyncGenerator[bytes, None]:
    """Work on a run, and give its events as server-sent events: the body of a streaming answer.

    For apps that serve runs themselves. Closing the iterator, as servers do when their client leaves,
    cancels the run. The run's failure is its last event, and nothing is raised.

    Args:
        run: A run that has not begun.
        heartbeat: Seconds of silence after which a comment is sent.

    Example:
        ``StreamingResponse(sse_events(agent.arun(task)), media_type="text/event-stream")``
    """
    log, narrator = EventLog(), Narrator()

    def observe(one: Run, event: Any) -> None:
        for kind, told in narrator.write(one, event):
            log.append(kind, told)

    run.observers.append(observe)
    work = asyncio.ensure_future(_quietly(run))
    work.add_done_callback(lambda _: log.end())
    try:
        async with contextlib.aclosing(log.follow(0, heartbeat)) as chunks:
            async for chunk in chunks:
                yield chunk
    finally:
        await run.aclose()
        await asyncio.wait([work])


async def _quietly(run: Run) -> None:
    with contextlib.suppress(Exception):
        await run
