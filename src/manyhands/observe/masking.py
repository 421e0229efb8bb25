"""Secrets in texts that leave the process: found by their looks, their names, and their values."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MASK = "***"

# What keys of well-known services look like.
_SHAPES = (
    r"\b(?:sk|pk|rk)-[\w-]{12,}",
    r"\b(?:gsk_|hf_|xai-|nvapi-|r8_|pplx-|tvly-|fw_|csk-)[\w-]{12,}",
    r"\bAIza[\w-]{30,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-)[\w-]{12,}",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
)
# What they are called where they are given: `api_key=...`, `"authorization": "Bearer ..."`.
_NAMED = re.compile(
    r"((?:api[_-]?key|authorization|access[_-]?key|secret|passwd|password|\btoken|_token)[\"']?\s*[:=]\s*[\"']?"
    r"(?:(?:bearer|basic)\s+)?)(?!\d+\b|None\b|\*\*\*)([^\s\"',;&)}\]]{6,})",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_ENVIRONMENT = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8


class Masker:
    """Masks secrets in texts.

    Args:
        environment: Variables whose names say that they hold a secret are masked wherever their values
            appear; by default those of the process, as they are now.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        values = {
            value
            for name, value in (os.environ if environment is None else environment).items()
            if _ENVIRONMENT.search(name) and len(value) >= _SHORTEST
        }
        longest_first = sorted(values, key=len, reverse=True)
        self._known = re.compile("|".join([*map(re.escape, longest_first), *_SHAPES]))

    def __call__(self, text: str) -> str:
        """Return ``text`` with its secrets masked."""
        text = self._known.sub(MASK, text)
        text = _NAMED.sub(rf"\g<1>{MASK}", text)
        text = _BEARER.sub(rf"\g<1>{MASK}", text)
        return _IN_ADDRESS.sub(rf"\g<1>{MASK}@", text)
