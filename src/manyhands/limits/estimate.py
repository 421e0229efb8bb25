"""How many tokens a call will use, guessed before it is made."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from manyhands.messages import ChatMessage, TokenUsage

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHARACTERS_PER_TOKEN = 4
_PER_MESSAGE = 4
_PER_IMAGE = 800
_FIRST_GUESS = 256.0
_WEIGHT_OF_LATEST = 0.1
# Too small a guess does more harm than one too large.
_WEIGHT_OF_MORE = 0.5
_PER_TOOL = 100
_LONGEST_REPLY = 16_384.0
_MARGIN = 1.5
_FORGETTING = 0.99
_REPLY_LIMITS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens")


def estimate_prompt(messages: Iterable[ChatMessage]) -> int:
    """Return roughly how many tokens the messages of a request are."""
    characters = tokens = 0
    for message in messages:
        tokens += _PER_MESSAGE
        content: Any = message.content if type(message) is ChatMessage else _content_of(message)
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            for part in content:
                characters += len(part.get("text") or "")
                tokens += _PER_IMAGE if part.get("type", "text") != "text" else 0
    return tokens + characters // _CHARACTERS_PER_TOKEN + 1


def _content_of(message: Any) -> Any:
    return message.get("content") if isinstance(message, dict) else getattr(message, "content", None)


class Guess(NamedTuple):
    """What a request is expected to use.

    Attributes:
        counted: Tokens of the prompt by plain counting.
        usage: What it will most likely use.
        most: What it will hardly exceed.
    """

    counted: int
    usage: TokenUsage
    most: TokenUsage


class Estimator:
    """Guesses the size of a call, and learns from what calls really used."""

    __slots__ = ("_largest", "_reply", "_scale")

    def __init__(self) -> None:
        self._reply = _FIRST_GUESS
        self._largest: float | None = None
        # Tokens counted by the provider for one that was guessed: languages and tools differ.
        self._scale = 1.0

    def guess(self, messages: Iterable[ChatMessage], options: dict[str, Any]) -> Guess:
        """Return what a request will most likely use.

        Args:
            messages: Its messages.
            options: Its options; tools count, and a limit on the reply's tokens.
        """
        counted = estimate_prompt(messages) + _PER_TOOL * len(options.get("tools_to_call_from") or ())
        limit = _reply_limit(options)
        usage = TokenUsage(round(counted * self._scale), round(min(self._reply, limit)))
        # Before the first reply nothing is known: it may be as long as models reply at all.
        most = _LONGEST_REPLY if self._largest is None else max(self._largest * _MARGIN, _FIRST_GUESS)
        return Guess(counted, usage, TokenUsage(round(usage.input_tokens * _MARGIN), round(min(most, limit))))

    def learn(self, guess: Guess, used: TokenUsage) -> None:
        """Take in what a call really used."""
        self._reply += _WEIGHT_OF_LATEST * (used.output_tokens - self._reply)
        self._largest = max(used.output_tokens, (self._largest or 0.0) * _FORGETTING)
        if used.input_tokens > 0:
            scale = used.input_tokens / guess.counted
            weight = _WEIGHT_OF_LATEST if scale < self._scale else _WEIGHT_OF_MORE
            self._scale += weight * (scale - self._scale)


def _reply_limit(options: dict[str, Any]) -> float:
    named = [options[name] for name in _REPLY_LIMITS if isinstance(options.get(name), int)]
    return min(named) if named else math.inf
