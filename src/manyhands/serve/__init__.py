"""Agents over HTTP: runs, their events as a stream, conversations, approvals, and a chat face.

::

    app = create_app(agent)             # for any ASGI server, or mounted in another app
    manyhands serve module:agent        # the same as a command
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhands._lazy import lazy_exports
from manyhands.errors import MissingExtraError

if TYPE_CHECKING:
    from manyhands.serve.app import create_app as create_app
    from manyhands.serve.auth import Token as Token
    from manyhands.serve.auth import read_tokens as read_tokens
    from manyhands.serve.events import Narrator as Narrator
    from manyhands.serve.server import serve as serve
    from manyhands.serve.service import Service as Service
    from manyhands.serve.settings import Settings as Settings
    from manyhands.serve.streaming import sse_events as sse_events

_get, __dir__, __all__ = lazy_exports(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _get(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("starlette", "uvicorn"):
            raise MissingExtraError(f"manyhands.serve.{name}", "serve") from error
        raise
