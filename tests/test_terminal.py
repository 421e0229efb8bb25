"""A person at a real terminal: what is shown, and what is made of what is typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are not for Windows")

PROGRAM = """
import asyncio, os, signal, sys, threading
from manyhands import CodeAgent, UserInputTool, tool
from manyhands.approvals import ApprovalPolicy
from manyhands.testing import ScriptedModel

@tool(requires_approval=True)
async def delete(path: str, count: int = 1) -> str:
    \"\"\"Delete a file.

    Args:
        path: Which one.
        count: How often.
    \"\"\"
    return f"{path} is gone {count} times"

def agent(*sources, **options):
    script = {f"task {n}": [f"<code>{source}</code>", "<code>final_answer('denied')</code>"]
              for n, source in enumerate(sources)}
    return CodeAgent([delete, UserInputTool()], ScriptedModel(script), **{"approvals": "console", **options})

async def run(task, *sources, **options):
    print("RESULT", await agent(*sources, **options).arun(task))
"""


class Person:
    """Someone at the terminal of a program."""

    def __init__(self, script: str) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + textwrap.dedent(script)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._seen = ""
        self._more = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 4096)
            except OSError:
                piece = b""
            with self._more:
                self._seen += piece.decode().replace("\r\n", "\n")
                self._over = not piece
                self._more.notify_all()
            if not piece:
                return

    def sees(self, text: str) -> str:
        """Wait until ``text`` is shown; return what was shown up to it, and look behind it from now on."""
        deadline = time.monotonic() + 40
        with self._more:
            while text not in self._seen:
                left = deadline - time.monotonic()
                assert left > 0 and not self._over, f"{text!r} was never shown, but:\n{self._seen}"
                self._more.wait(left)
            before, _, self._seen = self._seen.partition(text)
        return before + text

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def leave(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self._reader.join(20)
        os.close(self._master)


@pytest.fixture
def person_at() -> Iterator[Callable[[str], Person]]:
    people: list[Person] = []

    def sit_down(script: str) -> Person:
        people.append(Person(script))
        return people[-1]

    yield sit_down
    for person in people:
        person.leave()


def test_a_call_is_shown_and_approved(person_at: Callable[[str], Person]) -> None:
    person = person_at("asyncio.run(run('task 0', \"final_answer(delete('/etc/motd'))\"))")
    shown = person.sees("Approve? [y]es, [n]o, [e]dit: ")
    assert "CodeAgent wants to call delete" in shown
    assert '  path: "/etc/motd"\n' in shown
    assert "(The tool 'delete' asks for approval.)" in shown
    person.types("what?\n")
    person.sees("Approve? [y]es, [n]o, [e]dit: ")
    person.types("Y\n")
    person.sees("RESULT /etc/motd is gone 1 times")
    assert person.process.wait(20) == 0


def test_a_denial_says_why(person_at: Callable[[str], Person]) -> None:
    person = person_at(
        """
        source = "try:\\n    x = delete('a')\\nexcept Exception as e:\\n    x = e\\nfinal_answer(str(x))"
        asyncio.run(run('task 0', source))
        """
    )
    person.sees("Approve? ")
    person.types("no\n")
    person.sees("Why? (Enter for no reason): ")
    person.types("not today\n")
    person.sees("RESULT The call of 'delete' was denied: not today")


def test_arguments_are_edited_until_they_fit(person_at: Callable[[str], Person]) -> None:
    person = person_at("asyncio.run(run('task 0', \"final_answer(delete('a', count=2))\"))")
    person.sees("Approve? ")
    person.types("e\n")
    person.sees("  path: ")
    person.types("b\n")
    person.sees("  count: ")
    person.types("many\n")
    shown = person.sees("Approve? ")
    assert "argument 'count' is 'many'" in shown
    assert "Nothing is approved yet." in shown
    assert 'path: "a"' in shown
    person.types("e\n")
    person.sees("  path: ")
    person.types("\n")
    person.sees("  count: ")
    person.types("7\n")
    person.sees("RESULT a is gone 7 times")


def test_what_was_typed_ahead_approves_nothing(person_at: Callable[[str], Person]) -> None:
    person = person_at(
        """
        print("READY", flush=True)
        sys.stdin.readline()
        asyncio.run(run('task 0', "final_answer(delete('a'))"))
        """
    )
    person.sees("READY")
    person.types("go\ny\n")
    person.sees("Approve? ")
    person.types("n\n")
    person.sees("Why?")
    person.types("\n")
    person.sees("RESULT denied")


def test_what_the_model_wrote_cannot_play_tricks_with_the_terminal(
    person_at: Callable[[str], Person],
) -> None:
    person = person_at(
        r"""
        source = "final_answer(delete('safe\\x1b[2K\\u202e\\x9b1A\\nrm -rf /\\x1b[1A'))"
        asyncio.run(run('task 0', source))
        """
    )
    shown = person.sees("Approve? ")
    assert "    | safe\\x1b[2K\\u202e\\x9b1A\n    | rm -rf /\\x1b[1A\n" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_people_are_asked_one_at_a_time_and_everything_else_goes_on(
    person_at: Callable[[str], Person],
) -> None:
    person = person_at(
        """
        async def main():
            sources = "final_answer(delete('a'))", "final_answer(user_input('Colour?'))", "final_answer(9)"
            async for result in agent(*sources).amap(["task 0", "task 1", "task 2"]):
                print("RESULT", result.output, threading.active_count(), flush=True)
        asyncio.run(main())
        """
    )
    shown = person.sees("RESULT 9 ")
    assert shown.count("Approve? ") + shown.count("Colour?") == 1
    assert int(person.sees("\n")) <= 2  # threads: the main one, and the watchdog of generated code
    if "Approve? " in shown:
        person.types("y\n")
        shown = person.sees("Colour? => Type your answer here: ")
        person.types("blue\n")
    else:
        person.types("blue\n")
        shown = person.sees("Approve? ")
        person.types("y\n")
    person.sees("RESULT")
    assert person.process.wait(20) == 0


def test_the_end_of_input_denies(person_at: Callable[[str], Person]) -> None:
    person = person_at("asyncio.run(run('task 0', \"final_answer(delete('a'))\"))")
    person.sees("Approve? ")
    person.types("\x04")
    person.sees("RESULT denied")


def test_an_answer_from_elsewhere_takes_the_question_back(person_at: Callable[[str], Person]) -> None:
    person = person_at(
        """
        async def main():
            answer = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, answer.set)
            first, second = agent("final_answer(delete('a'))"), agent("final_answer(delete('b'))")
            run = first.arun("task 0")
            work = asyncio.create_task(run)
            await answer.wait()
            (request,) = run.pending.values()
            request.approve()
            print("RESULT", await work, flush=True)
            print("RESULT", await second.arun("task 0"))
        asyncio.run(main())
        """
    )
    person.sees("Approve? [y]es, [n]o, [e]dit: ")
    person.types("n")  # not sent off yet
    person.process.send_signal(signal.SIGUSR1)
    person.sees("(No longer asked.)")
    person.sees("RESULT a is gone 1 times")
    person.sees("Approve? [y]es, [n]o, [e]dit: ")
    person.types("y\n")
    person.sees("RESULT b is gone 1 times")


def test_ctrl_c_ends_a_run_that_asks(person_at: Callable[[str], Person]) -> None:
    person = person_at(
        """
        try:
            agent("final_answer(delete('a'))", verbosity_level=-1).run("task 0")
        except KeyboardInterrupt:
            print("INTERRUPTED", flush=True)
        """
    )
    person.sees("Approve? ")
    person.process.send_signal(signal.SIGINT)
    person.sees("INTERRUPTED")


def answered_from(text: str | None, script: str) -> str:
    """Run a program whose standard input is a pipe, or nothing at all."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(script)],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_answers_may_come_from_a_pipe() -> None:
    shown = answered_from(
        "y\nn\n\n", "asyncio.run(run('task 0', \"delete('a')\\nfinal_answer(delete('b'))\"))"
    )
    assert shown.count("Approve? ") == 2
    assert "RESULT denied" in shown


def test_where_nobody_is_there_calls_are_denied() -> None:
    script = "asyncio.run(run('task 0', \"final_answer(delete('a'))\"))"
    assert "RESULT denied" in answered_from(None, script)
    sync = "print('RESULT', agent(\"final_answer(delete('a'))\", verbosity_level=-1).run('task 0'))"
    assert "RESULT denied" in answered_from(None, sync)
