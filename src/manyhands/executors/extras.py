"""Packages that some executors need: looked for when one is made, imported when it is used."""

from __future__ import annotations

from importlib.util import find_spec

from manyhands.errors import MissingExtraError


def need(module: str, feature: str, extra: str) -> None:
    """Check that ``module`` is installed, without importing it: that may take a second.

    Args:
        module: The module.
        feature: What needs it, as the user would name it.
        extra: The extra of manyhands that brings it.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtraError(feature, extra)
