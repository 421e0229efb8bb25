"""Tools that come along: the final answer, a Python interpreter, and asking the user."""

from __future__ import annotations

from typing import Any

from manyhands.tools.base import Tool


class FinalAnswerTool(Tool):
    """Ends a run with an answer."""

    name = "final_answer"
    description = "Provides a final answer to the given problem."
    inputs = {"answer": {"type": "any", "description": "The final answer to the problem"}}
    output_type = "any"

    async def forward(self, answer: Any) -> Any:
        return answer
