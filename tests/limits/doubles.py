"""Models that answer, or fail, as a test wishes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from manyhands.messages import ChatMessage, ChatMessageStreamDelta, MessageRole, TokenUsage
from manyhands.models.base import Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

QUESTION = [ChatMessage(MessageRole.USER, "What is the capital of France?")]


def reply(text: str = "Paris", used: TokenUsage | None = None) -> ChatMessage:
    return ChatMessage(MessageRole.ASSISTANT, text, token_usage=used)


class PlayedModel(Model):
    """Gives one answer after the other; an exception among them is raised; the last one is repeated.

    Attributes:
        asked: Loop times of the calls.
        most: Most calls under way at once.
        ended: How many streams and calls were left, one way or another.
    """

    def __init__(
        self,
        answers: Sequence[str | Exception | ChatMessage] = ("Paris",),
        latency: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"model_id": "played", **kwargs})
        self.answers = list(answers)
        self.latency = latency
        self.asked: list[float] = []
        self.options: list[dict[str, Any]] = []
        self.now = self.most = self.ended = 0

    async def agenerate(  # type: ignore[override]
        self, messages: list[ChatMessage], **options: Any
    ) -> ChatMessage:
        self.options.append(options)
        self._begin()
        try:
            await asyncio.sleep(self.latency)
            return self._answer()
        finally:
            self._end()

    async def agenerate_stream(  # type: ignore[override]
        self, messages: list[ChatMessage], **options: Any
    ) -> AsyncIterator[ChatMessageStreamDelta]:
        """Stream letter by letter; ``!`` in an answer breaks the stream there."""
        self.options.append(options)
        self._begin()
        try:
            await asyncio.sleep(self.latency)
            answer = self._answer()
            for letter in answer.text:
                if letter == "!":
                    raise ConnectionError("the stream broke")
                yield ChatMessageStreamDelta(letter)
                await asyncio.sleep(self.latency)
            yield ChatMessageStreamDelta(token_usage=answer.token_usage)
        finally:
            self._end()

    def _begin(self) -> None:
        self.asked.append(asyncio.get_running_loop().time())
        self.now += 1
        self.most = max(self.most, self.now)

    def _answer(self) -> ChatMessage:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return reply(answer) if isinstance(answer, str) else answer

    def _end(self) -> None:
        self.now -= 1
        self.ended += 1


async def streamed(model: Model) -> str:
    """Return the text that a model streams."""
    return "".join([delta.content or "" async for delta in model.agenerate_stream(QUESTION)])
