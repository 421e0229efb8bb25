"""The code agent's side: the next piece of Python, or the final answer in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.testing.solver.lookups import sample
from manyhands.testing.solver.puzzles import VALUE_NAMES
from manyhands.testing.solver.thinking import (
    PATIENCE,
    final_form,
    give_up,
    in_words,
    named_calls,
    no_tool,
    plan,
    resembling_calls,
    understand,
)
from manyhands.testing.solver.transcript import literal

if TYPE_CHECKING:
    from manyhands.testing.solver.lookups import Planned
    from manyhands.testing.solver.transcript import Transcript


def structured(transcript: Transcript, schema: dict[str, Any]) -> Any:
    """Return an object that fits a JSON schema, with the next code in it if it has a place for that.

    Args:
        transcript: The conversation so far.
        schema: What the client wants the answer to look like.
    """
    if not {"thought", "code"} <= set(schema.get("properties") or ()):
        return sample(schema)
    thought, code = next_code(transcript)
    return {"thought": thought, "code": code}


def next_code(transcript: Transcript) -> tuple[str, str]:
    """Return what a code agent thinks and writes next.

    Args:
        transcript: The conversation so far.
    """
    if transcript.observed is not None:
        value = literal(transcript.observed)
        return "I have the result and can answer.", f"final_answer({final_form(value, transcript)!r})"
    if len(transcript.errors) >= PATIENCE:
        return "This does not work, so I say so.", f"final_answer({give_up(transcript)!r})"
    puzzle = understand(transcript)
    named = named_calls(transcript)
    if puzzle is None or named:
        return _act_anyhow(transcript, named)
    plans = plan(puzzle, transcript)
    if plans is None:
        return "None of my tools can do this.", f"final_answer({no_tool(puzzle)!r})"
    puzzle, calls = plans
    lines = [f"{name} = {_as_code(call)}" for name, call in zip(VALUE_NAMES, calls, strict=False)]
    return puzzle.thought, "\n".join([*lines, puzzle.code, "print(result)"])


def _act_anyhow(transcript: Transcript, named: list[Planned]) -> tuple[str, str]:
    """Return code for a task without a known form: the tools it names or resembles, or words."""
    calls = named or resembling_calls(transcript)
    if calls:
        lines = [f"result_{number} = {_as_code(call)}" for number, call in enumerate(calls, 1)]
        shown = ", ".join(f"result_{number}" for number in range(1, len(calls) + 1))
        return "One of my tools fits.", "\n".join([*lines, f"print({shown})"])
    return "I can answer this directly.", f"final_answer({final_form(in_words(transcript), transcript)!r})"


def _as_code(call: Planned) -> str:
    return f"{call.tool}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"
