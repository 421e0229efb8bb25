"""Every example runs, and shows what it promises."""

from __future__ import annotations

import re
from pathlib import Path

from tests.examples.running import EXAMPLES, run_example, shown_by

_NO_PROGRAMS = {"_model", "lookup_tools", "make_tasks"}


def test_every_example_is_run_by_a_test_and_listed_in_the_readme() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    listed = (EXAMPLES / "README.md").read_text()
    names = {path.stem for path in EXAMPLES.glob("*.py")} - _NO_PROGRAMS
    assert names
    assert {name for name in names if f'"{name}"' not in tests} == set()
    assert {name for name in names if f"{name}.py" not in listed} == set()


def test_a_model_answers_whole_and_in_pieces() -> None:
    whole, pieces = shown_by("async_model").splitlines()
    assert whole == pieces == "Hello! How can I help you?"


def test_a_run_is_awaited_and_iterated() -> None:
    first, *events = shown_by("async_agent").splitlines()
    assert first == "4"
    assert events[0].startswith("Step: ToolCall(")
    assert events[-1] == "Step: FinalAnswerStep(output=50)"


def test_separate_agents_answer_each_task() -> None:
    assert shown_by("separate_agents").splitlines() == [
        "What is 2 + 2? = 4",
        "What is 10 * 5? = 50",
        "What is 100 / 4? = 25.0",
    ]


def test_one_agent_serves_many_runs_without_mixing_them() -> None:
    shown = shown_by("shared_agent")
    assert "What is 10 * 5? = 50" in shown
    assert "200 runs of one agent at once: 0 mixed up" in shown
    assert "200 memories" in shown


def test_ten_agents_at_once_are_several_times_faster() -> None:
    speedup = re.search(r"Speedup: ([\d.]+)x", shown_by("compare_performance"))
    assert speedup is not None
    assert float(speedup.group(1)) > 4


def test_before_and_after_migration_give_the_same_answer() -> None:
    shown = shown_by("migration")
    assert "Final answer: 4" in shown
    assert shown.splitlines()[-1] == "4"


def test_a_semaphore_and_map_limit_the_runs() -> None:
    by_semaphore, by_map = shown_by("run_with_limit").splitlines()
    squares = [number * number for number in range(1, 13)]
    assert by_semaphore == str(squares)
    assert sorted(map(int, by_map.split())) == squares


def test_errors_say_what_went_wrong_and_know_their_run() -> None:
    lines = shown_by("error_handling").splitlines()
    assert lines[0] == "Result: 4"
    assert lines[1] == "Out of time: The run took longer than its limit of 0.05 seconds."
    assert lines[2].startswith("Error: ")
    assert lines[3].startswith("AuthenticationError after ")
    assert lines[4:] == ["What is 1 + 1? -> AuthenticationError", "What is 2 + 2? -> AuthenticationError"]


def test_a_person_is_waited_for_while_other_runs_finish() -> None:
    lines = shown_by("human_approval").splitlines()
    assert set(lines[:2]) == {"What is 2 + 2? -> 4", "What is 10 * 5? -> 50"}
    assert lines[2].startswith("Person: I was asked for 'approval:")
    assert lines[3] == "Delete important file with approval -> approved"


def test_calls_are_approved_changed_and_denied() -> None:
    assert shown_by("approvals").splitlines() == [
        "Delete the logs: Done: old.log is deleted",
        "Delete the notes: Done: notes.bak is deleted",
        "Clean the system: I left it alone.",
    ]


def test_generated_code_calls_async_tools_without_await() -> None:
    answers = [line for line in shown_by("generated_code").splitlines() if line.startswith("->")]
    assert answers == [
        "-> delete file: approved",
        "-> read: approved, write: approved; write: approved",
        "-> ['file 0: approved', 'file 1: approved', 'file 2: approved']",
    ]


def test_a_tool_asks_a_web_service() -> None:
    shown = shown_by("external_api")
    assert "How many people live in Peru? 34352719" in shown
    assert "12 runs" in shown


def test_sync_and_async_tools_work_side_by_side() -> None:
    lines = shown_by("mixed_tools").splitlines()
    assert lines[:3] == [
        "What are the capitals of Norway and Peru? Oslo and Lima",
        "How many more people live in Peru than in Norway? 28878359",
        "How many letters are in the capital of Norway? 4",
    ]
    assert lines[3] == "What are the capitals of Norway and Peru? Oslo and Lima"
    lateness = re.search(r"(\d+) ms", lines[4])
    assert lateness is not None
    assert int(lateness.group(1)) < 250


def test_the_registry_limits_sync_and_async_runs() -> None:
    lines = shown_by("concurrency_registry").splitlines()
    assert lines[0] == lines[1] == "Done: Research Mars exploration"
    assert lines[2] == "8 tasks at once, at most 2 of them inside"


def test_acquire_sync_on_a_running_loop_says_what_to_do() -> None:
    refused, *worked = shown_by("sync_async_rule").splitlines()
    assert refused == (
        "RuntimeError: acquire_sync('agent') cannot be called with a running event loop; "
        "use async acquire() in async contexts."
    )
    assert worked == ["Sync: Done: task", "Async: Done: task"]


def test_a_slow_tool_is_given_up_at_its_limit() -> None:
    finished = run_example("tool_timeout")
    shown = finished.stdout
    assert "get_slow_weather of agent Hasty timed out" in finished.stderr
    assert "Sunny in Tokyo, 22 degrees" in shown
    assert "Tool timed out after 0.5s" in shown
    assert "five seconds ago" not in shown


def test_tools_are_chosen_by_name_under_one_limit() -> None:
    shown = shown_by("timeout_selection")
    assert "file_processor has worked on 'report.txt'" in shown
    assert "format_text has worked on 'hello'" in shown


def test_only_a_shared_registry_limits() -> None:
    assert shown_by("throttled_agent").splitlines() == [
        "Done: Study quantum computing",
        "A registry for each use, limit 2: 8 at once",
        "One registry for all, limit 2: 2 at once",
    ]


def test_threads_carry_the_name_of_their_agent() -> None:
    finished = run_example("thread_names")
    assert finished.stdout.splitlines() == ["['Oslo', 'Lima']"]
    logged = sorted(finished.stderr.splitlines())
    assert re.fullmatch(r"tool-researcher\S*: looking up Norway", logged[0])
    assert re.fullmatch(r"tool-writer\S*: looking up Peru", logged[1])


def test_telemetry_shows_spans_metrics_and_logs_of_each_run() -> None:
    shown = shown_by("telemetry")
    assert shown.count('"agent": "calculator"') == shown.count('"trace_id": ') == 20
    assert re.search(r"20 x invoke_agent calculator", shown)
    assert re.search(r"15 x wait slot", shown)
    assert re.search(r"manyhands.steps +40.00 {step}", shown)


def test_what_agents_do_can_be_watched_and_read_afterwards() -> None:
    shown = shown_by("watching")
    assert "│ Final answer: 391" in shown and "│ Final answer: 42" in shown
    assert "20 in flight" in shown and "20 succeeded" in shown
    assert "4 of 4 taken, 16 wait" in shown
    assert "└── Answer: 42" in shown
    assert "\x1b" not in shown


def test_code_in_a_process_sees_no_key_and_no_file_and_calls_tools() -> None:
    shown = shown_by("isolated_code")
    assert shown.startswith("{'largest': 'Lima', 'together': 19900000}\n")
    assert "Key: None\n" in shown and "a secret" not in shown
    assert shown.splitlines()[-1] == "12 runs through 4 processes, 1 answer"
