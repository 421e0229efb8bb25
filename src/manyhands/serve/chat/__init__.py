"""An agent with the face of a model: OpenAI's chat completions, for clients that exist already."""

from __future__ import annotations

from manyhands.serve.chat.doors import ENDPOINTS as ENDPOINTS
