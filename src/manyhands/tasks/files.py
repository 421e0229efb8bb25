"""Reading tasks from a file or a pipe, one at a time: JSON lines, CSV, or plain lines.

A line that cannot be read is no reason to stop: it comes out as a :class:`BadLine` with its number.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError
from manyhands.tasks.task import Task, task_from_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO

JSONL, CSV, LINES = "jsonl", "csv", "lines"
FORMATS = (JSONL, CSV, LINES)
_BY_EXTENSION = {".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".txt": LINES}
_CHUNK = 1 << 18
_MOST_FIELD_CHARS = 2**31 - 1
# Names only: no attributes, no indexes, no positions.
_FIELD_NAME = re.compile(r"[^\W\d][\w \-]*")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of the input that is no task.

    Attributes:
        line: Its number, counted from 1; for CSV, that of the record's first line.
        reason: Why, in one sentence.
    """

    line: int
    reason: str


def read_tasks(
    source: str | Path | int, format: str | None = None, template: str | None = None
) -> Iterator[Task | BadLine]:
    """Read tasks, one at a time. Blank lines are passed over.

    Args:
        source: A path, or the number of an open file (0 is the standard input).
        format: ``jsonl``, ``csv`` or ``lines``; by default the extension says, and where it does not
            (``.jsonl``, ``.ndjson``, ``.csv``, ``.txt``), a first line that begins with ``{`` means JSON
            lines, and any other one plain lines.
        template: Text of the task, with the names of fields in braces: ``"Where is {city}?"``. Fields that
            it uses are not given to the agent a second time.

    Yields:
        Tasks, each with an id: the one it names, or else line number and a hash of the content, so that an
        edited line is a new task. In between, the lines that are none.

    Raises:
        CallerError: A CSV file names no column ``task``, and there is no template.
        OSError: The source cannot be read.
    """
    with _opened(source) as raw:
        yield from _tasks_of(raw, format or _format_of(source), _Maker(template))


def _tasks_of(raw: FileIO, format: str | None, made: _Maker) -> Iterator[Task | BadLine]:
    lines = _lines(raw)
    if format is None:
        lines, format = _guessed(lines)
    if format == CSV:
        yield from _from_csv(lines, made)
    else:
        yield from _from_lines(lines, _json_record if format == JSONL else _plain_record, made)


def count_tasks(source: str | Path, format: str | None = None) -> int:
    """Return how many tasks a file holds, good and bad, without reading them in earnest."""
    with _opened(source) as raw:
        lines = _lines(raw)
        if (format or _format_of(source)) == CSV:
            return max(0, _count_rows(_csv_reader(lines)) - 1)
        return sum(1 for line in lines if line.strip())


def _opened(source: str | Path | int) -> FileIO:
    # Unbuffered: a thread blocked in a buffered standard input would hold its lock at the process's end.
    return open(source, "rb", buffering=0, closefd=not isinstance(source, int))


def _format_of(source: str | Path | int) -> str | None:
    return None if isinstance(source, int) else _BY_EXTENSION.get(Path(source).suffix.lower())


def _lines(raw: FileIO) -> Iterator[bytes]:
    """Yield lines with their line ends; a byte order mark in front is dropped."""
    rest = b""
    first = True
    while chunk := raw.read(_CHUNK):
        if first:
            chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        *whole, tail = chunk.split(b"\n")
        if whole:
            yield rest + whole[0] + b"\n"
            for line in whole[1:]:
                yield line + b"\n"
            rest = tail
        else:
            rest += tail
    if rest:
        yield rest


def _guessed(lines: Iterator[bytes]) -> tuple[Iterator[bytes], str]:
    skipped = []
    for line in lines:
        skipped.append(line)
        if line.strip():
            return _chain(skipped, lines), JSONL if line.lstrip().startswith(b"{") else LINES
    return iter(()), LINES


def _chain(first: Iterable[bytes], rest: Iterable[bytes]) -> Iterator[bytes]:
    yield from first
    yield from rest


# --- One record a line -------------------------------------------------------------------------


