"""What is under way in a run: its operations, which are spans at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from manyhands.observe.providers import facts_of
from manyhands.observe.spans import LightSpan

if TYPE_CHECKING:
    from manyhands.messages import ChatMessage
    from manyhands.observe.metrics import Counts, Metrics
    from manyhands.observe.providers import ModelFacts
    from manyhands.run import Run

# What operations are about, where a run has one at a time.
RUN, MODEL, CODE = "run", "model", "code"


class Watched:
    """A run that is traced; made late where its start was not told, because the observer came later.

    Args:
        run: The run.
        metrics: Counts.

    Attributes:
        chat: What the span of every question to the model says.
        counts: Takes what the run does; ``None`` where nobody counts.
        open: What is under way.
        root: The run itself, if its start was told.
    """

    __slots__ = ("agent", "chat", "conversation", "counts", "facts", "id", "open", "root")

    def __init__(self, run: Run, metrics: Metrics) -> None:
        self.id = run.id
        self.agent = run.agent.name or type(run.agent).__name__
        self.facts: ModelFacts = facts_of(run.agent.model)
        self.conversation = run.conversation
        self.counts: Counts | None = metrics.counts(self.agent, self.facts)
        self.chat: dict[str, Any] = {
            **self.facts.span,
            "gen_ai.agent.name": self.agent,
            "manyhands.run.id": run.id,
            "gen_ai.conversation.id": run.conversation,
        }
        if run.agent.stream_outputs:
            self.chat["gen_ai.request.stream"] = True
        self.open: list[Operation] = []
        self.root: Operation | None = None


class Operation(LightSpan):
    """Something under way.

    Attributes:
        of: Whose it is.
        subject: What it is about; its end is known by that.
    """

    of: Watched
    subject: object

    def found(self, attributes: dict[str, Any]) -> None:
        """Take attributes that need no check."""
        self._attributes.update(attributes)


class OfRun(Operation):
    """A run."""

    subject = RUN


class OfModel(Operation):
    """A question to a model.

    Attributes:
        first: Seconds until the first piece of its reply.
    """

    subject = MODEL
    _kind = SpanKind.CLIENT
    first: float | None = None

    def answered(self, reply: ChatMessage) -> None:
        """Note what the reply says of itself."""
        attributes, usage, raw = self._attributes, reply.token_usage, reply.raw
        if usage is not None:
            attributes["gen_ai.usage.input_tokens"] = usage.input_tokens
            attributes["gen_ai.usage.output_tokens"] = usage.output_tokens
            if usage.cached_tokens:
                attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
            if usage.reasoning_tokens:
                attributes["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
        if self.first is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = self.first
        if isinstance(raw, dict):
            if isinstance(told := raw.get("id"), str):
                attributes["gen_ai.response.id"] = told
            if isinstance(told := raw.get("model"), str):
                attributes["gen_ai.response.model"] = told


class OfTool(Operation):
    """A call of a tool; its subject is the identity of the call."""

    tool: str


class OfCode(OfTool):
    """Code of the model that runs."""

    subject = CODE
    tool = "python_interpreter"


class OfWait(Operation):
    """A wait; its subject is what for, and for which one."""
