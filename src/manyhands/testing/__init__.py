"""Doubles to test agents with, without a key: scripted models, and a provider that is a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manyhands._lazy import lazy_exports

if TYPE_CHECKING:
    from manyhands.limits.retry import retries_off as retries_off
    from manyhands.testing.models import FunctionModel as FunctionModel
    from manyhands.testing.models import ModelCall as ModelCall
    from manyhands.testing.models import ScriptedModel as ScriptedModel
    from manyhands.testing.models import ScriptEndedError as ScriptEndedError
    from manyhands.testing.simulated import SimulatedProvider as SimulatedProvider

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
