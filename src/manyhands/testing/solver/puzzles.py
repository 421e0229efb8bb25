"""Arithmetic and word puzzles: from the words of a task to the Python that would solve it.

Nothing is worked out here. A puzzle holds code, as a model would write it; its numbers are the task's own.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Lookup:
    """Something to be looked up with a tool.

    Attributes:
        attribute: What about it: ``"capital"``.
        subject: Of what: ``"Norway"``.
    """

    attribute: str
    subject: str


@dataclass(frozen=True, slots=True)
class Puzzle:
    """How a task can be solved.

    Attributes:
        thought: What a model would say it does.
        code: Python that sets ``result``, from the values looked up if there are any.
        lookups: What to look up first; the code calls the values ``first``, ``second`` and so on.
        joins: Whether the answer just lists the values, so that no code is needed once they are known.
    """

    thought: str
    code: str = ""
    lookups: tuple[Lookup, ...] = ()
    joins: bool = False

    @property
    def expression(self) -> str | None:
        """The code as one expression, if it is one."""
        head, assigned, expression = self.code.partition("result = ")
        return expression if assigned and not head and "\n" not in expression else None


# A question is short; what it is about may be long. Patterns that go back and forth look no further.
_LONGEST = 1000
VALUE_NAMES = ("first", "second", "third", "fourth", "fifth", "sixth")

_WORDS = (
    (re.compile(r"\bmultiplied by\b|\btimes\b|[×·]"), "*"),
    (re.compile(r"\bdivided by\b|÷"), "/"),
    (re.compile(r"\b(?:to|raised to) the power (?:of )?|\^"), "**"),
    (re.compile(r"\bplus\b"), "+"),
    (re.compile(r"\bminus\b|[−–]"), "-"),
    (re.compile(r"\bmodulo\b|\bmod\b"), "%"),
    (re.compile(r"(?<=\d) squared\b"), " ** 2"),
    (re.compile(r"(?<=\d) cubed\b"), " ** 3"),
    (re.compile(r"(?<=\d) x (?=\d)"), " * "),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
)
_RUN = re.compile(r"[-+(]*\d[\d\s.+\-*/%()]*")
_NAMED_RUN = re.compile(
    r"(?:[A-Za-z_]\w*|\d+(?:\.\d+)?)(?:\s*(?:\*\*|//|[-+*/%])\s*(?:[A-Za-z_]\w*|\d+(?:\.\d+)?))+"
)
_ALLOWED = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.Name,
    ast.Load,
)


def as_operators(text: str) -> str:
    """Return a text with its words for operators replaced by the operators."""
    for pattern, sign in _WORDS:
        text = pattern.sub(sign, text)
    return text


def expression_in(text: str) -> str | None:
    """Return the longest arithmetic expression in a text, as Python; never its value.

    Args:
        text: A task.
    """
    runs = (run.lstrip(" .+*/%\n") for run in _balanced(_RUN.findall(as_operators(text))))
    return max(filter(_is_arithmetic, runs), key=len, default=None)


def named_expression_in(text: str, names: set[str]) -> str | None:
    """Return the longest expression over known variables in a text.

    Args:
        text: A task.
        names: Variables that the code can use.
    """
    runs = _NAMED_RUN.findall(as_operators(text))
    known = [run for run in runs if names and set(re.findall(r"[A-Za-z_]\w*", run)) <= names]
    return max(filter(_is_arithmetic, known), key=len, default=None)


def _balanced(runs: list[str]) -> list[str]:
    """Return the runs with the parentheses that belong to the sentence cut off."""
    balanced = []
    for run in runs:
        run = run.strip().rstrip(".+-*/% \n")
        while run.count(")") > run.count("(") and run.endswith(")"):
            run = run[:-1].rstrip()
        while run.count("(") > run.count(")") and run.startswith("("):
            run = run[1:]
        balanced.append(run)
    return balanced


def _is_arithmetic(text: str) -> bool:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return isinstance(tree.body, ast.BinOp) and all(isinstance(node, _ALLOWED) for node in ast.walk(tree))


def _range_sum(match: re.Match[str]) -> Puzzle:
    verb, power, parity = ((word or "").lower() for word in match.group("verb", "power", "parity"))
    low, high = match.group("low", "high")
    term = {"squares": "n ** 2", "cubes": "n ** 3"}.get(power, "n")
    condition = {"even": " if n % 2 == 0", "odd": " if n % 2 == 1"}.get(parity, "")
    numbers = f"{term} for n in range({low}, {high} + 1){condition}"
    if verb in ("product", "multiply"):
        code = f"import math\nresult = math.prod({numbers})"
    elif verb in ("average", "mean"):
        code = f"numbers = [{numbers}]\nresult = sum(numbers) / len(numbers)"
    else:
        code = f"result = sum({numbers})"
    return Puzzle("I will go through the numbers with a short expression.", code)


def _primes(match: re.Match[str]) -> Puzzle:
    what, bound, limit = (word.lower() for word in match.group("what", "bound", "limit"))
    end = limit if bound in ("below", "under", "less than", "smaller than") else f"{limit} + 1"
    last = {"sum": "sum(primes)", "add": "sum(primes)", "largest": "max(primes)", "biggest": "max(primes)"}
    counted = "len(primes)" if what in ("how many", "count", "number") else "primes"
    return Puzzle(
        "I will list the primes by trial division.",
        f"primes = [n for n in range(2, {end}) if all(n % d for d in range(2, int(n ** 0.5) + 1))]\n"
        f"result = {last.get(what, counted)}",
    )


def _nth_prime(match: re.Match[str]) -> Puzzle:
    return Puzzle(
        "I will collect primes until I have enough of them.",
        "primes = []\nn = 2\n"
        f"while len(primes) < {match.group(1)}:\n"
        "    if all(n % p for p in primes):\n        primes.append(n)\n    n += 1\n"
        "result = primes[-1]",
    )


def _is_prime(match: re.Match[str]) -> Puzzle:
    return Puzzle(
        "I will try all possible divisors.",
        f"n = {match.group(1)}\n"
        "prime = n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))\n"
        'result = "yes" if prime else "no"',
    )


def _fibonacci(match: re.Match[str]) -> Puzzle:
    return Puzzle(
        "I will add up the sequence step by step.",
        f"a, b = 0, 1\nfor _ in range({match.group(1)}):\n    a, b = b, a + b\nresult = a",
    )


def _divisible(match: re.Match[str]) -> Puzzle:
    low, high, first, joint, second = match.groups()
    test = f"n % {first} == 0" + (f" {joint} n % {second} == 0" if second else "")
    return Puzzle("I will count them.", f"result = sum(1 for n in range({low}, {high} + 1) if {test})")


def _common(match: re.Match[str]) -> Puzzle:
    kind = "gcd" if match.group(1).lower() in ("greatest common divisor", "gcd") else "lcm"
    return Puzzle(
        "The math module can do this.",
        f"import math\nresult = math.{kind}({match.group(2)}, {match.group(3)})",
    )


def _of_list(match: re.Match[str]) -> Puzzle | None:
    numbers = re.findall(r"-?\d+(?:\.\d+)?", match.group(2))
    code = {
        "largest": "max(numbers)", "biggest": "max(numbers)", "maximum": "max(numbers)",
        "smallest": "min(numbers)", "minimum": "min(numbers)", "sum": "sum(numbers)",
        "average": "sum(numbers) / len(numbers)", "mean": "sum(numbers) / len(numbers)",
        "median": "statistics.median(numbers)", "sort": "sorted(numbers)",
    }[match.group(1).lower()]  # fmt: skip
    head = "import statistics\n" if "median" in code else ""
    return Puzzle(
        "I will put the numbers in a list.", f"{head}numbers = [{', '.join(numbers)}]\nresult = {code}"
    )


def _fahrenheit(match: re.Match[str]) -> Puzzle:
    degrees, unit = match.group(1), match.group(2)[0].lower()
    code = f"{degrees} * 9 / 5 + 32" if unit == "c" else f"({degrees} - 32) * 5 / 9"
    return Puzzle("I will convert the temperature.", f"result = {code}")


def _percent(match: re.Match[str]) -> Puzzle:
    return Puzzle("A percentage is a hundredth part.", f"result = {match.group(2)} * {match.group(1)} / 100")


def _digits(match: re.Match[str]) -> Puzzle:
    number = match.group(1) + (f" ** {match.group(2)}" if match.group(2) else "")
    return Puzzle(
        "I will add up the digits of the number's text.", f"result = sum(int(d) for d in str({number}))"
    )


def _on_text(code: str, thought: str) -> Callable[[re.Match[str]], Puzzle | None]:
    """Return a builder for puzzles about a quoted text."""

    def build(match: re.Match[str]) -> Puzzle | None:
        text = _quoted(match.string, match)
        if text is None:
            return None
        letter = match.groupdict().get("letter") or ""
        return Puzzle(thought, f"text = {text!r}\nresult = {code.replace('LETTER', repr(letter.lower()))}")

    return build


def _quoted(task: str, match: re.Match[str]) -> str | None:
    """Return the text that a question is about: in quotes, after a colon, or the last word."""
    rest = task[match.end() :].strip()
    for opening, closing in (('"', '"'), ("'", "'"), ("“", "”"), ("‘", "’"), ("`", "`")):
        start = rest.find(opening)
        end = rest.rfind(closing)
        if 0 <= start < end:
            return rest[start + 1 : end]
    _, colon, after = rest.partition(":")
    if colon:
        return after.strip()
    word = re.search(r"(\w+)\W*$", rest)
    return word.group(1) if word else None


def _simple(code: str, thought: str) -> Callable[[re.Match[str]], Puzzle]:
    return lambda match: Puzzle(thought, code.format(*match.groups()))


_N = r"(-?\d[\d,]*(?:\.\d+)?)"
_INT = r"(\d[\d,]*)"
_TABLE: tuple[tuple[str, Callable[[re.Match[str]], Puzzle | None]], ...] = (
    (
        r"(?P<verb>sum|add up|add|total|product|multiply|average|mean)\b(?: up| of)?(?: all)?(?: the)?"
        r"(?: (?P<power>squares|cubes) of)?(?: all)?(?: the)?(?: first)?(?: (?P<parity>even|odd))?"
        r"(?: (?:positive|natural|whole))?(?: numbers| integers| values)?"
        r"(?: from| between) (?P<low>\d+) (?:to|and|up to|through) (?P<high>\d+)",
        _range_sum,
    ),
    (
        r"(?P<what>how many|count|number|sum|add|largest|biggest|list|what)\b(?: up)?(?: of)?(?: all)?"
        r"(?: are)?(?: the)? ?primes?(?: numbers?)?(?: are| exist)?(?: there)?(?: are)?"
        r" (?P<bound>below|under|less than|smaller than|up to|until|not above) (?P<limit>\d[\d,]*)",
        _primes,
    ),
    (r"(\d+)(?:st|nd|rd|th) prime", _nth_prime),
    (r"\bis (\d+) (?:a )?prime", _is_prime),
    (r"(\d+)(?:st|nd|rd|th) fibonacci", _fibonacci),
    (r"fibonacci number (\d+)", _fibonacci),
    (
        r"how many (?:of the )?(?:numbers|integers)(?: are there)? (?:from|between) (\d+) (?:to|and) (\d+)"
        r"(?: that)? (?:are divisible|can be divided) by (\d+)(?: (and|or)(?: by)? (\d+))?",
        _divisible,
    ),
    (rf"(greatest common divisor|gcd|least common multiple|lcm) of {_INT} and {_INT}", _common),
    (rf"factorial of {_INT}",
     _simple("import math\nresult = math.factorial({0})", "The math module can do this.")),
    (rf"square root of {_N}", _simple("result = {0} ** 0.5", "The square root is the power of one half.")),
    (rf"sum of the digits of {_INT}(?: ?(?:\*\*|\^) ?(\d+))?", _digits),
    (rf"{_N} ?(?:%|percent) of {_N}", _percent),
    (rf"{_N} ?(?:°|degrees)? ?(celsius|fahrenheit|c|f)\b(?: is| are)? (?:to|in|into)"
     r" (?:celsius|fahrenheit|°?[cf]\b)",
     _fahrenheit),
    (
        r"\b(largest|biggest|maximum|smallest|minimum|sum|average|mean|median|sort)\b"
        r"(?: number)?(?: of| in| among)?(?: the| these)?(?: numbers)?:? "
        r"\[?(-?\d+(?:\.\d+)?(?:(?:,| and|, and) -?\d+(?:\.\d+)?)+)",
        _of_list,
    ),
    (r"how many words\b|(?:count|number of)(?: the)? words\b",
     _on_text("len(text.split())", "I will split the text into words and count them.")),
    (r"how many times does (?:the )?(?:letter )?['\"“‘`]?(?P<letter>[a-z])['\"”’`]? (?:appear|occur)\w* in",
     _on_text("text.lower().count(LETTER)", "I will count the letter.")),
    (r"how many ['\"“‘`]?(?P<letter>[a-z])['\"”’`]?(?:'?s) (?:are|are there|does) (?:there )?(?:in)?",
     _on_text("text.lower().count(LETTER)", "I will count the letter.")),
    (r"how many vowels\b|(?:count|number of)(?: the)? vowels\b",
     _on_text("sum(1 for c in text.lower() if c in 'aeiou')", "I will count the vowels.")),
    (r"how many (?:letters|characters) (?:are|does|has|in)(?: there)?(?: in)?"
     r"(?: the (?:word|text|string))?(?= ['\"“‘`])",
     _on_text("len(text)", "I will measure the text.")),
    (r"\breverse\b(?: the)?(?: word| string| text)?",
     _on_text("text[::-1]", "I will take the text from its end.")),
    (r"\bspell\b(?=.* backwards)", _on_text("text[::-1]", "I will take the text from its end.")),
    (r"\blongest word\b", _on_text("max(text.split(), key=len)", "I will compare the lengths of the words.")),
    (r"\bsort(?: the)? words\b", _on_text("' '.join(sorted(text.split()))", "I will sort the words.")),
    (r"\b(?:uppercase|upper case|capital letters)\b(?= ?:?.*['\"“‘`:])",
     _on_text("text.upper()", "I will convert it.")),
)  # fmt: skip
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), build) for pattern, build in _TABLE)


@lru_cache(maxsize=8192)
def find_puzzle(task: str) -> Puzzle | None:
    """Return how a task about numbers or words can be solved, or ``None`` if it is about something else.

    Args:
        task: The task in plain words.
    """
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", task)
    for pattern, build in _COMPILED:
        match = pattern.search(plain, 0, _LONGEST)
        if match:
            puzzle = build(match)
            if puzzle is not None:
                return puzzle
    expression = expression_in(task[:_LONGEST])
    return None if expression is None else Puzzle("I will compute it.", f"result = {expression}")
