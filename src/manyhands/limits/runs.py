"""The limits of an agent's runs: slots, tenants, a budget, and the size of the tree they grow."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError, check_count
from manyhands.limits.budget import Budget
from manyhands.limits.tenants import FairLimiter
from manyhands.limits.tree import RunTree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from manyhands.limits.redis.slots import RedisConcurrencyRegistry
    from manyhands.limits.registry import ConcurrencyRegistry
    from manyhands.run import Run


class RunLimits:
    """What the runs of one agent have to pass before they begin, and are held to while they last.

    Args:
        max_concurrency: Most runs at once; ``None`` for no limit.
        max_queued: Most runs of one tenant that may wait; more are refused.
        tenant_weights: Shares of tenants that differ from 1.
        registry: A registry whose limit for the agent's name counts as well.
        budget: Limits of each run's own budget, by kind (see :class:`~manyhands.limits.budget.Budget`).
        max_depth: Most generations of sub-agents below a run.
        max_breadth: Most sub-agents at work at once below a run.

    Attributes:
        slots: The slots that runs take.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        max_queued: int | None = None,
        tenant_weights: Mapping[str, float] | None = None,
        registry: ConcurrencyRegistry | RedisConcurrencyRegistry | None = None,
        budget: Mapping[str, float] | None = None,
        max_depth: int | None = None,
        max_breadth: int | None = None,
    ) -> None:
        slots = check_count("max_concurrency", max_concurrency) or 0
        self.slots = FairLimiter(slots, weights=tenant_weights, max_queued=max_queued)
        self.registry = registry
        self.budget = _checked_budget(budget)
        self.max_depth = max_depth
        self.max_breadth = max_breadth
        RunTree(max_depth, max_breadth)  # refuses at once what cannot be

    @asynccontextmanager
    async def around(self, run: Run) -> AsyncIterator[None]:
        """Take what ``run`` needs, and give it back at the end.

        Raises:
            QueueFullError: Too many runs of its tenant wait already.
        """
        async with AsyncExitStack() as stack:
            if not _within_own_kind(run):
                await self._take_slots(run, stack)
            if self.budget:
                run.budget = run.budget.child(**self.budget) if run.budget else Budget(**self.budget)
            if self.max_depth is not None or self.max_breadth is not None:
                run.tree = run.tree or RunTree(self.max_depth, self.max_breadth)
            yield

    async def _take_slots(self, run: Run, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(self.slots.slot(run.options.tenant))
        if self.registry is not None and run.agent.name:
            await stack.enter_async_context(self.registry.throttle(run.agent.name))


def _checked_budget(budget: Mapping[str, float] | None) -> dict[str, Any]:
    try:
        wanted: dict[str, Any] = dict(budget or {})
        Budget(**wanted)
    except (TypeError, ValueError) as error:
        raise CallerError(f"budget={budget!r} cannot be: {error}") from error
    return wanted


def _within_own_kind(run: Run) -> bool:
    """Whether an ancestor is a run of the same agent: it holds the slot that this one would wait for."""
    parent = run.parent
    while parent is not None:
        if parent.agent is run.agent:
            return True
        parent = parent.parent
    return False
