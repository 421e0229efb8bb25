"""How a provider misbehaves, on purpose and the same way each time: latency and faults.

Both draw from random generators of their own, seeded by the provider's seed: the n-th request to arrive gets
the n-th draw, so changing the latency moves no fault, and one seed gives one history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from random import Random

Latency = float | tuple[float, float] | str | Callable[[Random], float]
Faults = Mapping[str | int, float] | Iterable[str | int | None] | str

RESET = "reset"  # the connection breaks before the answer
STALL = "stall"  # the request is taken and never answered
TRUNCATE = "truncate"  # the connection closes in the middle of the answer
FREEZE = "freeze"  # the answer stops in the middle, and the connection stays open
BAD_JSON = "bad_json"  # what arrives is no JSON
DRIP = "drip"  # the answer comes in small pieces, slowly
_KINDS = (RESET, STALL, TRUNCATE, FREEZE, BAD_JSON, DRIP)


class FaultPlan:
    """Says which fault, if any, the next request meets.

    Args:
        faults: Rates by kind (``{"500": 0.02, "reset": 0.01}``, or the same as text:
            ``"500=0.02,reset=0.01"``), or a script: one entry for each request in order of arrival, ``None``
            for a good answer, which all requests after its end get.
        seed: Makes the draws of rates repeatable.

    Raises:
        ValueError: If a kind is unknown or the rates are no probabilities.
    """

    def __init__(self, faults: Faults | None, seed: int = 0) -> None:
        if isinstance(faults, str):
            faults = _parse_rates(faults)
        self._random = Random(f"faults {seed}").random
        self._script = iter(()) if isinstance(faults, Mapping) or faults is None else iter(faults)
        rates = faults if isinstance(faults, Mapping) else {}
        self._thresholds = _thresholds(rates)
        self._scripted = not isinstance(faults, Mapping) and faults is not None

    def next(self) -> str | None:
        """Return the kind of fault for the request that has just arrived."""
        if self._thresholds:
            drawn = self._random()
            for limit, kind in self._thresholds:
                if drawn < limit:
                    return kind
        elif self._scripted:
            scripted = next(self._script, None)
            return None if scripted is None else check_kind(scripted)
        return None


def check_kind(kind: str | int) -> str:
    """Return a fault's name as text.

    Args:
        kind: ``"reset"``, ``"stall"``, ``"truncate"``, ``"freeze"``, ``"bad_json"``, ``"drip"`` or an HTTP
            status from 400.

    Raises:
        ValueError: If it is none of these.
    """
    name = str(kind)
    if name in _KINDS or (name.isdecimal() and 400 <= int(name) <= 599):
        return name
    raise ValueError(
        f"Unknown fault {name!r}: use an HTTP status from 400 to 599, or one of {', '.join(_KINDS)}."
    )


def _thresholds(rates: Mapping[str | int, float]) -> list[tuple[float, str]]:
    thresholds, total = [], 0.0
    for kind, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"The rate of fault {kind!r} is {rate}; it must be between 0 and 1.")
        total += rate
        thresholds.append((total, check_kind(kind)))
    if total > 1 + 1e-9:
        raise ValueError(f"The fault rates add up to {total:g}; they must not exceed 1.")
    return thresholds


def _parse_rates(text: str) -> dict[str | int, float]:
    rates: dict[str | int, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, equals, rate = part.partition("=")
        try:
            rates[kind.strip()] = float(rate)
        except ValueError:
            raise ValueError(f"Cannot read fault {part!r}: write kind=rate, as in 500=0.02.") from None
    return rates


def latency_source(latency: Latency, seed: int = 0) -> Callable[[], float]:
    """Return a function that draws the next request's latency in seconds.

    Args:
        latency: Seconds; a range ``(low, high)``; a function of the random generator; or text for command
            lines: ``"0.5"``, ``"uniform:0.2,0.8"``, ``"lognormal:mean,sigma"`` with the mean in seconds.
        seed: Makes the draws repeatable.

    Raises:
        ValueError: If the text cannot be read or seconds are negative.
    """
    if isinstance(latency, str):
        latency = _parse_latency(latency)
    random = Random(f"latency {seed}")
    if callable(latency):
        draw = latency
        return lambda: max(0.0, draw(random))
    if isinstance(latency, tuple):
        low, high = latency
        _check_seconds(low, high)
        return lambda: random.uniform(low, high)
    seconds = float(latency)
    _check_seconds(seconds)
    return lambda: seconds


def lognormal(mean: float, sigma: float) -> Callable[[Random], float]:
    """Return a latency with the long tail of real providers.

    Args:
        mean: Mean of the latency in seconds.
        sigma: Spread of its logarithm; 0.5 puts the 99th percentile at 2.8 times the mean.
    """
    # The mean of a log-normal is exp(mu + sigma^2 / 2): solved for mu.
    mu = math.log(mean) - sigma * sigma / 2
    return lambda random: random.lognormvariate(mu, sigma)


def _parse_latency(text: str) -> float | tuple[float, float] | Callable[[Random], float]:
    kind, colon, rest = text.partition(":")
    try:
        if not colon:
            return float(text)
        first, second = (float(part) for part in rest.split(","))
        if kind == "uniform":
            return first, second
        if kind == "lognormal" and first > 0 and second >= 0:
            return lognormal(first, second)
    except ValueError:
        pass
    raise ValueError(f"Cannot read latency {text!r}: write 0.5, uniform:0.2,0.8 or lognormal:0.5,0.4.")


def _check_seconds(*values: float) -> None:
    for value in values:
        if not 0 <= value < math.inf:
            raise ValueError(f"A latency of {value} seconds makes no sense; it must be 0 or more.")
