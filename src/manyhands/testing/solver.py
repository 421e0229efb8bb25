"""The built-in policy of the simulated provider: what a careful model would say next.

It sees a request and nothing else, and keeps nothing between requests. It writes the code or the tool calls that
solve a task, and answers with what they have shown. It never works out a result by itself, so a demo's answers
are the work of the agent.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from manyhands.testing.lookups import SPECIAL_TOOLS, Planned, fill, find_lookups, plan_call, sample, words_of
from manyhands.testing.puzzles import VALUE_NAMES, Puzzle, find_puzzle, named_expression_in
from manyhands.testing.transcript import literal, printed, read
from manyhands.testing.wire import Call, Reply, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manyhands.testing.transcript import Seen, ToolView, Transcript
    from manyhands.testing.wire import ChatRequest

# One failure may be a passing one; after a second of the same task a model tries something else: to stop.
_PATIENCE = 2
_END_PLAN = "<end_plan>"
_MANAGED = re.compile(r"\n---\n(?:Task:\s*\n)?(.*?)\n---", re.DOTALL)
_FENCED_TASK = re.compile(r"task:\s*\n```\n(.*?)\n```", re.DOTALL | re.IGNORECASE)
_HEADING = re.compile(r"^#{2,3}\s.*$", re.MULTILINE)
_THAT = r"(?:that|it|this|the (?:previous |last )?(?:result|answer|number))"
_FOLLOW_UPS = (
    (re.compile(rf"\bmultiply {_THAT} by (\d[\d.]*)", re.IGNORECASE), "{0} * {1}"),
    (re.compile(rf"\bdivide {_THAT} by (\d[\d.]*)", re.IGNORECASE), "{0} / {1}"),
    (re.compile(rf"\badd (\d[\d.]*) to {_THAT}", re.IGNORECASE), "{0} + {1}"),
    (re.compile(rf"\bsubtract (\d[\d.]*) from {_THAT}", re.IGNORECASE), "{0} - {1}"),
    (re.compile(rf"{_THAT} (?:plus|\+) (\d[\d.]*)", re.IGNORECASE), "{0} + {1}"),
    (re.compile(rf"{_THAT} (?:minus|-) (\d[\d.]*)", re.IGNORECASE), "{0} - {1}"),
    (re.compile(rf"{_THAT} (?:times|\*) (\d[\d.]*)", re.IGNORECASE), "{0} * {1}"),
    (re.compile(rf"\b(?:double|twice) {_THAT}", re.IGNORECASE), "{0} * 2"),
)
_EARLIER = re.compile(r"\b(first|previous|last|earlier) (?:task|question)", re.IGNORECASE)
_VARIABLE = re.compile(r"['\"`]?\b([A-Za-z_]\w*)\b['\"`]?\s*[:=]")
_CALCULATORS = frozenset({"calculate", "calculator", "calc", "evaluate", "compute", "math", "arithmetic"})
_OPERATIONS = {
    "+": {"add", "plus", "sum", "addition"},
    "-": {"subtract", "minus", "difference", "subtraction"},
    "*": {"multiply", "times", "product", "multiplication"},
    "/": {"divide", "quotient", "division"},
}
_BINARY = re.compile(r"(-?\d+(?:\.\d+)?) ?([-+*/]) ?(-?\d+(?:\.\d+)?)$")
_GREETING = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|day|evening)|greetings)\b", re.IGNORECASE)
_STORY = re.compile(r"\b(?:story|poem|essay|write|tell me about|describe|explain)\b", re.IGNORECASE)
_A_STORY = (
    "There was once a mill that a hundred hands could turn. Alone, each hand was tired before noon. "
    "Together they ground the whole harvest between breakfast and lunch, and nobody could say afterwards "
    "whose hand had done it. The miller wrote it over the door, and it is there to this day."
)


def solve(request: ChatRequest) -> Reply:
    """Say what a model would say next.

    Args:
        request: The conversation so far, with tools if there are any.

    Returns:
        Code, tool calls or words.
    """
    last = text_of(request.messages[-1])
    if _END_PLAN in last or _END_PLAN in request.stop:
        return Reply(_make_plan(request, last))
    transcript = read(request)
    if request.tools and request.tool_choice != "none":
        return _with_tools(transcript, request)
    if "provide an answer" in last.lower():
        return Reply(_last_word(transcript))
    if (request.response_format or {}).get("type") == "json_schema":
        return Reply(json.dumps(_structured(transcript, request.response_format or {})))
    if transcript.tags:
        thought, code = _next_code(transcript)
        opening, closing = transcript.tags
        return Reply(f"Thought: {thought}\n{opening}\n{code}\n{closing}")
    return Reply(_small_talk(request, transcript))


def _understand(transcript: Transcript) -> Puzzle | None:
    """Return how the task can be solved, whether given by a user or by a manager."""
    task = _inner_task(transcript.task)
    follow_up = _follow_up(task, transcript)
    if follow_up is not None:
        return follow_up
    named = named_expression_in(task, set(_VARIABLE.findall(transcript.below))) if transcript.below else None
    if named is not None:
        return Puzzle("I will compute it from the given variables.", f"result = {named}")
    lookups = find_lookups(task)
    # A question such as "the average of 3 and 5" has the form of a look-up but needs none.
    return find_puzzle(task) or lookups if lookups is None or lookups.joins else lookups


def _inner_task(task: str) -> str:
    managed = _MANAGED.search(task)
    return managed.group(1).strip() if managed else task


def _follow_up(task: str, transcript: Transcript) -> Puzzle | None:
    asked = _EARLIER.search(task)
    if asked and transcript.earlier_tasks:
        earlier = transcript.earlier_tasks[0 if asked.group(1).lower() == "first" else -1]
        return Puzzle("I remember it.", f"result = {earlier!r}")
    if transcript.previous_answer is None:
        return None
    for pattern, code in _FOLLOW_UPS:
        match = pattern.search(task)
        if match:
            return Puzzle(
                "I will go on from the last answer.",
                f"result = {code.format(transcript.previous_answer, *match.groups())}",
            )
    return None


# Code agents


def _structured(transcript: Transcript, response_format: dict[str, Any]) -> Any:
    schema = response_format["json_schema"]["schema"]
    if not {"thought", "code"} <= set(schema.get("properties") or ()):
        return sample(schema)
    thought, code = _next_code(transcript)
    return {"thought": thought, "code": code}


def _next_code(transcript: Transcript) -> tuple[str, str]:
    """Return what a code agent thinks and writes next."""
    if transcript.observed is not None and not _failed_last(transcript):
        value = literal(transcript.observed)
        return "I have the result and can answer.", f"final_answer({_answer(value, transcript)!r})"
    if len(transcript.errors) >= _PATIENCE:
        return "This does not work, so I say so.", f"final_answer({_give_up(transcript)!r})"
    puzzle = _understand(transcript)
    named = _named_calls(transcript)
    if puzzle is None or named:
        return _act_anyhow(transcript, named)
    calls = [plan_call(lookup, transcript.tools.values()) for lookup in puzzle.lookups]
    if any(call is None for call in calls):
        return "None of my tools can do this.", f"final_answer({_no_tool(puzzle)!r})"
    lines = [f"{name} = {_as_code(call)}" for name, call in zip(VALUE_NAMES, calls, strict=False) if call]
    return puzzle.thought, "\n".join([*lines, puzzle.code, "print(result)"])


def _failed_last(transcript: Transcript) -> bool:
    # An observation is kept when a later step fails; then it is not what the last step showed.
    return bool(transcript.errors) and transcript.observed is None


def _act_anyhow(transcript: Transcript, named: list[Planned]) -> tuple[str, str]:
    """Return code for a task without a known form: the tools it names or resembles, or words."""
    calls = named or _resembling(transcript)
    if calls:
        lines = [f"result_{number} = {_as_code(call)}" for number, call in enumerate(calls, 1)]
        shown = ", ".join(f"result_{number}" for number in range(1, len(calls) + 1))
        return "One of my tools fits.", "\n".join([*lines, f"print({shown})"])
    return "I can answer this directly.", f"final_answer({_answer(_in_words(transcript), transcript)!r})"


def _as_code(call: Planned) -> str:
    return f"{call.tool}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


# Tool-calling agents


def _with_tools(transcript: Transcript, request: ChatRequest) -> Reply:
    """Return the next round of tool calls."""
    if request.tool_choice not in ("auto", "required"):
        return Reply(calls=[_forced(transcript, request.tool_choice)])
    if len(transcript.errors) >= _PATIENCE:
        return _conclude(transcript, request, _give_up(transcript))
    puzzle = _understand(transcript)
    named = _named_calls(transcript)
    if puzzle is None or named:
        return _call_anyhow(transcript, request, named)
    calls = [plan_call(lookup, transcript.tools.values()) for lookup in puzzle.lookups]
    planned = [call for call in calls if call is not None]
    if len(planned) < len(calls):
        return _conclude(transcript, request, _no_tool(puzzle))
    values = [_result_of(call, transcript.calls) for call in planned]
    open_calls = [call for call, value in zip(planned, values, strict=True) if value is None]
    if open_calls:
        return _calls(open_calls)
    known = [value for value in values if value is not None]
    return _compute(puzzle, known, transcript, request)


def _compute(puzzle: Puzzle, known: list[str], transcript: Transcript, request: ChatRequest) -> Reply:
    """Return the call that computes with the values looked up, or the final answer."""
    if puzzle.joins:
        return _conclude(transcript, request, literal(known[0]) if len(known) == 1 else " and ".join(known))
    call = _computing_call(puzzle, known, transcript.tools)
    if call is None:
        return _conclude(transcript, request, _cannot_compute(known))
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
    calls = named or _resembling(transcript)
    values = [_result_of(call, transcript.calls) for call in calls]
    open_calls = [call for call, value in zip(calls, values, strict=True) if value is None]
    if open_calls:
        return _calls(open_calls)
    seen = [value for value in values if value]
    answer = literal(seen[0]) if len(seen) == 1 else " and ".join(seen)
    return _conclude(transcript, request, answer if calls else _in_words(transcript))


def _forced(transcript: Transcript, name: str) -> Call:
    """Return a call of the function that the client insists on."""
    tool = transcript.tools[name]
    if name == "final_answer":
        return Call(name, {next(iter(tool.parameters), "answer"): _best_known(transcript)})
    puzzle = _understand(transcript)
    for lookup in puzzle.lookups if puzzle else ():
        return Call(name, fill(tool, lookup.subject))
    call = _computing_call(puzzle, (), {name: tool}) if puzzle else None
    return Call(name, call.arguments if call else fill(tool, _inner_task(transcript.task)))


def _result_of(call: Planned, seen: Sequence[Seen]) -> str | None:
    for made in reversed(seen):
        if made.name == call.tool and made.arguments == call.arguments and not made.failed:
            return made.result
    return None


def _calls(planned: Sequence[Planned]) -> Reply:
    return Reply(calls=[Call(call.tool, call.arguments) for call in planned])


def _conclude(transcript: Transcript, request: ChatRequest, value: Any) -> Reply:
    """Answer through ``final_answer`` if it is there, else in words, or as the client insists."""
    tool = transcript.tools.get("final_answer")
    answer = _answer(value, transcript)
    if tool is not None:
        return Reply(calls=[Call("final_answer", {next(iter(tool.parameters), "answer"): answer})])
    if request.tool_choice == "required":
        first = next(iter(transcript.tools.values()))
        return Reply(calls=[Call(first.name, fill(first, str(answer)))])
    return Reply(str(answer))


# Both


def _named_calls(transcript: Transcript) -> list[Planned]:
    """Return calls of the tools that the task names, with the quoted texts and numbers it gives them."""
    task = _inner_task(transcript.task)
    found = [
        (match.start(), tool)
        for tool in transcript.tools.values()
        if tool.name not in SPECIAL_TOOLS and (match := re.search(rf"\b{re.escape(tool.name)}\b", task))
    ]
    calls = []
    for _, tool in sorted(found, key=lambda pair: pair[0]):
        # A plain English word such as "search" is only a name where it is used like one.
        if "_" in tool.name or re.search(rf"(?:`{tool.name}`|{tool.name}\(|\b(?:call|use|ask) {tool.name}\b)", task, re.I):
            calls.append(Planned(tool.name, _given(tool, task)))
    return calls


def _given(tool: ToolView, task: str) -> dict[str, Any]:
    texts = re.findall(r"'([^']*)'|\"([^\"]*)\"", task)
    words = [single or double for single, double in texts]
    numbers = [literal(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", task)]
    arguments = fill(tool, re.sub(rf"^\W*(?:ask|call|use) {re.escape(tool.name)}(?: to| for| with| about)? ?", "", task, flags=re.I))
    for name in arguments:
        kind = tool.parameters.get(name, {}).get("type")
        if kind in ("string", "any") and words:
            arguments[name] = words.pop(0)
        elif kind in ("integer", "number", "any") and numbers:
            arguments[name] = numbers.pop(0)
    return arguments


def _resembling(transcript: Transcript) -> list[Planned]:
    """Return a call of the tool whose name shares the most words with the task, if any does."""
    task = _inner_task(transcript.task)
    wanted = words_of(task)
    candidates = [tool for tool in transcript.tools.values() if tool.name not in SPECIAL_TOOLS]
    best = max(candidates, key=lambda tool: len(words_of(tool.name) & wanted), default=None)
    if best is None or not words_of(best.name) & wanted:
        return []
    return [Planned(best.name, _given(best, task))]


def _answer(value: Any, transcript: Transcript) -> Any:
    """Return a final answer, as a report if a manager asks for one."""
    headings = _HEADING.findall(transcript.task) if _MANAGED.search(transcript.task) else []
    if not headings:
        return value
    bodies = [str(value), f"The task was: {_inner_task(transcript.task)} The outcome is {value}.", "Nothing to add."]
    return "\n".join(f"{heading}\n{body}" for heading, body in zip(headings, bodies, strict=False))


def _in_words(transcript: Transcript) -> str:
    task = " ".join(_inner_task(transcript.task).split())
    return f"Done: {task[:200]}"


def _no_tool(puzzle: Puzzle) -> str:
    wanted = " and ".join(f"the {lookup.attribute} of {lookup.subject}" for lookup in puzzle.lookups)
    return f"I have no tool to look up {wanted}."


def _cannot_compute(known: Sequence[str]) -> str:
    found = f" I found {' and '.join(known)}." if known else ""
    return f"I have no tool to compute this.{found}"


def _give_up(transcript: Transcript) -> str:
    reason = transcript.errors[-1].splitlines()[0][:300] if transcript.errors[-1] else "an error without a text"
    return f"I could not find the answer: {reason}"


def _best_known(transcript: Transcript) -> Any:
    if transcript.observed is not None:
        return literal(transcript.observed)
    results = [seen.result for seen in transcript.calls if seen.result and not seen.failed]
    return literal(results[-1]) if results else "I could not find the answer in the steps I had."


def _last_word(transcript: Transcript) -> str:
    return str(_best_known(transcript))


def _make_plan(request: ChatRequest, last: str) -> str:
    """Return facts and a plan for the task that a planning prompt holds."""
    everything = "\n".join(text_of(message) for message in request.messages)
    fenced = _FENCED_TASK.search(everything)
    task = _inner_task(fenced.group(1).strip() if fenced else read(request).task)
    puzzle = find_puzzle(task) or find_lookups(task)
    steps = [f"Look up the {lookup.attribute} of {lookup.subject}." for lookup in puzzle.lookups] if puzzle else []
    if puzzle and not puzzle.joins:
        steps.append("Compute the result.")
    steps = [*(steps or ["Find out what the task asks for."]), "Give the result as final answer."]
    facts = ", ".join(f"{item.attribute} of {item.subject}" for item in puzzle.lookups) if puzzle else ""
    survey = f"## 1. Facts survey\n### 1.1. Given\n{task}\n### 1.2. To look up\n{facts or 'Nothing.'}"
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"{survey}\n\n## 2. Plan\n{numbered}\n{_END_PLAN}"


def _small_talk(request: ChatRequest, transcript: Transcript) -> str:
    """Return a short text for a chat without tools or code."""
    said = transcript.task
    if _GREETING.search(said):
        return "Hello! How can I help you?"
    if _STORY.search(said):
        return _A_STORY
    puzzle = find_puzzle(_inner_task(said))
    if puzzle is not None:
        return f"I would work that out by running this code:\n{puzzle.code}"
    shown = " ".join(said.split())[:200]
    return f'This is a simulated model. You said: "{shown}"'
