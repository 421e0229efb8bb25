"""The guest program as one text, for any Python that has never heard of us.

The guest is written as ordinary modules of this package. Here their sources are put together with a few
lines that make modules of them in a foreign interpreter, and take our names away again, so that code may
import what is installed there.
"""

from __future__ import annotations

import base64
import functools
import marshal
import zlib
from importlib.util import find_spec
from pathlib import Path

#: The modules of the guest, each after those that it imports.
GUEST = (
    "manyhands.executors.local.output",
    "manyhands.executors.local.explain",
    "manyhands.executors.local.concurrency",
    "manyhands.executors.isolated.frames",
    "manyhands.executors.isolated.values",
    "manyhands.executors.isolated.rewriting",
    "manyhands.executors.isolated.guest",
)
#: The modules that confine a process of this computer.
CONFINING = ("manyhands.executors.isolated.kernel", "manyhands.executors.isolated.confine")

# Makes modules of (name, code) pairs and returns the last; our names are gone afterwards.
_LOADER = """
import sys, types
def load(parts):
    for name, code in parts:
        for end in [i for i, c in enumerate(name) if c == "."]:
            sys.modules.setdefault(name[:end], types.ModuleType(name[:end])).__path__ = []
        module = sys.modules[name] = types.ModuleType(name)
        parent, _, short = name.rpartition(".")
        setattr(sys.modules[parent], short, module)
        exec(code, module.__dict__)
    for name in [name for name in sys.modules if name.split(".")[0] == "manyhands"]:
        del sys.modules[name]
    return module
"""


def _source_of(name: str) -> str:
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@functools.cache
def guest_source() -> str:
    """Return the guest program: run it as ``__main__``, and it speaks over stdin and stdout."""
    parts = [(name, _source_of(name)) for name in GUEST]
    return f"{_LOADER}\nload({parts!r}).main()\n"


@functools.cache
def guest_command(python: str = "python3") -> tuple[str, ...]:
    """Return the command that runs the guest where no file of ours exists.

    Args:
        python: The interpreter there: 3.9 or later, nothing installed.
    """
    packed = base64.b64encode(zlib.compress(guest_source().encode(), 9)).decode()
    script = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')).decode())"
    return (python, "-I", "-u", "-c", script)


@functools.cache
def compiled_program() -> bytes:
    """Return the guest that confines itself first, compiled, for the interpreter that runs here.

    It defines ``boot(plan)``, of which ``plan`` is JSON for :func:`.confine.confine`.
    """
    confining, guest = (
        [(n, compile(_source_of(n), f"<{n}>", "exec")) for n in names] for names in (CONFINING, GUEST)
    )
    boot = (
        "def boot(plan):\n"
        "    import json\n"
        "    facts = load(CONFINING).confine(json.loads(plan))\n"
        "    load(GUEST).main(facts)\n"
    )
    code = compile(_LOADER + boot, "<launch>", "exec")
    return marshal.dumps((code, confining, guest))
