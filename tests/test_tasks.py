"""Tasks are read one at a time from whatever holds them, and a bad line is only a bad line."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands import CallerError
from manyhands.tasks import BadLine, Task, read_tasks
from manyhands.tasks.files import count_tasks
from manyhands.tasks.task import as_task

if TYPE_CHECKING:
    from pathlib import Path

words = st.text(min_size=1).filter(lambda text: text.strip() and text.isprintable())
# CSV and plain lines keep no lone surrogates, line ends in odd places, and NULs.
cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")).filter(str.strip)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path | int, *args: Any) -> list[Task | BadLine]:
    return list(read_tasks(path, *args))


def tasks_in(path: Path, *args: Any) -> list[str]:
    return [item.task for item in read(path, *args) if isinstance(item, Task)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


# --- JSON lines --------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text().filter(str.strip), st.booleans())))
def test_any_text_comes_through_json_lines(folder: Path, tasks: list[tuple[str, bool]]) -> None:
    records = [{"task": text} if as_object else text for text, as_object in tasks]
    path = written(folder, "a.jsonl", "\n".join(map(json.dumps, records)))
    assert tasks_in(path) == [text for text, _ in tasks]
    assert count_tasks(path) == len(tasks)


def test_keys_of_an_object_are_id_expected_answer_and_values(folder: Path) -> None:
    path = written(folder, "b.jsonl", '{"task": "a", "id": 7, "expected": [1], "city": "Oslo", "n": 2}')
    assert read(path) == [Task("a", 7, {"city": "Oslo", "n": 2}, None, [1])]


def test_bad_lines_are_reported_with_their_numbers_and_stop_nothing(folder: Path) -> None:
    lines = [b'{"task": "a"}', b"{not json", b"", b"17", b'{"id": 1}', b'{"task": 5}', b'{"task": " "}']
    lines += [b"\xff\xfe", b'{"task": "b", "id": [1]}', b"[" * 100_000, b'{"task": "c"}']
    items = read(written(folder, "c.jsonl", b"\n".join(lines)))
    assert [item.line for item in items if isinstance(item, BadLine)] == [2, 4, 5, 6, 7, 8, 9, 10]
    assert [item.task for item in items if isinstance(item, Task)] == ["a", "c"]
    reasons = [item.reason for item in items if isinstance(item, BadLine)]
    for reason, said in zip(
        reasons, ("JSON", "object", 'no "task"', "text", "empty", "UTF-8", "id"), strict=False
    ):
        assert said in reason


def test_an_id_that_stands_twice_is_a_bad_line(folder: Path) -> None:
    path = written(
        folder, "d.jsonl", '{"task": "a", "id": 1}\n{"task": "b", "id": "1"}\n{"task": "c", "id": 2}'
    )
    assert [type(item) for item in read(path)] == [Task, BadLine, Task]


# --- Ids -----------------------------------------------------------------------------------------


def ids_in(path: Path, *args: Any) -> list[Any]:
    return [item.id for item in read(path, *args) if isinstance(item, Task)]


def test_an_edited_line_has_another_id_and_the_others_keep_theirs(folder: Path) -> None:
    before = ids_in(written(folder, "e.jsonl", '"a"\n"b"\n"c"'))
    after = ids_in(written(folder, "e.jsonl", '"a"\n"B"\n"c"'))
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert before[0].startswith("1-")
    assert len(set(before)) == 3


def test_the_same_task_on_two_lines_is_two_tasks(folder: Path) -> None:
    assert len(set(ids_in(written(folder, "f.txt", "same\nsame\n")))) == 2


def test_values_are_part_of_the_id_and_the_right_answer_is_not(folder: Path) -> None:
    lines = ['{"task": "a", "n": 1}', '{"task": "a", "n": 2}', '{"task": "a", "n": 1, "expected": 3}']
    first, other, judged = (ids_in(written(folder, "g.jsonl", line))[0] for line in lines)
    assert first == judged != other


# --- CSV -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(cells, st.text(st.characters(codec="utf-8", exclude_characters="\0\r")))))
def test_any_cells_come_through_csv(folder: Path, rows: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([("task", "note"), *rows])
    path = written(folder, "a.csv", out.getvalue())
    assert [item.additional_args for item in read(path) if isinstance(item, Task)] == [
        {"note": note} for _, note in rows
    ]
    assert tasks_in(path) == [task for task, _ in rows]
    assert count_tasks(path) == len(rows)


def test_a_row_of_the_wrong_length_is_a_bad_line_with_the_number_of_its_first_line(folder: Path) -> None:
    path = written(folder, "b.csv", b'task,n\n"two\nlines",1\nshort\nx,1,2\n\xff,1\nlast,2\n')
    items = read(path)
    assert [item.line for item in items if isinstance(item, BadLine)] == [4, 5, 6]
    assert tasks_in(path) == ["two\nlines", "last"]


def test_a_row_that_is_no_csv_is_a_bad_line(folder: Path) -> None:
    path = written(folder, "odd.csv", b"task\nline\rend\nlast\n")
    assert [type(item) for item in read(path)] == [BadLine, Task]
    assert count_tasks(path) == 2


def test_ids_and_answers_are_columns(folder: Path) -> None:
    path = written(folder, "c.csv", "id,task,expected\nx,What?,42\n,Why?,\n")
    first, second = read(path)
    assert first == Task("What?", "x", None, None, "42")
    assert isinstance(second, Task) and str(second.id).startswith("3-")


def test_a_csv_file_without_the_column_task_says_which_there_are(folder: Path) -> None:
    with pytest.raises(CallerError, match="no column \"task\"; its columns are 'question', 'n'"):
        read(written(folder, "d.csv", "question,n\na,1\n"))
    assert read(written(folder, "empty.csv", "")) == []


# --- Plain lines, formats, templates -----------------------------------------------------------------


@given(st.lists(words))
def test_any_line_is_a_task(folder: Path, lines: list[str]) -> None:
    path = written(folder, "a.txt", "\r\n".join(lines))
    assert tasks_in(path) == [line.strip() for line in lines]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_task(folder: Path) -> None:
    assert tasks_in(written(folder, "b.txt", b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")) == ["one", "two"]
    assert tasks_in(written(folder, "b.jsonl", b'\xef\xbb\xbf{"task": "one"}\r\n')) == ["one"]
    assert tasks_in(written(folder, "b.csv", b"\xef\xbb\xbftask\r\none\r\n")) == ["one"]


def test_without_an_extension_the_first_line_says_what_it_is(folder: Path) -> None:
    assert tasks_in(written(folder, "plain", "\n\nWhat is {this}?\n")) == ["What is {this}?"]
    assert tasks_in(written(folder, "json", '\n {"task": "a"}\n"b"\n')) == ["a", "b"]
    assert tasks_in(written(folder, "json", '{"task": "a"}'), "lines") == ['{"task": "a"}']
    assert read(written(folder, "nothing", "\n \n")) == []


def test_a_template_makes_tasks_of_fields_and_the_rest_are_values(folder: Path) -> None:
    path = written(folder, "e.csv", "id,city,year\n1,Oslo,1990\n2,Lima,1991\n")
    first, second = read(path, None, "How many live in {city}? {{or}}")
    assert first == Task("How many live in Oslo? {or}", "1", {"year": "1990"})
    assert isinstance(second, Task) and second.id == "2"


@pytest.mark.parametrize("template", ["{city.upper}", "{0}", "{}", "{city", "{city[0]}"])
def test_a_template_that_is_more_than_names_is_refused(folder: Path, template: str) -> None:
    with pytest.raises(CallerError, match="template"):
        read(written(folder, "f.csv", "city\nOslo\n"), None, template)


def test_a_field_that_a_template_misses_makes_a_bad_line(folder: Path) -> None:
    path = written(folder, "h.jsonl", '{"city": "Oslo"}\n{"town": "Lima"}\n')
    first, second = read(path, None, "Where is {city}?")
    assert isinstance(first, Task)
    assert second == BadLine(2, "The template needs the field 'city'; there is none.")


def test_lines_of_a_pipe_come_one_by_one() -> None:
    source, sink = os.pipe()
    tasks = read_tasks(source)
    os.write(sink, b"first\nsec")
    assert as_task(next(tasks)).task == "first"
    threading.Thread(target=os.write, args=(sink, b"ond\n")).start()
    assert as_task(next(tasks)).task == "second"
    os.close(sink)
    assert list(tasks) == []
    os.close(source)


def test_a_line_longer_than_what_is_read_at_once_stays_whole(folder: Path) -> None:
    long = "x" * 700_000
    assert tasks_in(written(folder, "long.txt", f"{long}\nshort\n{long}")) == [long, "short", long]
