"""Look-up questions: which attribute of which subject is asked for, and which of the tools can tell.

A tool is chosen as a model chooses: by the words of its name and description. So the questions work with any
look-up tool, not only with those of the examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from manyhands.testing.solver.puzzles import VALUE_NAMES, Lookup, Puzzle, as_operators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from manyhands.testing.solver.transcript import ToolView

SPECIAL_TOOLS = frozenset({"final_answer", "python_interpreter"})
_SYNONYMS = {
    "people": "population", "inhabitants": "population", "live": "population", "lives": "population",
    "capitals": "capital", "temperature": "weather", "forecast": "weather", "money": "currency",
    "continents": "continent", "tall": "height", "high": "height", "long": "length", "author": "wrote",
}  # fmt: skip
_SMALL_WORDS = frozenset({
    "a", "an", "the", "of", "in", "for", "to", "is", "are", "was", "what", "which", "who", "how", "get",
    "find", "tool", "lookup", "look", "up", "fetch", "search", "and", "on", "with", "by", "from", "do",
    "does", "it", "its", "this", "that", "your", "you", "me", "my", "give", "tell", "show", "run",
    "call", "use", "please",
})  # fmt: skip
_LONGEST = 300
_ATTRIBUTE = r"(?P<attribute>(?!sum\b|product\b)[a-z][a-z \-]{1,40}?)"
_SUBJECT = r"(?P<subject>[\w'’. \-]+?)"
_ASKING = r"(?:what(?:'s|’s| is| are| was)|tell me|give me|find|find out|look up|get|name|who (?:is|was))"


@dataclass(frozen=True, slots=True)
class Planned:
    """A tool call that a look-up comes to."""

    tool: str
    arguments: dict[str, Any]


def _two(code: str, thought: str, attribute: str | None = None) -> Callable[[re.Match[str]], Puzzle]:
    """Return a builder for questions about two subjects, ``a`` and ``b``."""

    def build(match: re.Match[str]) -> Puzzle:
        about = attribute or match.group("attribute")
        first, second = (clean_subject(match.group(name)) for name in ("a", "b"))
        filled = code.replace("NAME_A", repr(first)).replace("NAME_B", repr(second))
        return Puzzle(thought, f"result = {filled}", (Lookup(about, first), Lookup(about, second)))

    return build


def _one(code: str, thought: str) -> Callable[[re.Match[str]], Puzzle]:
    """Return a builder for questions about one subject."""

    def build(match: re.Match[str]) -> Puzzle:
        lookup = Lookup(match.group("attribute").strip(), clean_subject(match.group("subject")))
        return Puzzle(thought, f"result = {code}", (lookup,), joins=code == "first")

    return build


def _population(match: re.Match[str]) -> Puzzle:
    lookup = Lookup("population", clean_subject(match.group("subject")))
    return Puzzle("I will look it up.", "result = first", (lookup,), joins=True)


def _several(match: re.Match[str]) -> Puzzle | None:
    names = [part for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", match.group("subject")) if part]
    if not 2 <= len(names) <= len(VALUE_NAMES):
        return None
    attribute = _singular(match.group("attribute").strip())
    joined = " and ".join(f"{{{name}}}" for name in VALUE_NAMES[: len(names)])
    lookups = tuple(Lookup(attribute, clean_subject(name)) for name in names)
    return Puzzle("I will look up each of them.", f'result = f"{joined}"', lookups, joins=True)


_A, _B = r"(?P<a>[\w'’. \-]+?)", r"(?P<b>[\w'’. \-]+?)"
_MORE = r"(?:more people|more inhabitants|a larger population|the larger population|the bigger population)"
_TABLE: tuple[tuple[str, Callable[[re.Match[str]], Puzzle | None]], ...] = (
    (rf"how many more (?:people|inhabitants)(?: live| are there)?(?: in)? {_A} than(?: in)? {_B}$",
     _two("first - second", "I will look up both and subtract.", "population")),
    (rf"how many more (?:people|inhabitants) does {_A} have than {_B}$",
     _two("first - second", "I will look up both and subtract.", "population")),
    (rf"how many times (?:as many people|more people|larger)\b.*? in {_A}"
     rf" (?:as|than)(?: that)?(?: in| of)? {_B}$",
     _two("round(first / second, 2)", "I will look up both and divide.", "population")),
    (rf"how many people live in {_A} and(?: in)? {_B}(?: together| combined| in total| altogether)?$",
     _two("first + second", "I will look up both and add.", "population")),
    (rf"(?:combined|total|joint) {_ATTRIBUTE} of {_A} and {_B}$",
     _two("first + second", "I will look up both and add.")),
    (rf"(?:difference between|difference of) the {_ATTRIBUTE}s? of {_A} and(?: of)? {_B}$",
     _two("abs(first - second)", "I will look up both and subtract.")),
    (rf"(?:which|what|who)\b.*? has {_MORE}[,:]? {_A} or {_B}$",
     _two("NAME_A if first > second else NAME_B", "I will look up both and compare.", "population")),
    (rf"(?:which|what)\b.*? has the (?:larger|higher|greater|bigger) {_ATTRIBUTE}[,:] {_A} or {_B}$",
     _two("NAME_A if first > second else NAME_B", "I will look up both and compare.")),
    (rf"how many (?:letters|characters) (?:are|are there|does) (?:in )?(?:the name of )?"
     rf"the {_ATTRIBUTE} of {_SUBJECT}(?: have)?$",
     _one("len(first)", "I will look it up and measure the name.")),
    (rf"\bthe {_ATTRIBUTE} of {_SUBJECT},? (?:spelled|spelt|written|read) backwards?$",
     _one("first[::-1]", "I will look it up and turn it round.")),
    (rf"how many (?:people|inhabitants)(?: live| are there| are)?(?: in| does)? {_SUBJECT}(?: have)?$",
     _population),
    (rf"\b(?:on|in) (?:which|what) (?P<attribute>\w+) (?:is|does|lies) {_SUBJECT}"
     r"(?: located| lie| situated| in| on)?$",
     _one("first", "I will look it up.")),
    (r"\b(?:which|what) (?P<attribute>\w+) (?:is used|do they use|is spoken|do people use|is paid with)"
     rf" in {_SUBJECT}$",
     _one("first", "I will look it up.")),
    (r"(?:\bthe )?(?P<attribute>[a-z][a-z ]*?s) (?:of|in|for)"
     r" (?P<subject>[\w'’.\- ]+(?:, [\w'’.\- ]+)*,? and [\w'’.\- ]+)$",
     _several),
    (rf"{_ASKING} (?:the |a |an )?{_ATTRIBUTE} (?:of|in|for|at) {_SUBJECT}$",
     _one("first", "I will look it up.")),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), build) for pattern, build in _TABLE)
_OPERAND = re.compile(
    rf"(?:.*\b(?:what is|calculate|compute) )?the {_ATTRIBUTE} of {_SUBJECT}$", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?$")


@lru_cache(maxsize=8192)
def find_lookups(task: str) -> Puzzle | None:
    """Return how a look-up question can be answered, or ``None`` if the task is none.

    Args:
        task: The task in plain words.
    """
    question = task.strip().partition("\n")[0][:_LONGEST].rstrip(" ?.!")
    computed = _composed(question)
    if computed is not None:
        return computed
    for pattern, build in _COMPILED:
        match = pattern.search(question)
        if match:
            puzzle = build(match)
            if puzzle is not None:
                return puzzle
    return None


def _composed(question: str) -> Puzzle | None:
    """Return a puzzle for values joined by operators: "the area of A plus the area of B times 2"."""
    parts = re.split(r"\s*([*/+]|\s-\s)\s*", as_operators(question))
    if len(parts) < 3:
        return None
    lookups: list[Lookup] = []
    terms = []
    for index, part in enumerate(parts):
        operand = _OPERAND.match(part.strip())
        if index % 2 or _NUMBER.match(part.strip()):
            terms.append(part.strip())
        elif operand and len(lookups) < len(VALUE_NAMES):
            terms.append(VALUE_NAMES[len(lookups)])
            lookups.append(Lookup(operand.group("attribute"), clean_subject(operand.group("subject"))))
        else:
            return None
    if not lookups:
        return None
    return Puzzle(
        "I will look the values up and compute with them.", f"result = {' '.join(terms)}", tuple(lookups)
    )


def clean_subject(text: str) -> str:
    """Return a name without the small words around it."""
    return re.sub(r"^(?:the|of|in) ", "", text.strip(" .?!,")).strip()


def _singular(word: str) -> str:
    return word[:-3] + "y" if word.endswith("ies") else word[:-1] if word.endswith("s") else word


def plan_call(lookup: Lookup, tools: Iterable[ToolView]) -> Planned | None:
    """Return the tool call for a look-up, or ``None`` if no tool fits.

    Args:
        lookup: What is asked for.
        tools: The tools on offer.
    """
    candidates = [tool for tool in tools if tool.name not in SPECIAL_TOOLS]
    wanted = words_of(lookup.attribute)
    best = max(candidates, key=lambda tool: _fit(tool, wanted), default=None)
    if best is not None and _fit(best, wanted) >= 3:
        return Planned(best.name, fill(best, lookup.subject))
    for tool in candidates:
        if words_of(tool.name, keep="search") & {"search", "wikipedia", "web"}:
            return Planned(tool.name, fill(tool, f"{lookup.attribute} of {lookup.subject}"))
    for tool in candidates:
        if "task" in tool.parameters:
            return Planned(tool.name, fill(tool, f"What is the {lookup.attribute} of {lookup.subject}?"))
    return None


def words_of(text: str, keep: str = "") -> set[str]:
    """Return the telling words of a text or of a tool's name, by one word for each meaning.

    Args:
        text: Any text.
        keep: A word to keep although it usually says nothing.
    """
    found = re.findall(r"[a-z]+", text.lower().replace("_", " "))
    return {_SYNONYMS.get(word, word) for word in found if word not in _SMALL_WORDS or word == keep}


def _fit(tool: ToolView, wanted: set[str]) -> int:
    return 3 * len(words_of(tool.name) & wanted) + min(2, len(words_of(tool.description) & wanted))


def fill(tool: ToolView, subject: str) -> dict[str, Any]:
    """Return arguments for a tool: the subject where it fits best, and something plain elsewhere.

    Args:
        tool: Whose parameters to fill.
        subject: What the call is about.
    """
    arguments: dict[str, Any] = {}
    given = False
    for name in tool.required or tuple(tool.parameters)[:1]:
        schema = tool.parameters.get(name, {})
        if not given and schema.get("type", "string") in ("string", "any") and "enum" not in schema:
            arguments[name], given = subject, True
        else:
            arguments[name] = sample(schema)
    return arguments


def sample(schema: Any) -> Any:
    """Return a plain value that fits a JSON schema.

    Args:
        schema: The schema.
    """
    if not isinstance(schema, dict):
        return "something"
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return sample(schema[key][0])
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: sample(properties.get(name) or {}) for name in schema.get("required") or properties}
    if kind == "array":
        return [sample(schema["items"])] if isinstance(schema.get("items"), dict) else []
    return {"integer": 1, "number": 1.0, "boolean": True, "null": None}.get(str(kind), "something")
