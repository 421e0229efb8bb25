"""What a model works out before it acts, whichever way it acts: what is asked, and which tools would tell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from manyhands.testing.solver.lookups import (
    SPECIAL_TOOLS,
    Planned,
    fill,
    find_lookups,
    plan_call,
    words_of,
)
from manyhands.testing.solver.puzzles import Lookup, Puzzle, find_puzzle, named_expression_in
from manyhands.testing.solver.transcript import literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.testing.solver.transcript import ToolView, Transcript

# One failure may be a passing one; after a second of the same task a model tries something else: to stop.
PATIENCE = 2
_MANAGED = re.compile(r"\n---\n(?:Task:\s*\n)?(.*?)\n---", re.DOTALL)
_HEADING = re.compile(r"^#{2,3}\s.*$", re.MULTILINE)
_EARLIER = re.compile(r"\b(first|previous|last|earlier) (?:task|question)", re.IGNORECASE)
_VARIABLE = re.compile(r"['\"`]?\b([A-Za-z_]\w*)\b['\"`]?\s*[:=]")
_GREETING = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|day|evening)|greetings)\b", re.IGNORECASE)
_ADDRESSED = re.compile(r"^\W*(?:ask|call|use) \w+(?: to| for| with| about)? ?", re.IGNORECASE)
_THAT = r"(?:that|it|this|the (?:previous |last )?(?:result|answer|number))"
_FOLLOW_UPS = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (rf"\bmultiply {_THAT} by (\d+(?:\.\d+)?)", "{0} * {1}"),
        (rf"\bdivide {_THAT} by (\d+(?:\.\d+)?)", "{0} / {1}"),
        (rf"\badd (\d+(?:\.\d+)?) to {_THAT}", "{0} + {1}"),
        (rf"\bsubtract (\d+(?:\.\d+)?) from {_THAT}", "{0} - {1}"),
        (rf"{_THAT} (?:plus|\+) (\d+(?:\.\d+)?)", "{0} + {1}"),
        (rf"{_THAT} (?:minus|-) (\d+(?:\.\d+)?)", "{0} - {1}"),
        (rf"{_THAT} (?:times|\*) (\d+(?:\.\d+)?)", "{0} * {1}"),
        (rf"\b(?:double|twice) {_THAT}", "{0} * 2"),
    )
)


def understand(transcript: Transcript) -> Puzzle | None:
    """Return how the task can be solved, whether a user gave it or a manager.

    Args:
        transcript: The conversation so far.
    """
    task = inner_task(transcript.task)
    follow_up = _follow_up(task, transcript)
    if follow_up is not None:
        return follow_up
    named = named_expression_in(task, set(_VARIABLE.findall(transcript.below))) if transcript.below else None
    if named is not None:
        return Puzzle("I will compute it from the given variables.", f"result = {named}")
    return recognise(task)


def recognise(task: str) -> Puzzle | None:
    """Return how a task can be solved if nothing but its words is known.

    Args:
        task: The task in plain words.
    """
    lookups = find_lookups(task)
    if lookups is not None and not lookups.joins:
        return lookups
    # "What is the average of 3 and 5" has the form of a plain look-up but needs none.
    return find_puzzle(task) or lookups


def plan(puzzle: Puzzle, transcript: Transcript) -> tuple[Puzzle, list[Planned]] | None:
    """Return a puzzle with the calls for its look-ups, or ``None`` if no tool can do them.

    A team member is given the whole task: it can compute as well as look up.

    Args:
        puzzle: What was understood.
        transcript: Where the tools are.
    """
    tools = transcript.tools
    calls = [plan_call(lookup, tools.values()) for lookup in puzzle.lookups]
    planned = [call for call in calls if call is not None]
    if len(planned) < len(calls):
        return None
    member = next((call.tool for call in planned if "task" in tools[call.tool].parameters), None)
    if member is None:
        return puzzle, planned
    task = inner_task(transcript.task)
    whole = Puzzle("This is work for my team.", "result = first", (Lookup("answer", task),), joins=True)
    return whole, [Planned(member, fill(tools[member], task))]


def inner_task(task: str) -> str:
    """Return the task itself, without what a manager wrote around it.

    Args:
        task: The task as it came.
    """
    managed = _MANAGED.search(task)
    return managed.group(1).strip() if managed else task


def _follow_up(task: str, transcript: Transcript) -> Puzzle | None:
    asked = _EARLIER.search(task)
    if asked and transcript.earlier_tasks:
        earlier = transcript.earlier_tasks[0 if asked.group(1).lower() == "first" else -1]
        return Puzzle("I remember it.", f"result = {earlier!r}")
    if transcript.previous_answer is None:
        return None
    answer = repr(literal(transcript.previous_answer))
    for pattern, code in _FOLLOW_UPS:
        match = pattern.search(task)
        if match:
            expression = code.format(answer, *match.groups())
            return Puzzle("I will go on from the last answer.", f"result = {expression}")
    return None


def named_calls(transcript: Transcript) -> list[Planned]:
    """Return calls of the tools that the task names, in its order, with the texts and numbers it quotes.

    Args:
        transcript: The conversation so far.
    """
    task = inner_task(transcript.task)
    named = [tool for tool in transcript.tools.values() if tool.name in task and _is_named(tool.name, task)]
    named.sort(key=lambda tool: task.index(tool.name))
    return [Planned(tool.name, _given(tool, task)) for tool in named]


def _is_named(name: str, task: str) -> bool:
    if name in SPECIAL_TOOLS:
        return False
    # A plain English word such as "search" is only a name where it is used like one.
    used = re.search(rf"`{name}`|\b{name}\(|\b(?:call|use|ask) {name}\b", task, re.IGNORECASE)
    return used is not None or ("_" in name and re.search(rf"\b{name}\b", task) is not None)


def resembling_calls(transcript: Transcript) -> list[Planned]:
    """Return a call of the tool whose name shares the most words with the task, if any does.

    Args:
        transcript: The conversation so far.
    """
    task = inner_task(transcript.task)
    wanted = words_of(task)
    candidates = [tool for tool in transcript.tools.values() if tool.name not in SPECIAL_TOOLS]
    best = max(candidates, key=lambda tool: len(words_of(tool.name) & wanted), default=None)
    if best is None or not words_of(best.name) & wanted:
        return []
    return [Planned(best.name, _given(best, task))]


def _given(tool: ToolView, task: str) -> dict[str, Any]:
    """Return arguments from a task's quoted texts and numbers, or the task itself."""
    quoted = [single or double for single, double in re.findall(r"'([^']*)'|\"([^\"]*)\"", task)]
    numbers = [literal(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", task)]
    arguments = fill(tool, _ADDRESSED.sub("", task))
    for name in arguments:
        kind = tool.parameters.get(name, {}).get("type")
        if quoted and kind in ("string", "any"):
            arguments[name] = quoted.pop(0)
        elif numbers and kind in ("integer", "number", "any"):
            arguments[name] = numbers.pop(0)
    return arguments


def final_form(value: Any, transcript: Transcript) -> Any:
    """Return a final answer, as a report if a manager asks for one.

    Args:
        value: The answer.
        transcript: The conversation so far.
    """
    if not _MANAGED.search(transcript.task):
        return value
    outcome = f"The task was: {inner_task(transcript.task)} The outcome is {value}."
    headings = _HEADING.findall(transcript.task)
    parts = zip(headings, (str(value), outcome, "Nothing to add."), strict=False)
    return "\n".join(f"{heading}\n{body}" for heading, body in parts) or value


def in_words(transcript: Transcript) -> str:
    """Return an answer to a task that needs neither code nor tools.

    Args:
        transcript: The conversation so far.
    """
    task = " ".join(inner_task(transcript.task).split())
    return greeting(task) or f"Done: {task[:200]}"


def greeting(text: str) -> str | None:
    """Return a greeting for a greeting.

    Args:
        text: What the user said.
    """
    return "Hello! How can I help you?" if _GREETING.search(text) else None


def no_tool(puzzle: Puzzle) -> str:
    """Return the admission that no tool can look up what is asked.

    Args:
        puzzle: What was understood.
    """
    wanted = " and ".join(f"the {lookup.attribute} of {lookup.subject}" for lookup in puzzle.lookups)
    return f"I have no tool to look up {wanted}."


def cannot_compute(known: Sequence[str]) -> str:
    """Return the admission that no tool can compute what is asked.

    Args:
        known: Values that could be looked up.
    """
    found = f" I found {' and '.join(known)}." if known else ""
    return f"I have no tool to compute this.{found}"


def give_up(transcript: Transcript) -> str:
    """Return what went wrong, in one line.

    Args:
        transcript: The conversation so far, with its errors.
    """
    lines = transcript.errors[-1].splitlines()
    return f"I could not find the answer: {lines[0][:300] if lines else 'an error without a text'}"


def best_known(transcript: Transcript) -> Any:
    """Return the latest thing seen, when there is no step left to find more.

    Args:
        transcript: The conversation so far.
    """
    if transcript.shown is None:
        return "I could not find the answer in the steps I had."
    return literal(transcript.shown)
