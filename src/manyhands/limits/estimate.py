"""How many tokens a call will use, guessed before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands.messages import TokenUsage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from manyhands.messages import ChatMessage

_CHARACTERS_PER_TOKEN = 4
_PER_MESSAGE = 4
_PER_IMAGE = 800
_FIRST_GUESS = 256.0
_WEIGHT_OF_LATEST = 0.1


def estimate_prompt(messages: Iterable[ChatMessage]) -> int:
    """Return roughly how many tokens the messages of a request are."""
    characters = tokens = 0
    for message in messages:
        tokens += _PER_MESSAGE
        content: Any = getattr(message, "content", message)
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                characters += len(part.get("text") or "")
                tokens += _PER_IMAGE if part.get("type", "text") != "text" else 0
    return tokens + characters // _CHARACTERS_PER_TOKEN + 1


class Estimator:
    """Guesses the size of a call, and learns from what calls really used."""

    __slots__ = ("_reply",)

    def __init__(self) -> None:
        self._reply = _FIRST_GUESS

    def guess(self, messages: Iterable[ChatMessage], options: dict[str, Any]) -> TokenUsage:
        """Return the tokens that a request is expected to use.

        Args:
            messages: Its messages.
            options: Its options; a limit on the reply's tokens counts.
        """
        reply = self._reply
        for name in ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens"):
            limit = options.get(name)
            if isinstance(limit, int):
                reply = min(reply, limit)
        return TokenUsage(estimate_prompt(messages), round(reply))

    def learn(self, usage: TokenUsage) -> None:
        """Take in what a call used."""
        self._reply += _WEIGHT_OF_LATEST * (usage.output_tokens - self._reply)
