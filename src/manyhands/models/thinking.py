"""Reasoning that a model writes into its text: ``<think>...</think>`` at the beginning of it."""

from __future__ import annotations

_OPEN, _CLOSE = "<think>", "</think>"


class ThinkSplitter:
    """Parts a text that arrives in pieces into reasoning and the rest."""

    def __init__(self) -> None:
        self._held = ""
        self._take = self._before

    def feed(self, text: str) -> tuple[str, str]:
        """Take more text; return what of it certainly is text, and what certainly is reasoning."""
        text, self._held = self._held + text, ""
        return self._take(text)

    def _before(self, text: str) -> tuple[str, str]:
        begun = text.lstrip()
        if len(begun) < len(_OPEN) and _OPEN.startswith(begun):
            self._held = text
            return "", ""
        if not begun.startswith(_OPEN):
            self._take = self._after
            return text, ""
        self._take = self._inside
        return self._inside(begun.removeprefix(_OPEN))

    def _inside(self, text: str) -> tuple[str, str]:
        thought, closed, rest = text.partition(_CLOSE)
        if closed:
            self._take = self._gap
            return self._gap(rest)[0], thought
        keep = next((size for size in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:size])), 0)
        self._held = text[len(text) - keep :]
        return "", text[: len(text) - keep]

    def _gap(self, text: str) -> tuple[str, str]:
        text = text.lstrip()
        if text:
            self._take = self._after
        return text, ""

    def _after(self, text: str) -> tuple[str, str]:
        return text, ""

    def end(self) -> tuple[str, str]:
        """Return what was held back when the text ends: text, and reasoning."""
        held, self._held = self._held, ""
        return ("", held) if self._take == self._inside else (held, "")
