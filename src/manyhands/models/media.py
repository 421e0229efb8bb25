"""Pictures, sounds and files in messages, in whatever form they come: as addresses, base64 or bytes.

A part of a message that holds one is ``{"type": "image", "image": ...}``, ``{"type": "audio", "audio": ...}``
or ``{"type": "file", "file": ...}``; parts in a provider's own form go to it as they are.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from manyhands.messages import encode_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_KINDS = ("image", "audio", "file")
_SIGNS = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
)


class HeavyOnLoop(Exception):
    """Something has to be encoded first, which takes too long for an event loop."""


def is_heavy(part: Mapping[str, Any]) -> bool:
    """Return whether a part of a message holds what has yet to be encoded."""
    kind = part.get("type")
    return kind in _KINDS and not isinstance(part.get(kind), (str, dict))


def only_text(parts: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether all parts are text."""
    return all(part.get("type") == "text" for part in parts)


def media_type(data: bytes, otherwise: str = "image/png") -> str:
    """Return what the bytes of a file are, by their first ones."""
    if data.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], otherwise)
    return next((kind for sign, kind in _SIGNS if data.startswith(sign)), otherwise)


def data_url(image: Any) -> str:
    """Return the address of an image: its own if it has one, else one that holds the image.

    Args:
        image: A PIL image, bytes of an image file, base64 text, or an ``http(s)`` or ``data`` URL.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return image
    if isinstance(image, bytes):
        return f"data:{media_type(image)};base64,{base64.b64encode(image).decode()}"
    return f"data:image/png;base64,{encode_image(image)}"


def file_url(part: Mapping[str, Any]) -> str:
    """Return the address of the file in a part: its own if it has one, else one that holds the file.

    Args:
        part: ``file`` is bytes, base64 text or an address; ``media_type`` may say what it is.
    """
    file = part["file"]
    if isinstance(file, str):
        if file.startswith(("http://", "https://", "data:")):
            return file
        return f"data:{part.get('media_type') or 'application/pdf'};base64,{file}"
    kind = part.get("media_type") or media_type(file, "application/pdf")
    return f"data:{kind};base64,{base64.b64encode(file).decode()}"


def file_name(part: Mapping[str, Any]) -> str:
    """Return the name of the file in a part."""
    return str(part.get("filename") or "file.pdf")


def sound(part: Mapping[str, Any]) -> dict[str, str]:
    """Return the sound in a part as base64 with its format.

    Args:
        part: ``audio`` is bytes or base64 text; ``format`` may say what it is.
    """
    data = part["audio"]
    if isinstance(data, str):
        return {"data": data, "format": str(part.get("format") or "wav")}
    kind = part.get("format") or media_type(data, "audio/wav").rpartition("/")[2].replace("mpeg", "mp3")
    return {"data": base64.b64encode(data).decode(), "format": str(kind)}


def split_data_url(url: str) -> tuple[str, str] | None:
    """Return media type and base64 text of a ``data`` URL, ``None`` for other addresses."""
    if not url.startswith("data:"):
        return None
    kind, _, data = url.removeprefix("data:").partition(";base64,")
    return kind, data
