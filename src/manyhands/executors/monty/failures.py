"""Failures of code in Monty, told as the local executor tells them, and what Monty itself lacks."""

from __future__ import annotations

import builtins
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands.executors.local import explain

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_LINE = 200
_OTHERS = 'executor_type="local", "process" or "docker"'

_TOP = (None, "<module>")
_UNSUPPORTED = re.compile(r"not (yet )?support|cannot suspend in this")
_NO_ATTRIBUTE = re.compile(r"^(module|type object)? ?'(\w+)'( object)? has no attribute '(\w+)'$")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from '(\w+)'")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that came out of Monty.

    Attributes:
        kind: Name of its type.
        message: Its text.
        frames: Where it was raised, outermost first: file, line, function, source line.
    """

    kind: str
    message: str
    frames: tuple[tuple[str, int, str | None, str], ...]

    @classmethod
    def of(cls, error: Any) -> Failure:
        """Read an error of Monty."""
        inner = error.exception()
        frames = error.traceback() if hasattr(error, "traceback") else []
        return cls(
            type(inner).__name__,
            str(inner),
            tuple((f.filename, f.line, f.function_name, f.source_line or "") for f in frames),
        )

    @property
    def is_timeout(self) -> bool:
        """Whether the time of the code is over."""
        return self.kind == "TimeoutError" and self.message.startswith(("feed time limit", "turn time limit"))

    @property
    def is_memory(self) -> bool:
        """Whether the memory of the code is used up."""
        return self.kind == "MemoryError"

    def lacks(self, missing_module: str | None) -> str:
        """Return what Monty lacks if that is the reason, else ``""``.

        Args:
            missing_module: The module that was asked for last and is not there.
        """
        line = self.frames[-1][3] if self.frames else ""
        import_of = _NO_NAME.match(self.message)
        if self.kind == "ImportError" and import_of is not None:
            return f"'{import_of[2]}.{import_of[1]}'"
        if missing_module is not None and self.kind in ("ModuleNotFoundError", "ImportError"):
            return f"the module '{missing_module}'"
        if self.kind in ("NotImplementedError", "TypeError", "SyntaxError") and "raise" not in line:
            return self._unsupported()
        if self.kind == "NameError":
            name = self.message.removeprefix("name '").partition("'")[0]
            return f"the built-in function '{name}'" if hasattr(builtins, name) else ""
        return self._attribute() if self.kind == "AttributeError" else ""

    def _unsupported(self) -> str:
        if "cannot suspend" in self.message:
            return "a way to wait for a tool inside of this function: call the tool in a loop before it"
        feature = self.message.removeprefix("The monty syntax parser does not yet support ")
        if feature != self.message:
            return feature
        return f"that ({self.message})" if _UNSUPPORTED.search(self.message) else ""

    def _attribute(self) -> str:
        match = _NO_ATTRIBUTE.match(self.message)
        if match is None or match[4].startswith("_"):
            return ""
        what, owner, _, name = match.groups()
        if what == "module":
            return f"'{owner}.{name}'"
        return f"'{owner}.{name}'" if hasattr(getattr(builtins, owner, None), name) else ""


def failure_text(failure: Failure, kind: str, code: str, names: Iterable[str], lacks: str) -> str:
    """The sentence for a failure.

    Args:
        failure: The failure.
        kind: Name of the error's type, as the tool that raised it has it.
        code: The block of code.
        names: Names that the code may have meant.
        lacks: What Monty lacks, if that is the reason.
    """
    block = failure.frames[0][0] if failure.frames else ""  # it begins at the top of the block
    here = [line for file, line, name, _ in failure.frames if name in _TOP and file == block]
    segment = explain.statement_at(code, here[0]) if here else explain.first_line(code)
    text = f"Code execution failed at line '{segment}' due to: {kind}: {failure.message}"
    return text + (lacks_text(lacks) if lacks else _hint(failure, names)) + _inner(failure)


def lacks_text(lacks: str) -> str:
    """Say that it is the interpreter, and what can be done."""
    return (
        f"\nMonty, the small Python that runs this code, does not have {lacks}. Write it in another way. "
        f"(Executors with all of Python: {_OTHERS}.)"
    )


def _inner(failure: Failure) -> str:
    """Where inside a function it happened."""
    if not failure.frames or failure.frames[-1][2] in _TOP:
        return ""
    _, line, name, source = failure.frames[-1]
    return f"\n(in {name}, line {line}: '{source.strip()[:_MAX_LINE]}')"


def _hint(failure: Failure, names: Iterable[str]) -> str:
    match = re.match(r"name '(\w+)' is not defined$", failure.message)
    if failure.kind == "NameError" and match is not None:
        return _closest(match[1], names)
    match = re.match(r"'(\w+)' object has no attribute '(\w+)'$", failure.message)
    if failure.kind == "AttributeError" and match is not None:
        return _closest(match[2], dir(getattr(builtins, match[1], None)))
    return ""


def _closest(name: str, names: Iterable[str]) -> str:
    known = [known for known in names if known != name and not known.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f". Did you mean: '{near[0]}'?" if near else ""
