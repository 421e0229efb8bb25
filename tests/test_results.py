"""The results file is whole, whatever happened to whoever wrote it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands import ServerError, Timing, TokenUsage
from manyhands.crowd import MapResult
from manyhands.results import ResultsFile, ResultsFileError, result_line, same_answer

if TYPE_CHECKING:
    from pathlib import Path

answers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def result(id: Any = 0, output: Any = None, state: str = "success", **more: Any) -> MapResult:
    error = ServerError("No.") if state == "error" else None
    return MapResult(id, 0, "What?", output, state, error, 2, TokenUsage(3, 4), Timing(1.0, 2.5), 1, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def records_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# --- One line ----------------------------------------------------------------------------------


def test_a_line_says_all_there_is_to_say() -> None:
    assert json.loads(result_line(result("a", 42, expected="42.0"))) == {
        "id": "a",
        "task": "What?",
        "output": 42,
        "state": "success",
        "error": None,
        "steps": 2,
        "usage": {**TokenUsage(3, 4).dict()},
        "timing": {"start_time": 1.0, "end_time": 2.5, "duration": 1.5},
        "attempts": 1,
        "expected": "42.0",
        "correct": True,
    }
    failed = json.loads(result_line(result(state="error")))
    assert failed["error"] == {"type": "ServerError", "message": "No."}
    assert "expected" not in failed


@given(answers)
def test_any_answer_is_one_line_of_strict_json(answer: Any) -> None:
    line = result_line(result(output=answer))
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_an_answer_without_a_text_is_still_a_line() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError("no")

    endless: list[Any] = []
    endless.append(endless)
    assert "Odd that has no text" in json.loads(result_line(result(output=Odd())))["output"]
    assert "list that has no text" in json.loads(result_line(result(output=endless)))["output"]


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [(4, "4.0", True), (0.1 + 0.2, 0.3, True), (" Oslo", "oslo", True), (5, 4, False), (None, "x", False)],
)
def test_answers_are_compared_by_value_or_by_text(output: Any, expected: Any, same: bool) -> None:
    assert same_answer(output, expected) is same
    assert not same_answer(math.inf, "finite")


# --- The file ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(), answers), max_size=5, unique_by=lambda pair: pair[0]), st.data())
def test_a_file_cut_off_anywhere_loses_the_torn_line_and_no_other(
    folder: Path, pairs: list[tuple[str, Any]], data: st.DataObject
) -> None:
    path = folder / "cut.jsonl"
    lines = [result_line(result(id, output)) for id, output in pairs]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    # A line is there with its last brace; only its line end may be missing.
    ends = [len(b"".join(lines[: number + 1])) - 1 for number in range(len(lines))]
    kept = sum(end <= cut for end in ends)
    with ResultsFile(path) as file:
        assert [file.succeeded(id) for id, _ in pairs] == [True] * kept + [None] * (len(pairs) - kept)
        file.write([result(id, output) for id, output in pairs[kept:]])
    assert path.read_bytes() == whole


@given(st.binary(min_size=1, max_size=40))
def test_a_file_of_something_else_is_refused_and_left_alone(folder: Path, content: bytes) -> None:
    path = folder / "foreign.jsonl"
    path.write_bytes(content)
    if content.strip(b"\0\n\r\t\v\f ") in (
        b"",
        b"{",
        b'{"',
        b'{"i',
        b'{"id',
        b'{"id"',
        b'{"id":',
        b'{"id": ',
    ):
        return
    with pytest.raises(ResultsFileError, match="something else than results"):
        ResultsFile(path)
    assert path.read_bytes() == content


def test_zeros_that_a_crash_of_the_machine_left_are_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "zeros.jsonl"
    line = result_line(result("a"))
    path.write_bytes(line + b"\0" * 100)
    with ResultsFile(path) as file:
        assert file.repaired and file.succeeded("a")
    assert path.read_bytes() == line


def test_a_file_of_tasks_is_not_taken_for_results(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "task": "b"}\n')
    with pytest.raises(ResultsFileError, match="see line 1"):
        ResultsFile(path)


def test_two_cannot_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultsFile(path), pytest.raises(ResultsFileError, match="Another process is writing"):
        ResultsFile(path)
    ResultsFile(path).close()


def test_what_is_done_again_replaces_the_earlier_line_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultsFile(path) as file:
        file.write([result("a", state="error"), result("b"), result("c", state="error")])
        assert [file.succeeded(id) for id in "abcd"] == [False, True, False, None]
    with ResultsFile(path) as file:
        file.write([result("a", "again")])
        assert len(path.read_bytes().splitlines()) == 4
        assert len(file) == 3
    assert [(record["id"], record["state"]) for record in records_in(path)] == [
        ("b", "success"),
        ("c", "error"),
        ("a", "success"),
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_replaced_lines_of_a_run_that_was_killed_go_at_the_next_end(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(result_line(result(1, state="error")) + result_line(result(1)))
    path.chmod(0o640)
    with ResultsFile(path) as file:
        assert file.succeeded("1") is True
        # Nobody gets at the file while it is written anew, or after.
        file._compact()
        with pytest.raises(ResultsFileError, match="Another process"):
            ResultsFile(path)
    assert path.read_bytes() == result_line(result(1))
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "said"),
    [("no/such/folder.jsonl", "no folder"), (".", "cannot be written"), ("pipe", "no ordinary file")],
)
def test_places_that_cannot_hold_results_are_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "pipe").symlink_to("/dev/null")
    with pytest.raises(ResultsFileError, match=said):
        ResultsFile(tmp_path / name)


def test_when_the_disk_is_full_the_file_stays_whole(tmp_path: Path) -> None:
    script = """
import pathlib, resource, sys
from manyhands.results import ResultsFile, ResultsFileError
from tests.test_results import result
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with ResultsFile(pathlib.Path(sys.argv[1])) as file:
    file.write([result("a")])
    try:
        file.write([result(name, "x" * 100) for name in "bcdefgh"])
    except ResultsFileError as error:
        print(error)
"""
    path = tmp_path / "results.jsonl"
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout == f"Results cannot be written to {path}: File too large.\n"
    assert path.read_bytes() == result_line(result("a"))
