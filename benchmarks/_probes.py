"""What has to be measured in a fresh process: memory, and the way to the first answer.

Run by ``core.py``; prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from typing import Any
from urllib.parse import urlsplit

import _meter


async def _until_full(url: str) -> None:
    """Wait until all expected requests wait at the server."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /full HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"{}")
    writer.close()


async def _waiting(side: Any, url: str, count: int, traced: bool) -> dict[str, float]:
    """Let ``count`` runs wait for their third reply, and return what each of them holds."""
    import _sides

    await side.work(20, "0/3", count)
    gc.collect()
    if traced:
        tracemalloc.start()
    before = _meter.resident()
    full = asyncio.create_task(_until_full(url))
    work = asyncio.create_task(side.work(count, f"g{count}@3/3"))
    await full
    held = tracemalloc.get_traced_memory()[0] if traced else _meter.resident() - before
    return {"bytes_per_run": held / count, "right": _sides.right(await work)}


async def memory(side: str, kind: str, url: str, count: str, traced: str = "") -> dict[str, float]:
    """Measure what a run in flight holds.

    Args:
        side: ``agent`` or ``floor``.
        kind: ``tools`` or ``code``.
        url: The server.
        count: How many runs wait at once.
        traced: Anything but "" for Python's own account instead of the process's.
    """
    import _floor
    import _sides

    async with _floor.session() as session:
        chosen = _sides.Agents(kind, url) if side == "agent" else _sides.Floor(kind, url, session)
        return await _waiting(chosen, url, int(count), bool(traced))


async def construction(kind: str) -> dict[str, float]:
    """Measure what it takes to make one more agent with one tool, on a shared model.

    Args:
        kind: ``tools`` or ``code``.
    """
    import _sides

    first = _sides.make_agent(kind, "http://localhost")
    make, given = type(first), {"tools": [first.tools["lookup"]], "model": first.model}
    rounds = []
    for _ in range(7):
        gc.collect()
        begin = time.process_time()
        for _ in range(2000):
            make(**given)
        rounds.append((time.process_time() - begin) / 2000)
    gc.collect()
    tracemalloc.start()
    kept = [make(**given) for _ in range(2000)]
    held = tracemalloc.get_traced_memory()[0] / len(kept)
    return {"seconds": _meter.median(rounds), "bytes": held}


if __name__ == "__main__":
    _meter.raise_file_limit()
    probes: dict[str, Any] = {"memory": memory, "construction": construction}
    print(json.dumps(asyncio.run(probes[sys.argv[1]](*sys.argv[2:]))))
