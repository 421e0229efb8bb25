"""Reads a request as a model would: which task, which tools, what has been done and seen so far.

The forms understood are those of manyhands' agents (and of smolagents'): a task comes after ``New task:``,
what code printed after ``Execution logs:``, a failure after ``Error:``; results of native tool calls are
messages of the role ``tool``, or text after ``Observation:`` for providers without that role.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from manyhands.testing.wire import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.testing.wire import ChatRequest

NEW_TASK = "New task:\n"
_ARGUMENTS_BELOW = re.compile(r"\n+You (?:have been provided|also have|are given|can use)\b")
_SIGNATURE = re.compile(
    r'^[ \t]*(?:async )?def (\w+)\((.*)\)(?: -> .+)?:[ \t]*(?:\n[ \t]*"""(.*))?', re.MULTILINE
)
_TAGS = re.compile(r"between\s+(['\"`])(\S+?)\1\s+and\s+(['\"`])(\S+?)\3")
_ERROR = re.compile(r"^(?:Observation:\n)?Error:\s*(.*)", re.MULTILINE | re.DOTALL)
_LOGS = re.compile(r"Execution logs:\n(.*?)(?:\n*Last output from code snippet:\n(.*))?$", re.DOTALL)
_LAST_OUTPUT = re.compile(r"Last output from code snippet:\n(.*)$", re.DOTALL)
_STDOUT = re.compile(r"^Stdout:\n(.*?)\n*Output: ?(.*)$", re.DOTALL)
_REPORTED = re.compile(r"^###\s*1\..*?:?\n(.*?)\n+###", re.MULTILINE | re.DOTALL)
_FINAL_ANSWER = re.compile(r"final_answer\((.*)\)", re.DOTALL)
_CODE_TAGS = ("<code>", "</code>")


@dataclass(frozen=True, slots=True)
class ToolView:
    """What a model sees of a tool.

    Attributes:
        name: Its name.
        description: First line or whole description.
        parameters: JSON schema of each parameter, or just its type.
        required: Parameters that must be given.
    """

    name: str
    description: str
    parameters: dict[str, dict[str, Any]]
    required: tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """A tool call made in this task, with what came back."""

    name: str
    arguments: dict[str, Any]
    result: str = ""
    failed: bool = False


@dataclass(slots=True)
class Transcript:
    """A conversation, read.

    Attributes:
        task: The latest task.
        below: What stood below the task: additional arguments.
        tools: Tools on offer by name.
        tags: What opens and closes code, or ``None`` if this is no code agent.
        calls: Native tool calls of this task.
        observed: What the latest step showed; ``None`` before the first and after one that failed.
        shown: The latest thing that any step of this task showed.
        errors: Texts of the failures in this task.
        previous_answer: The final answer of the task before.
        earlier_tasks: The tasks before this one.
    """

    task: str = ""
    below: str = ""
    tools: dict[str, ToolView] = field(default_factory=dict)
    tags: tuple[str, str] | None = None
    calls: list[Seen] = field(default_factory=list)
    observed: str | None = None
    shown: str | None = None
    errors: list[str] = field(default_factory=list)
    previous_answer: str | None = None
    earlier_tasks: list[str] = field(default_factory=list)


def read(request: ChatRequest) -> Transcript:
    """Read a request.

    Args:
        request: Any chat request.

    Returns:
        What a model could know from it.
    """
    messages = request.messages
    tags, offered = _read_system(_system_text(messages))
    transcript = Transcript(tags=tags, tools=dict(offered))
    if request.tools:
        transcript.tools = {view.name: view for view in map(_from_schema, request.tools)}
    start = _find_task(messages, transcript)
    _read_turns(messages[start + 1 :], transcript)
    # Only what is answered with is looked at closely: a run of many steps has many observations.
    if transcript.shown is not None:
        transcript.shown = printed(transcript.shown)
    if transcript.observed is not None:
        transcript.observed = transcript.shown
    if transcript.earlier_tasks:
        transcript.previous_answer = _previous_answer(messages[:start])
    return transcript


def literal(text: str) -> Any:
    """Return the value that a text shows, or the text itself if it shows none.

    Args:
        text: What was printed.
    """
    text = text.strip()
    if len(text) > 2000 or not text or text[0] not in "0123456789-+.[({'\"TFN":
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def printed(text: str) -> str:
    """Return what a tool result or observation says, without the frame around it.

    Args:
        text: The message.
    """
    text = _unframed(text.removeprefix("Observation:\n"))
    reported = _REPORTED.search(text)
    return (reported.group(1) if reported else text).strip()


def _unframed(text: str) -> str:
    for frame in (_LOGS, _STDOUT):
        found = frame.search(text)
        if found:
            return (found.group(1) or "").strip() or (found.group(2) or "").strip()
    found = _LAST_OUTPUT.search(text)
    return found.group(1) if found else text


def _system_text(messages: list[dict[str, Any]]) -> str:
    first = messages[0]
    return text_of(first) if first["role"] in ("system", "developer") else ""


