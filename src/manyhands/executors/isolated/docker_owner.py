"""Who a container belongs to, and the end of those whose owner is gone.

A container carries the name of the process that started it. A guest ends by itself when that process is gone,
because its stdin ends; code that keeps the guest from doing so is ended by the next process of ours that
starts a container.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands._bridge import call_in_thread

if TYPE_CHECKING:
    from manyhands.executors.isolated.docker_engine import Engine

#: The label that says whose a container is.
LABEL = "manyhands.owner"


def owner() -> str:
    """Return the name of this process: where it counts processes, its number, and when it began."""
    return f"{_place()}/{os.getpid()}/{_began(os.getpid()) or '-'}"


@functools.cache
def _place() -> str:
    """The computer since it was started and its list of processes: numbers of others mean nothing here."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{platform.node() or 'unknown'}/all"


def _began(pid: int) -> str | None:
    """When a process began, in ticks; ``None`` where it is gone or the system does not say."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[19] if fields[0] != "Z" else None
    except (OSError, IndexError):
        return None


def is_gone(name: str) -> bool:
    """Whether the process of that name has ended; ``False`` where that cannot be known here."""
    place, _, rest = name.rpartition("/")[0].rpartition("/")
    began = name.rpartition("/")[2]
    if place != _place() or not rest.isdigit():
        return False
    if began != "-":
        return _began(int(rest)) != began
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


async def reap(engine: Engine) -> None:
    """Remove containers whose owner is gone, and those that have ended and were left by anybody.

    Raises:
        EngineError: The engine does not answer.
    """
    ours = await engine.ask("GET", "/containers/json", all="1", filters=f'{{"label":["{LABEL}"]}}')
    names = {entry["Id"]: str((entry.get("Labels") or {}).get(LABEL, "")) for entry in ours or ()}
    over = {entry["Id"] for entry in ours or () if entry.get("State") in ("exited", "stopped", "dead")}
    gone = await call_in_thread(lambda: {key for key, name in names.items() if is_gone(name)})
    for key in over | gone:
        engine.later(functools.partial(engine.remove, key))
