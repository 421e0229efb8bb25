"""The built-in policy of the simulated provider: what a careful model would say next.

It sees a request and nothing else, and keeps nothing between requests. It writes the code or the tool calls
that solve a task, and answers with what they have shown. It never works out a result by itself, so a demo's
answers are the work of the agent.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from manyhands.testing.solver.caller import next_calls
from manyhands.testing.solver.coder import next_code, structured
from manyhands.testing.solver.thinking import best_known, greeting, inner_task, recognise
from manyhands.testing.solver.transcript import NEW_TASK, read
from manyhands.testing.wire import Reply, text_of

if TYPE_CHECKING:
    from manyhands.testing.solver.transcript import Transcript
    from manyhands.testing.wire import ChatRequest

_END_PLAN = "<end_plan>"
_OUT_OF_STEPS = "provide an answer"
_FENCED_TASK = re.compile(r"task:\s*\n```\n(.*?)\n```", re.DOTALL | re.IGNORECASE)
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
        return Reply(_make_plan(request))
    transcript = read(request)
    if request.tools and request.tool_choice != "none":
        return next_calls(transcript, request)
    if _OUT_OF_STEPS in last.lower() and NEW_TASK not in last:
        return Reply(str(best_known(transcript)))
    if request.response_format is not None and request.response_format["type"] == "json_schema":
        return Reply(json.dumps(structured(transcript, request.response_format["json_schema"]["schema"])))
    if transcript.tags:
        thought, code = next_code(transcript)
        opening, closing = transcript.tags
        return Reply(f"Thought: {thought}\n{opening}\n{code}\n{closing}")
    return Reply(_small_talk(transcript))


def _make_plan(request: ChatRequest) -> str:
    """Return facts and a plan for the task that a planning prompt holds."""
    everything = "\n".join(text_of(message) for message in request.messages)
    fenced = _FENCED_TASK.search(everything)
    task = inner_task(fenced.group(1).strip() if fenced else read(request).task)
    puzzle = recognise(task)
    wanted = [f"the {lookup.attribute} of {lookup.subject}" for lookup in puzzle.lookups] if puzzle else []
    steps = [f"Look up {item}." for item in wanted]
    if puzzle and not puzzle.joins:
        steps.append("Compute the result.")
    steps = [*(steps or ["Find out what the task asks for."]), "Give the result as final answer."]
    survey = (
        f"## 1. Facts survey\n### 1.1. Given\n{task}\n### 1.2. To look up\n{', '.join(wanted) or 'Nothing'}."
    )
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"{survey}\n\n## 2. Plan\n{numbered}\n{_END_PLAN}"


def _small_talk(transcript: Transcript) -> str:
    """Return a short text for a chat without tools or code."""
    said = transcript.task
    hello = greeting(said)
    if hello is not None:
        return hello
    if _STORY.search(said):
        return _A_STORY
    puzzle = recognise(inner_task(said))
    if puzzle is not None and not puzzle.lookups:
        return f"I would work that out by running this code:\n{puzzle.code}"
    shown = " ".join(said.split())[:200]
    return f'This is a simulated model. You said: "{shown}"'