# A crowd of agents shares a few system prompts, and each comes with every request.
@lru_cache(maxsize=256)
def _read_system(system: str) -> tuple[tuple[str, str] | None, dict[str, ToolView]]:
    found = _TAGS.search(system)
    tags = found.group(2, 4) if found else _CODE_TAGS if "<code>" in system else None
    tools = {}
    for name, parameters, docstring in _SIGNATURE.findall(system):
        view = _from_signature(name, parameters, docstring)
        tools[view.name] = view
    return (tags[0], tags[1]) if tags else None, tools


def _from_signature(name: str, inside: str, docstring: str) -> ToolView:
    parameters: dict[str, dict[str, Any]] = {}
    required = []
    for part in _split_arguments(inside):
        declared, has_default, _ = part.partition("=")
        label, _, kind = declared.partition(":")
        label = label.strip().lstrip("*")
        if not label or label == "/":
            continue
        parameters[label] = {"type": _JSON_TYPES.get(kind.strip().split("[")[0], kind.strip() or "any")}
        if not has_default:
            required.append(label)
    return ToolView(name, docstring.strip(), parameters, tuple(required))


_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
}


def _split_arguments(inside: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, character in enumerate(inside):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(inside[start:index])
            start = index + 1
    parts.append(inside[start:])
    return [part.strip() for part in parts if part.strip()]


def _from_schema(tool: Mapping[str, Any]) -> ToolView:
    function = tool["function"]
    schema = function.get("parameters") or {}
    properties = schema.get("properties")
    parameters = {
        name: value if isinstance(value, dict) else {}
        for name, value in (properties.items() if isinstance(properties, dict) else ())
    }
    required = schema.get("required")
    names = tuple(name for name in required if name in parameters) if isinstance(required, list) else ()
    return ToolView(function["name"], str(function.get("description") or ""), parameters, names)


def _find_task(messages: list[dict[str, Any]], transcript: Transcript) -> int:
    """Fill in the task and those before it; return the index of the message that holds it."""
    holders = [
        (index, text)
        for index, message in enumerate(messages)
        if message["role"] == "user" and NEW_TASK in (text := text_of(message))
    ]
    if holders:
        found, text = holders[-1]
        transcript.earlier_tasks = [_split_task(text)[0] for _, text in holders[:-1]]
    else:
        found, text = _last_words(messages)
    transcript.task, transcript.below = _split_task(text)
    return found


def _last_words(messages: list[dict[str, Any]]) -> tuple[int, str]:
    """Return the user's last message that is no tool result, for clients other than our agents."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message["role"] == "user":
            text = text_of(message)
            if not text.startswith(("Observation:", "Error:")):
                return index, text
    return len(messages) - 1, text_of(messages[-1])


def _split_task(text: str) -> tuple[str, str]:
    text = text.rpartition(NEW_TASK)[2]
    below = _ARGUMENTS_BELOW.search(text)
    return (text[: below.start()].strip(), text[below.start() :]) if below else (text.strip(), "")


def _read_turns(messages: list[dict[str, Any]], transcript: Transcript) -> None:
    by_id: dict[str, Seen] = {}
    latest: list[Seen] = []
    for message in messages:
        role = message["role"]
        if role == "assistant":
            latest = [_seen(call["function"]) for call in message.get("tool_calls") or ()]
            by_id.update(zip((call["id"] for call in message.get("tool_calls") or ()), latest, strict=True))
            transcript.calls += latest or (latest := _flattened(text_of(message)))
        elif role == "tool":
            _result(by_id.get(message["tool_call_id"]), text_of(message), transcript)
        elif role == "user":
            _observation(text_of(message), latest, transcript)


def _seen(function: Mapping[str, Any]) -> Seen:
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    return Seen(str(function.get("name")), arguments if isinstance(arguments, dict) else {})


def _flattened(text: str) -> list[Seen]:
    """Return the calls of a reply that was flattened to text, for providers without tool messages."""
    _, found, listed = text.partition("Calling tools:\n")
    calls = literal(listed) if found else None
    if not isinstance(calls, list):
        return []
    return [_seen(call["function"]) for call in calls if isinstance(call, dict) and "function" in call]


def _result(seen: Seen | None, text: str, transcript: Transcript) -> None:
    failure = _ERROR.match(text)
    if failure:
        transcript.errors.append(failure.group(1).strip())
    if seen is not None:
        seen.result, seen.failed = text, failure is not None
        transcript.shown = transcript.shown if failure else seen.result


def _observation(text: str, latest: list[Seen], transcript: Transcript) -> None:
    failure = _ERROR.search(text)
    if failure:
        transcript.errors.append(failure.group(1).strip())
        transcript.observed = None
        for seen in latest:
            seen.failed = True
        return
    before, found, after = text.partition("Observation:\n")
    if not found:
        return
    transcript.observed = transcript.shown = after
    results = [after] if len(latest) == 1 else after.strip().splitlines()
    if len(results) == len(latest):
        for seen, line in zip(latest, results, strict=True):
            seen.result = line


def _previous_answer(messages: list[dict[str, Any]]) -> str | None:
    for message in reversed(messages):
        if message["role"] != "assistant":
            continue
        for call in message.get("tool_calls") or ():
            if call["function"]["name"] == "final_answer":
                values = list(_seen(call["function"]).arguments.values())
                return str(values[0]) if values else None
        found = _FINAL_ANSWER.search(text_of(message))
        if found:
            return str(literal(found.group(1)))
    return None
