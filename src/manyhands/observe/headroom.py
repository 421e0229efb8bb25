"""How much room every limit leaves: slots of agents, models and names, rates of providers, worker threads."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from manyhands._bridge import workers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from manyhands.limits.capacity import SlotStats
    from manyhands.limits.rate import RateStats


def headroom(agents: Iterable[Any] = (), registries: Iterable[Any] = ()) -> list[dict[str, Any]]:
    """Return the limits that somebody could run into, as JSON values; those without a limit are left out.

    Args:
        agents: Agents whose slots, registries and models are asked, beside what the process shares.
        registries: Further registries of names.

    Returns:
        One dict each: ``kind`` is ``slots``, ``rate`` or ``threads``, ``name`` says of what.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in _rows(list(agents), list(registries)):
        rows.setdefault((row["kind"], row["name"]), row)
    return list(rows.values())


def _rows(agents: list[Any], registries: list[Any]) -> Iterator[dict[str, Any]]:
    for agent in agents:
        yield from _of_agent(agent)
        yield from _of_model(agent.model)
        registries.append(getattr(agent.limits, "registry", None))
    everyones = _shared("registry", "get_concurrency_registry")
    for registry in dict.fromkeys((*registries, everyones)):
        yield from _of_registry(registry)
    rates = _shared("rate", "shared")
    if rates is not None:
        for name, stats in rates.stats().items():
            yield from _rate(name, stats)
    yield from _threads()


def _shared(module: str, name: str) -> Any:
    """Return what a module shares with the whole process; where nobody has imported it there is nothing."""
    found = getattr(sys.modules.get(f"manyhands.limits.{module}"), name, None)
    return found() if callable(found) else found


def _of_agent(agent: Any) -> Iterator[dict[str, Any]]:
    if agent.limits is None:
        return
    slots = agent.limits.slots
    if slots.limit:
        name = agent.name or type(agent).__name__
        yield _slots(f"agent {name}", slots.limit, slots.held(), slots.waiting())


def _of_model(model: Any) -> Iterator[dict[str, Any]]:
    # A wrapper answers for the one that it wraps; a model behind an API has its limits inside.
    limited = getattr(model, "limited", None) or model
    slots: Any = getattr(limited, "slots", None)
    rate: Any = getattr(limited, "rate", None)
    name = f"model {getattr(model, 'model_id', None) or type(model).__name__}"
    if hasattr(slots, "stats"):
        stats = slots.stats()
        if stats.limit:
            yield _slots(name, stats.limit, stats.held, stats.waiting)
    # Rates over Redis cannot be read without waiting for the network.
    if rate is not None and not hasattr(rate, "astats"):
        yield from _rate(rate.name or name, rate.stats())


def _of_registry(registry: Any) -> Iterator[dict[str, Any]]:
    # One over Redis cannot be read without waiting for the network.
    if registry is None or hasattr(registry, "astats"):
        return
    stats: dict[str, SlotStats] = registry.stats()
    for name, one in stats.items():
        if one.limit:
            yield _slots(name, one.limit, one.held, one.waiting)


def _slots(name: str, limit: int, held: int, waiting: int) -> dict[str, Any]:
    return {"kind": "slots", "name": name, "limit": limit, "held": held, "waiting": waiting}


def _rate(name: str, stats: RateStats) -> Iterator[dict[str, Any]]:
    yield {
        "kind": "rate",
        "name": name,
        "requests_per_minute": _finite(stats.requests_per_minute),
        "requests_used": round(stats.requests_used, 1),
        "tokens_per_minute": _finite(stats.tokens_per_minute),
        "tokens_used": round(stats.tokens_used, 1),
        "waiting": stats.waiting,
        "paused_for": round(stats.paused_for, 3),
        "pace": _finite(stats.pace),
    }


def _threads() -> Iterator[dict[str, Any]]:
    stats = workers.stats()
    busy = stats["threads"] - stats["idle"]
    if busy or stats["waiting"]:
        yield {
            "kind": "threads",
            "name": "worker threads",
            "limit": stats["cap"],
            "held": busy,
            "waiting": stats["waiting"],
        }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
