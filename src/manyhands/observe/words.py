"""Texts of models and tools, made safe to show: nothing in them steers a terminal, and nothing breaks one."""

from __future__ import annotations

_ESCAPES = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_ESCAPES |= {0x7F: "\u2421", **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}}
# Half a surrogate pair cannot be encoded; overrides of the writing direction show what is not there.
_ESCAPES |= dict.fromkeys((*range(0xD800, 0xE000), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")
_TABLE = str.maketrans(_ESCAPES)


def visible(text: object) -> str:
    """Return a text with its control characters as pictures: an escape is shown as ``␛`` and does nothing."""
    words = str(text).replace("\r\n", "\n")
    return words if words.isascii() and words.isprintable() else words.translate(_TABLE)
