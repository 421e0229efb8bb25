"""Stop sequences: which models take them, and how a reply is cut for those that do not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Reasoning models that refuse `stop`, with or without a vendor before a dot.
_WITHOUT_STOP = re.compile(r"(?:[a-z][\w-]*\.)?(?:o[34](?![a-z0-9])|gpt-5|grok-)", re.IGNORECASE)


def supports_stop_parameter(model_id: str | None) -> bool:
    """Return whether the model takes stop sequences.

    Args:
        model_id: Its name; a provider before a slash is ignored.
    """
    return not _WITHOUT_STOP.match((model_id or "").rsplit("/", 1)[-1])


def remove_content_after_stop_sequences(
    content: str | None, stop_sequences: Iterable[str] | None
) -> str | None:
    """Return ``content`` up to the stop sequence in it that is complete first.

    Args:
        content: The text of a reply.
        stop_sequences: Texts at which it ends; they are cut off as well.
    """
    if not content or not stop_sequences:
        return content
    found = [(content.find(stop), len(stop)) for stop in stop_sequences if stop]
    ends = [(start + length, start) for start, length in found if start >= 0]
    return content[: min(ends)[1]] if ends else content


class StopCutter:
    """Cuts a streamed text at the first stop sequence, which may arrive in several pieces.

    Args:
        stop_sequences: Texts at which the stream ends.
    """

    def __init__(self, stop_sequences: Iterable[str]) -> None:
        self._stops = [stop for stop in stop_sequences if stop]
        self._longest = max(map(len, self._stops), default=1)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Take more text; return what certainly comes before any stop sequence."""
        if self.stopped:
            return ""
        text = self._held + text
        cut = remove_content_after_stop_sequences(text, self._stops) or ""
        if len(cut) < len(text):
            self.stopped, self._held = True, ""
            return cut
        keep = self._unsure(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _unsure(self, text: str) -> int:
        """Return how many characters at the end may be the beginning of a stop sequence."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def end(self) -> str:
        """Return what was held back when the stream ends."""
        held, self._held = self._held, ""
        return held
