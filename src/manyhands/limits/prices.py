"""What a call costs, in US dollars: from a table of one's own, or from the package ``genai-prices``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manyhands.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from manyhands.messages import TokenUsage

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens.

    Attributes:
        input: Of the prompt.
        output: Of the reply.
        cached_input: Of what the provider read from its cache; ``None``: as the rest of the prompt.
    """

    input: float
    output: float
    cached_input: float | None = None

    def of(self, usage: TokenUsage) -> float:
        """Return the dollars for ``usage``."""
        cached_price = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input_tokens - usage.cached_tokens
        dollars = fresh * self.input + usage.cached_tokens * cached_price + usage.output_tokens * self.output
        return dollars / _MILLION


def cost(model_id: str | None, usage: TokenUsage, prices: Mapping[str, Price] | None = None) -> float:
    """Return what ``usage`` of a model costs, in dollars.

    Args:
        model_id: Name of the model.
        usage: Its tokens.
        prices: Prices by model name; ``None`` asks the package ``genai-prices``.

    Raises:
        KeyError: The price of the model is not known.
        MissingExtraError: ``prices`` is ``None`` and ``genai-prices`` is not installed.
    """
    if prices is None:
        return _looked_up(model_id, usage)
    if model_id is None or model_id not in prices:
        raise KeyError(f"No price for the model {model_id!r}. Known are: {', '.join(sorted(prices))}.")
    return prices[model_id].of(usage)


def _looked_up(model_id: str | None, usage: TokenUsage) -> float:
    try:
        genai_prices = importlib.import_module("genai_prices")
    except ImportError as error:
        raise MissingExtraError("Looking up prices", "prices") from error
    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens,
    )
    try:
        return float(genai_prices.calc_price(counted, model_ref=model_id or "").total_price)
    except LookupError as error:
        raise KeyError(f"No price for the model {model_id!r}; give one in prices=.") from error
