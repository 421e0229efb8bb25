"""The results file: one JSON line for each task that has ended, whole whatever happens.

Each result is written with its line end in one go, behind what is there. A process that is killed can so
leave at most one torn line, the last one, and whoever opens the file next takes it off. The file is locked
while it is open: two processes never write to one.
"""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError
from manyhands.run import OUT_OF_BUDGET, SUCCESS, error_dict
from manyhands.steps import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO, Self

    from manyhands.crowd import MapResult

# Every line begins like this: by it a torn line is known for one of ours.
_HEAD = b'{"id": '
_TEMPORARY = ".compacting"


class ResultsFileError(CallerError):
    """The results file cannot be used; the message says why."""


# --- One line ----------------------------------------------------------------------------------


def result_line(result: MapResult) -> bytes:
    """Return a result as a line of JSON, with its line end."""
    record = {
        "id": result.id,
        "task": result.task,
        "output": _plain(result.output),
        "state": result.state,
        "error": error_dict(result.error),
        "steps": result.steps,
        "usage": result.token_usage.dict() if result.token_usage else None,
        "timing": result.timing.dict(),
        "attempts": result.attempts,
    }
    if result.run is not None:
        # Whoever keeps the runs wants to see what they did.
        record["trace"] = result.run.trace().dict()
    if result.expected is not None:
        record["expected"] = plain(result.expected)
        record["correct"] = same_answer(result.output, result.expected)
    try:
        return _encoded(record, ascii=False)
    except ValueError:
        # Half a surrogate pair has no UTF-8, and JSON knows no infinity and no NaN.
        return _encoded(_finite(record), ascii=True)


def _plain(value: Any) -> Any:
    """Return JSON values for any answer: code may answer with things that not even have a text."""
    try:
        return plain(value)
    except Exception as error:
        return f"<{type(value).__name__} that has no text: {type(error).__name__}>"


def _encoded(record: Any, *, ascii: bool) -> bytes:
    return json.dumps(record, ensure_ascii=ascii, allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def same_answer(output: Any, expected: Any) -> bool:
    """Return whether two answers say the same: numbers by value, all else by its text."""
    try:
        return math.isclose(float(output), float(expected), rel_tol=1e-9, abs_tol=1e-12)
    except (TypeError, ValueError, OverflowError):
        return str(output).strip().casefold() == str(expected).strip().casefold()


# --- The file ------------------------------------------------------------------------------------


class ResultsFile:
    """Results on disk, open for more. Use it as a context manager.

    Opening locks the file, takes off a torn last line, and reads which tasks are in it.

    Args:
        path: The file; it is made if it is not there.

    Attributes:
        path: The file.
        repaired: Whether a torn line was taken off.

    Raises:
        ResultsFileError: Another process writes to it, or it holds something else than results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.repaired = False
        # Hashes of ids: a million of them take 8 bytes each and their place in a set.
        self._states: dict[int, bool | None] = {}
        self._superseded = 0
        self._fd = _opened_and_locked(path)
        try:
            self._read_all()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._states)

    def succeeded(self, id: Any) -> bool | None:
        """Return whether the task of this id has succeeded, ``None`` if it has to be done still.

        What ended because the budget of all was used up was no failure of the task.
        """
        return self._states.get(_key(id))

    def write(self, results: Iterable[MapResult]) -> None:
        """Put results behind those that are there; when this returns, they outlive the process.

        Raises:
            ResultsFileError: They cannot be written, because the disk is full, say. The file is as before.
        """
        lines = []
        for result in results:
            lines.append(result_line(result))
            self._note(result.id, _ok(result.state))
        try:
            _write_all(self._fd, b"".join(lines))
        except OSError as error:
            raise ResultsFileError(f"Results cannot be written to {self.path}: {error.strerror}.") from error

    def close(self) -> None:
        """Drop lines that later ones replace, and let go of the file."""
        if self._fd < 0:
            return
        try:
            os.fsync(self._fd)
            # A file that is open cannot be replaced on Windows; the last line of a task counts there.
            if self._superseded and sys.platform != "win32":
                self._compact()
        finally:
            os.close(self._fd)
            self._fd = -1

    # --- Reading what is there --------------------------------------------------------------------

    def _note(self, id: Any, ok: bool | None) -> None:
        key = _key(id)
        if key in self._states:
            self._superseded += 1
        self._states[key] = ok

    def _read_all(self) -> None:
        end = 0
        for number, line in self._lines():
            if not line.endswith(b"\n"):
                self._mend(line, number, end)
                return
            end += len(line)
            if line.strip():
                self._note(*_id_and_ok(self.path, line, number))

    def _mend(self, rest: bytes, number: int, end: int) -> None:
        """Deal with a last line that lacks its end: all there, torn, or not ours at all."""
        try:
            self._note(*_id_and_ok(self.path, rest, number))
        except ResultsFileError:
            # What a crash of the machine leaves may also be zeros.
            if not _HEAD.startswith(rest.strip(b"\0")[: len(_HEAD)]):
                raise
            os.ftruncate(self._fd, end)
            self.repaired = True
        else:
            _write_all(self._fd, b"\n")

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._reader() as file:
            yield from enumerate(file, 1)

    def _reader(self) -> BinaryIO:
        os.lseek(self._fd, 0, os.SEEK_SET)
        return open(self._fd, "rb", closefd=False)

    # --- One line for each task --------------------------------------------------------------------

    def _compact(self) -> None:
        """Write the file anew with the last line of each task, and put it in the place of this one."""
        last = {}
        for number, line in self._lines():
            if line.strip():
                last[_key(_id_and_ok(self.path, line, number)[0])] = number
        temporary = self.path.with_name(self.path.name + _TEMPORARY)
        # Locked before it takes the name: nobody gets in between.
        fd = _opened_and_locked(temporary)
        os.ftruncate(fd, 0)
        keep = set(last.values())
        with open(fd, "wb", closefd=False) as file:
            file.writelines(line for number, line in self._lines() if number in keep)
        os.chmod(temporary, stat.S_IMODE(os.fstat(self._fd).st_mode))
        os.fsync(fd)
        os.replace(temporary, self.path)
        self._fd, old = fd, self._fd
        os.close(old)
        self._superseded = 0


def _key(id: Any) -> int:
    return hash(str(id))


def _ok(state: str) -> bool | None:
    return None if state == OUT_OF_BUDGET else state == SUCCESS


def _id_and_ok(path: Path, line: bytes, number: int) -> tuple[Any, bool | None]:
    try:
        record = json.loads(line)
        return record["id"], _ok(record["state"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResultsFileError(
            f"{path} holds something else than results: see line {number}. Name another file to write to."
        ) from error


def _opened_and_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            raise ResultsFileError(f"There is no folder {path.parent} to write {path.name} to.") from None
        except OSError as error:
            raise ResultsFileError(f"{path} cannot be written: {error.strerror}.") from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ResultsFileError(f"{path} is no ordinary file, so results cannot be kept in it.")
            if not _lock(fd):
                raise ResultsFileError(
                    f"Another process is writing results to {path}. Wait for its end, or name another file."
                )
            if _is_still(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_still(path: Path, fd: int) -> bool:
    """Return whether ``fd`` still goes by this name: another process may have compacted meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    """Append all of ``data``, or nothing."""
    size = os.fstat(fd).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.ftruncate(fd, size)
        raise


if sys.platform == "win32":
    import msvcrt

    # A lock of bytes keeps others from reading them: so it is put where no result will ever be.
    _LOCKED_BYTE = 2**62

    def _lock(fd: int) -> bool:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
