"""``manyhands show``: one result of a results file with its steps, or what is in the file, failures first."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhands.cli import FAILED, OK
from manyhands.errors import CallerError
from manyhands.observe.export.parts import seconds
from manyhands.observe.snapshot import counts
from manyhands.observe.trace import Trace
from manyhands.observe.words import visible
from manyhands.run import FAILED as STATE_FAILED
from manyhands.run import SUCCESS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

# How each line of a results file begins, and how much of it is looked at for an id.
_HEAD = b'{"id": '
_LONGEST_ID = 4096
_decoder = json.JSONDecoder()


def execute(args: argparse.Namespace) -> int:
    """Show what is asked for."""
    path, id = _named(args.results)
    record = _only(path) if id is None else _found(path, id)
    if record is None:
        if args.html or args.markdown:
            raise CallerError(f"{path} holds many results; say which one: {path}#ID.")
        return _list(path, args.limit)
    trace = Trace.of(record)
    if args.html or args.markdown:
        _write(args.html, trace.html)
        _write(args.markdown, trace.markdown)
    else:
        _console().print(trace)
    return OK if trace.status == SUCCESS else FAILED


def _console() -> Console:
    # A pipe has no width: what follows it may cut lines, so they are not.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _named(words: str) -> tuple[Path, str | None]:
    """Return the file, and the id behind ``#``; a file whose name holds a ``#`` is itself."""
    path, id = Path(words), None
    if not path.exists() and "#" in words:
        name, _, id = words.partition("#")
        path = Path(name)
    if not path.exists():
        raise CallerError(f"There is no file {path}.")
    if path.is_dir():
        raise CallerError(f"{path} is a folder; name a file of results.")
    return path, id


def _write(name: str | None, make: Any) -> None:
    if name is None:
        return
    text = make()
    if name == "-":
        print(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CallerError(f"{name} cannot be written: {error.strerror}.") from error
    print(f"Written: {name}", file=sys.stderr)


# --- Finding one ---------------------------------------------------------------------------------------


def _only(path: Path) -> Any:
    """Return what a file holds that is no list of results: one result or trace; ``None`` if it is a list."""
    with path.open("rb") as file:
        first = file.readline()
        rest = file.read(1)
    record = _record(first)
    if record is None:  # it may be written over many lines
        with suppress(ValueError, RecursionError):
            record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise CallerError(f"{path} holds no results: its first line is no JSON.")
    return None if rest and "attempts" in record else record


def _found(path: Path, id: str) -> dict[str, Any]:
    """Return the last result of ``id``: its line is sought first, and read then."""
    where, lines = None, 0
    with path.open("rb") as file:
        offset = 0
        for line in file:
            lines += 1
            if str(_id(line)) == id:
                where = offset
            offset += len(line)
        if where is None:
            raise CallerError(
                f"There is no result of {id!r} among the {lines:,} in {path}. "
                f"manyhands show {path} lists them."
            )
        file.seek(where)
        record = _record(file.readline())
    if record is None:
        raise CallerError(f"The line of {id!r} in {path} is torn; run the tasks again to mend the file.")
    return record


def _id(line: bytes) -> Any:
    if line.startswith(_HEAD):
        with suppress(ValueError):
            return _decoder.raw_decode(line[len(_HEAD) : _LONGEST_ID].decode(errors="ignore"))[0]
    return (_record(line) or {}).get("id")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# --- What is in a file ----------------------------------------------------------------------------------


@dataclass
class _Contents:
    """A file of results in short.

    Args:
        most: Most rows that are kept of failures, and of the others.
    """

    most: int
    states: dict[int, str] = field(default_factory=dict)
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    others: dict[int, dict[str, Any]] = field(default_factory=dict)
    bad: int = 0

    def take(self, line: bytes) -> None:
        """Take in a line; a later one of the same id counts instead."""
        record = _record(line)
        if record is None or "state" not in record:
            self.bad += bool(line.strip())
            return
        key = hash(str(record.get("id")))
        self.states[key] = kind = _kind(record)
        self.failed.pop(key, None)
        self.others.pop(key, None)
        rows = self.failed if kind else self.others
        if len(rows) < self.most:
            rows[key] = {name: value for name, value in record.items() if name != "trace"}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows to be shown, failures first."""
        yield from [*self.failed.values(), *self.others.values()][: self.most]

    def total(self) -> str:
        """Return how many there are of each kind."""
        failures = Counter(kind for kind in self.states.values() if kind)
        failed = sum(failures.values())
        kinds = f" ({counts(tuple(failures.most_common()))})" if failed else ""
        total = len(self.states)
        return f"{total:,} results: {total - failed:,} succeeded, {failed:,} failed{kinds}."


def _kind(record: dict[str, Any]) -> str:
    """Return the kind of a failure, as :attr:`manyhands.crowd.MapResult.failure` has it; "" if it is none."""
    state = str(record["state"])
    error = record.get("error")
    if state == STATE_FAILED and isinstance(error, dict):
        return str(error.get("type", state))
    return "" if state == SUCCESS else state


def _list(path: Path, most: int) -> int:
    contents = _Contents(most)
    with path.open("rb") as file:
        for line in file:
            contents.take(line)
    if not contents.states:
        raise CallerError(f"{path} holds no results.")
    console = _console()
    console.print(contents.total(), markup=False)
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("id", "state", "steps", "time", "task", "answer or error"):
        right = name in ("steps", "time")
        table.add_column(
            name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis", max_width=48
        )
    for record in contents.rows():
        table.add_row(*_cells(record))
    console.print(table)
    left = len(contents.states) - table.row_count
    if left > 0:
        console.print(f"{left:,} more (--limit N shows more).", markup=False)
    if contents.bad:
        print(f"manyhands show: {contents.bad:,} lines of {path} are no results.", file=sys.stderr)
    console.print(f"manyhands show {path}#ID shows one of them.", markup=False)
    return OK


def _cells(record: dict[str, Any]) -> Iterator[Text]:
    error = record.get("error")
    said = error.get("message", "") if isinstance(error, dict) else record.get("output")
    state = str(record["state"])
    timing = record.get("timing") or {}
    yield Text(_line(record.get("id"), 40))
    yield Text(_kind(record) or state, style="green" if state == SUCCESS else "red")
    yield Text(_line(record.get("steps"), 10))
    yield Text(seconds(timing.get("duration")))
    yield Text(_line(record.get("task"), 200))
    yield Text(_line(said, 200))


def _line(value: Any, most: int) -> str:
    return "" if value is None else " ".join(visible(str(value)[: 2 * most]).split())[:most]
