"""Which model the examples ask: a simulated one, unless the environment names a real one.

By default a simulated provider is started inside the example: a real HTTP server that needs no key, waits
as long as a fast model would, and solves small tasks by writing code or calling tools. For a real model:

    MANYHANDS_MODEL=gpt-5-mini OPENAI_API_KEY=... python examples/async_agent.py

MANYHANDS_API_BASE (or OPENAI_BASE_URL) names any other server that speaks OpenAI's format.
"""

import atexit
import os

from manyhands.testing import SimulatedProvider

MODEL_ID = os.environ.get("MANYHANDS_MODEL")
API_BASE = os.environ.get("MANYHANDS_API_BASE") or os.environ.get("OPENAI_BASE_URL")
API_KEY = os.environ.get("OPENAI_API_KEY")

if MODEL_ID is None:
    _provider = SimulatedProvider(latency=0.2)
    _provider.start()
    atexit.register(_provider.stop)
    MODEL_ID, API_BASE, API_KEY = "simulated", _provider.base_url, "none-needed"