def _from_lines(
    lines: Iterable[bytes], record: Callable[[str], dict[str, Any]], made: _Maker
) -> Iterator[Task | BadLine]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield made.task(record(line.decode().strip()), number)
        except UnicodeDecodeError:
            yield BadLine(number, "It is not valid UTF-8.")
        except CallerError as error:
            yield BadLine(number, error.message)


def _plain_record(text: str) -> dict[str, Any]:
    return {"task": text}


def _json_record(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallerError(f"It is not valid JSON: {error}.") from error
    if isinstance(value, str):
        return {"task": value}
    if not isinstance(value, dict):
        raise CallerError('It must be a JSON object with a "task", or a string.')
    return value


# --- CSV -----------------------------------------------------------------------------------------


def _csv_reader(lines: Iterable[bytes]) -> Any:
    csv.field_size_limit(_MOST_FIELD_CHARS)
    # Bytes that are no UTF-8 pass as surrogates, so that one bad row does not end the reading.
    return csv.reader(line.decode(errors="surrogateescape") for line in lines)


def _count_rows(reader: Any) -> int:
    number = 0
    while True:
        try:
            number += bool(next(reader))
        except StopIteration:
            return number
        except csv.Error:
            number += 1


def _from_csv(lines: Iterable[bytes], made: _Maker) -> Iterator[Task | BadLine]:
    reader = _csv_reader(lines)
    columns = next(reader, None)
    if columns is None:
        return
    if "task" not in columns and not made.template:
        raise CallerError(
            f'The CSV file has no column "task"; its columns are {", ".join(map(repr, columns))}. '
            "Rename one, or give a template that makes tasks of them."
        )
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
            if row:
                yield made.task(_csv_record(columns, row), number)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadLine(number, f"It is not valid CSV: {error}.")
        except CallerError as error:
            yield BadLine(number, error.message)


def _csv_record(columns: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) != len(columns):
        raise CallerError(f"It has {len(row)} fields; the header has {len(columns)}.")
    if any("\udc80" <= char <= "\udcff" for field in row for char in field):
        raise CallerError("It is not valid UTF-8.")
    return dict(zip(columns, row, strict=True))


# --- From a record to a task -----------------------------------------------------------------------


class _Maker:
    """Makes tasks of the records of one source, with the user's template if there is one.

    Args:
        template: Text with names of fields in braces.

    Raises:
        CallerError: The template cannot be read.
    """

    def __init__(self, template: str | None) -> None:
        self.template = template
        # Hashes of the ids that tasks name: a million of them are a small matter.
        self._used: set[int] = set()
        try:
            parts = list(Formatter().parse(template or ""))
        except ValueError as error:
            raise CallerError(f"The template cannot be read: {error}.") from error
        self._fields = {name for _, name, _, _ in parts if name is not None}
        if odd := sorted(name for name in self._fields if not _FIELD_NAME.fullmatch(name)):
            raise CallerError(
                f"The template uses {{{odd[0]}}}; write names of fields, and other braces twice."
            )

    def task(self, record: dict[str, Any], line: int) -> Task:
        """Return the task of one record; an id is made up where it names none."""
        if self.template:
            record = self._filled(self.template, record)
        task = task_from_mapping(record)
        if task.id is None:
            return replace(task, id=default_id(task, line))
        key = hash(str(task.id))
        if key in self._used:
            raise CallerError(f"Its id {task.id!r} stands on an earlier line too.")
        self._used.add(key)
        return task

    def _filled(self, template: str, record: dict[str, Any]) -> dict[str, Any]:
        try:
            text = template.format_map(record)
        except KeyError as error:
            raise CallerError(f"The template needs the field {error}; there is none.") from error
        except (ValueError, TypeError) as error:
            raise CallerError(f"The template does not fit: {error}.") from error
        rest = {key: value for key, value in record.items() if key not in self._fields or key == "id"}
        return {**rest, "task": text}


def default_id(task: Task, line: int) -> str:
    """Return the id of a task that names none: its line, and a hash of what it says."""
    content = json.dumps([task.task, task.additional_args], sort_keys=True, default=str)
    digest = hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{line}-{digest}"
