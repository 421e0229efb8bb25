"""The tool-calling agent's side: the next round of calls, or the call of ``final_answer``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from manyhands.testing.solver.lookups import Planned, fill, words_of
from manyhands.testing.solver.puzzles import VALUE_NAMES, Puzzle
from manyhands.testing.solver.thinking import (
    PATIENCE,
    best_known,
    cannot_compute,
    final_form,
    give_up,
    in_words,
    inner_task,
    named_calls,
    no_tool,
    plan,
    resembling_calls,
    understand,
)
from manyhands.testing.solver.transcript import literal, printed
from manyhands.testing.wire import Call, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.testing.solver.transcript import Seen, ToolView, Transcript
    from manyhands.testing.wire import ChatRequest

_CALCULATORS = frozenset({"calculate", "calculator", "calc", "evaluate", "compute", "math", "arithmetic"})
_OPERATIONS = {
    "+": {"add", "plus", "sum", "addition"},
    "-": {"subtract", "minus", "difference", "subtraction"},
    "*": {"multiply", "times", "product", "multiplication"},
    "/": {"divide", "quotient", "division"},
}
_BINARY = re.compile(r"(-?\d+(?:\.\d+)?) ?([-+*/]) ?(-?\d+(?:\.\d+)?)$")


def next_calls(transcript: Transcript, request: ChatRequest) -> Reply:
    """Return the next round of tool calls.

    Args:
        transcript: The conversation so far.
        request: What the client asked, for its ``tool_choice``.
    """
    if request.tool_choice not in ("auto", "required"):
        return Reply(calls=[_forced(transcript, request.tool_choice)])
    if len(transcript.errors) >= PATIENCE:
        return _conclude(transcript, request, give_up(transcript))
    puzzle = understand(transcript)
    named = named_calls(transcript)
    if puzzle is None or named:
        return _call_anyhow(transcript, request, named)
    plans = plan(puzzle, transcript)
    if plans is None:
        return _conclude(transcript, request, no_tool(puzzle))
    puzzle, calls = plans
    known, still_open = _sorted_out(calls, transcript)
    return _calls(still_open) if still_open else _compute(puzzle, known, transcript, request)


def _sorted_out(calls: Sequence[Planned], transcript: Transcript) -> tuple[list[str], list[Planned]]:
    """Return the results that are there already, and the calls still to be made."""
    results = [_result_of(call, transcript.calls) for call in calls]
    still_open = [call for call, result in zip(calls, results, strict=True) if result is None]
    return [result for result in results if result is not None], still_open


def _compute(puzzle: Puzzle, known: list[str], transcript: Transcript, request: ChatRequest) -> Reply:
    """Return the call that computes with the values looked up, or the final answer."""
    if puzzle.joins:
        return _conclude(transcript, request, literal(known[0]) if len(known) == 1 else " and ".join(known))
    call = _computing_call(puzzle, known, transcript.tools)
    if call is None:
        return _conclude(transcript, request, cannot_compute(known))
    value = _result_of(call, transcript.calls)
    return _calls([call]) if value is None else _conclude(transcript, request, literal(value))


def _computing_call(puzzle: Puzzle, known: Sequence[str], tools: dict[str, ToolView]) -> Planned | None:
    values = dict(zip(VALUE_NAMES, (repr(literal(value)) for value in known), strict=False))
    interpreter = tools.get("python_interpreter")
    if interpreter is not None and interpreter.parameters:
        lines = [f"{name} = {value}" for name, value in values.items()]
        code = "\n".join([*lines, puzzle.code, "print(result)"])
        return Planned(interpreter.name, {next(iter(interpreter.parameters)): code})
    if puzzle.expression is None:
        return None
    expression = re.sub(r"\b[a-z]+\b", lambda word: values.get(word.group(), word.group()), puzzle.expression)
    return _calculation(expression, tools)


def _calculation(expression: str, tools: dict[str, ToolView]) -> Planned | None:
    """Return the call of a calculator, or of a tool for the one operation in the expression."""
    pair = _BINARY.match(expression)
    for tool in tools.values():
        words = words_of(tool.name)
        kinds = [schema.get("type", "any") for schema in tool.parameters.values()]
        if words & _CALCULATORS and kinds[:1] in (["string"], ["any"]) and not re.search("[a-z]", expression):
            return Planned(tool.name, {next(iter(tool.parameters)): expression})
        if pair and len(kinds) == 2 and "string" not in kinds and words & _OPERATIONS[pair.group(2)]:
            operands = (literal(pair.group(1)), literal(pair.group(3)))
            return Planned(tool.name, dict(zip(tool.parameters, operands, strict=True)))
    return None


def _call_anyhow(transcript: Transcript, request: ChatRequest, named: list[Planned]) -> Reply:
    calls = named or resembling_calls(transcript)
    known, still_open = _sorted_out(calls, transcript)
    if still_open:
        return _calls(still_open)
    answer = literal(known[0]) if len(known) == 1 else " and ".join(known)
    return _conclude(transcript, request, answer if calls else in_words(transcript))


def _forced(transcript: Transcript, name: str) -> Call:
    """Return a call of the function that the client insists on."""
    tool = transcript.tools[name]
    if name == "final_answer":
        return Call(name, {next(iter(tool.parameters), "answer"): best_known(transcript)})
    puzzle = understand(transcript)
    for lookup in puzzle.lookups if puzzle else ():
        return Call(name, fill(tool, lookup.subject))
    call = _computing_call(puzzle, (), {name: tool}) if puzzle else None
    return Call(name, call.arguments if call else fill(tool, inner_task(transcript.task)))


def _result_of(call: Planned, seen: Sequence[Seen]) -> str | None:
    for made in reversed(seen):
        if made.name == call.tool and made.arguments == call.arguments and not made.failed:
            return printed(made.result)
    return None


def _calls(planned: Sequence[Planned]) -> Reply:
    return Reply(calls=[Call(call.tool, call.arguments) for call in planned])


def _conclude(transcript: Transcript, request: ChatRequest, value: Any) -> Reply:
    """Answer through ``final_answer`` if it is there, else in words, or as the client insists."""
    tool = transcript.tools.get("final_answer")
    answer = final_form(value, transcript)
    if tool is not None:
        return Reply(calls=[Call("final_answer", {next(iter(tool.parameters), "answer"): answer})])
    if request.tool_choice == "required":
        first = next(iter(transcript.tools.values()))
        return Reply(calls=[Call(first.name, fill(first, str(answer)))])
    return Reply(str(answer))
