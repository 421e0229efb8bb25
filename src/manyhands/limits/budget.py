"""What a run, its descendants, or a whole batch may use up: tokens, requests, money, time, steps, tool calls.

A budget is one pot that any number of runs draw from at once. A model call reserves what it is expected
to use before it is made and settles to what it really used, so that runs side by side cannot all take the
last of it. A call that fits only if the calls under way turn out cheap waits for them to settle; one that
cannot fit any more raises :class:`BudgetExceededError`.

A budget may have a parent: whatever it spends, its parent spends too. So a batch shares one budget, each of
its runs has its own inside, and the runs that a run starts draw from that.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from manyhands.errors import AgentError
from manyhands.events import waiting
from manyhands.limits.bucket import EPSILON
from manyhands.limits.prices import cost
from manyhands.limits.turnstile import Turnstile
from manyhands.limits.waiting import refuse_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from manyhands.limits.prices import Price
    from manyhands.messages import TokenUsage

KINDS = ("tokens", "requests", "money", "steps", "tool_calls")
_UNITS = {"money": "US dollars", "tool_calls": "tool calls"}


class BudgetExceededError(AgentError):
    """A budget does not allow what was asked for.

    Args:
        kind: What ran out: ``tokens``, ``requests``, ``money``, ``seconds``, ``steps`` or ``tool_calls``.
        limit: What the budget allows in all.
        spent: What was used already.
        wanted: What was asked for on top; 0 for time.
        budget: The budget that is used up.
    """

    ends_run = True
    run_status = "budget_exceeded"

    def __init__(
        self, kind: str, limit: float, spent: float, wanted: float = 0, budget: Budget | None = None
    ) -> None:
        unit = _UNITS.get(kind, kind)
        more = f" and {wanted:.6g} more wanted" if wanted else ""
        super().__init__(f"The budget of {limit:.6g} {unit} is used up: {spent:.6g} spent{more}.")
        self.kind = kind
        self.limit = limit
        self.spent = spent
        self.wanted = wanted
        self.budget = budget

    def alike(self) -> BudgetExceededError:
        """Return another error that says the same."""
        return BudgetExceededError(self.kind, self.limit, self.spent, self.wanted, self.budget)


@dataclass(slots=True)
class _Pot:
    """One kind of thing to spend."""

    limit: float
    spent: float = 0.0
    reserved: float = 0.0


class Hold:
    """What one call has reserved of a budget; settle it when the call is over."""

    __slots__ = ("_amounts", "_budget")

    def __init__(self, budget: Budget, amounts: dict[str, float]) -> None:
        self._budget = budget
        self._amounts: dict[str, float] | None = amounts

    def settle(self, **used: float) -> None:
        """Replace what was reserved by what was used; kinds not named were used as reserved.

        Args:
            **used: Amounts by kind. Only the first settling counts.
        """
        amounts, self._amounts = self._amounts, None
        if amounts is not None:
            self._budget._settle(amounts, {**amounts, **used})

    def cancel(self) -> None:
        """Give everything back: the call was never made."""
        self.settle(**dict.fromkeys(self._amounts or (), 0.0))


class Budget:
    """A pot of things to use up, shared by whoever holds it; safe from any loop and thread.

    Args:
        tokens: Most tokens, prompts and replies together.
        requests: Most model requests.
        money: Most US dollars.
        seconds: Longest time since the first use; a run that it is over for is ended wherever it is.
        steps: Most steps.
        tool_calls: Most tool calls.
        parent: A budget that spends along with this one.
        prices: Dollars for a million tokens, by model; ``genai-prices`` is asked if there are none.
        clock: Seconds that only grow.

    Raises:
        TypeError: A limit is no number.
        ValueError: A limit is negative.
    """

    def __init__(
        self,
        *,
        tokens: float | None = None,
        requests: float | None = None,
        money: float | None = None,
        seconds: float | None = None,
        steps: float | None = None,
        tool_calls: float | None = None,
        parent: Budget | None = None,
        prices: Mapping[str, Price] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        limits = (tokens, requests, money, steps, tool_calls)
        self.parent = parent
        self.seconds = _checked_limit("seconds", seconds)
        self._pots = {
            kind: _Pot(_checked_limit(kind, limit)) for kind, limit in zip(KINDS, limits, strict=True)
        }
        self._prices = prices
        self._clock = clock
        self._began: float | None = None
        # One line for the whole family: a call takes from all its ancestors in one go, or from none.
        self._gate: Turnstile = parent._gate if parent is not None else Turnstile()
        self._watchers: set[Callable[[], object]] = set()
        self._family: tuple[Budget, ...] = (self, *(parent._family if parent is not None else ()))

    def used_up(self, error: BaseException | None) -> BudgetExceededError | None:
        """Return ``error`` if it says that this budget, or one that it is in, is used up."""
        if isinstance(error, BudgetExceededError) and error.budget in self._family:
            return error
        return None

    def child(self, **limits: Any) -> Budget:
        """Return a budget inside this one; the arguments are those of the class."""
        return Budget(**{"prices": self._prices, "clock": self._clock, **limits, "parent": self})

    def set_limit(self, **limits: float | None) -> None:
        """Change what may be used up in all; what was spent so far counts. From any thread.

        Args:
            **limits: Limits by kind, as the class takes them, ``None`` for no limit; others stay.

        Raises:
            TypeError: A limit is no number, or of no known kind.
            ValueError: A limit is negative.
        """
        for kind in limits.keys() - {*KINDS, "seconds"}:
            raise TypeError(f"A budget has no limit of {kind!r}; it has {', '.join(KINDS)} and seconds.")
        checked = {kind: _checked_limit(kind, limit) for kind, limit in limits.items()}
        with self._gate.locked():
            self.seconds = checked.pop("seconds", self.seconds)
            for kind, limit in checked.items():
                self._pots[kind].limit = limit
            watchers = tuple(self._watchers) if "seconds" in limits else ()
        self._gate.nudge()  # who waits may go on now, or never
        for told in watchers:
            told()

    # --- Spending --------------------------------------------------------------------------------

    async def reserve(self, most: Mapping[str, float] | None = None, **wanted: float) -> Hold:
        """Reserve what a call is expected to use.

        Args:
            most: Amounts to reserve rather, by kind, as far as the budget has them: what the call might
                use if it turns out large.
            **wanted: Amounts by kind: ``tokens``, ``requests``, ``money``, ``steps``, ``tool_calls``.

        Raises:
            BudgetExceededError: It does not fit, whatever the calls under way turn out to use.
        """
        taken: dict[str, float] = {}

        def take() -> float | None:
            return self._take(wanted, most or {}, taken)

        if not self._gate.try_pass(take):
            with waiting("queue", "budget"):
                await self._gate.pass_in_turn(take)
        return Hold(self, taken)

    def reserve_sync(self, most: Mapping[str, float] | None = None, **wanted: float) -> Hold:
        """Do as :meth:`reserve`, in sync code.

        Raises:
            BudgetExceededError: It does not fit.
            RuntimeError: This thread runs an event loop, which waiting here would block.
        """
        refuse_on_loop("reserve_sync()", "reserve()")
        taken: dict[str, float] = {}
        self._gate.pass_in_turn_sync(lambda: self._take(wanted, most or {}, taken))
        return Hold(self, taken)

    def charge(self, **used: float) -> None:
        """Spend at once, without waiting: steps, tool calls, or whatever was used already.

        Raises:
            BudgetExceededError: It does not fit beside what is spent and reserved; nothing is spent.
        """
        with self._gate.locked():
            self._check(used, beside_reserved=True)
            for budget in self._family:
                for kind, amount in used.items():
                    budget._pots[kind].spent += amount

    def check(self) -> None:
        """Raise :class:`BudgetExceededError` if time is up."""
        with self._gate.locked():
            self._check({})

    # --- Time ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let the time run, of this budget and of those that it is in, unless it does already."""
        with self._gate.locked():
            for budget in self._family:
                if budget._began is None:
                    budget._began = budget._clock()

    def watch_time(self, told: Callable[[], object]) -> Callable[[], None]:
        """Call ``told``, in whichever thread, when somebody changes how much time there is.

        Returns:
            What ends it.
        """
        with self._gate.locked():
            for budget in self._family:
                budget._watchers.add(told)

        def end() -> None:
            with self._gate.locked():
                for budget in self._family:
                    budget._watchers.discard(told)

        return end

    def out_of_time(self) -> BudgetExceededError:
        """Return the error of whoever is ended because time is up."""
        tightest = min(self._family, key=lambda budget: budget.seconds - budget.elapsed)
        spent = max(tightest.seconds, tightest.elapsed)
        return BudgetExceededError("seconds", tightest.seconds, spent, budget=tightest)

    # --- In line ---------------------------------------------------------------------------------

    def _take(
        self, wanted: Mapping[str, float], most: Mapping[str, float], taken: dict[str, float]
    ) -> float | None:
        """Reserve, or return how long to wait; the lock of the family is held."""
        self._check(wanted)
        for kind, amount in wanted.items():
            pots = [budget._pots[kind] for budget in self._family]
            left = min(pot.limit - pot.spent for pot in pots)
            amount = taken[kind] = max(amount, min(most.get(kind, 0.0), left))
            if any(pot.spent + pot.reserved + amount > pot.limit * (1 + EPSILON) for pot in pots):
                return self._left_seconds()  # others may settle to less until then
        for kind, amount in taken.items():
            for budget in self._family:
                budget._pots[kind].reserved += amount
        return None

    def _check(self, wanted: Mapping[str, float], beside_reserved: bool = False) -> None:
        for budget in self._family:
            if budget.elapsed >= budget.seconds:
                raise BudgetExceededError("seconds", budget.seconds, budget.elapsed, budget=budget)
            if budget._began is None:
                budget._began = budget._clock()
            for kind, amount in wanted.items():
                pot = budget._pots[kind]
                taken = pot.spent + (pot.reserved if beside_reserved else 0.0)
                if taken + amount > pot.limit * (1 + EPSILON):
                    raise BudgetExceededError(kind, pot.limit, taken, amount, budget)

    def _settle(self, reserved: dict[str, float], used: dict[str, float]) -> None:
        with self._gate.locked():
            for budget in self._family:
                for kind, amount in reserved.items():
                    budget._pots[kind].reserved -= amount
                for kind, amount in used.items():
                    budget._pots[kind].spent += amount
        self._gate.nudge()

    # --- Watching --------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds since the first use."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def remaining_seconds(self) -> float:
        """Seconds left, of this budget and its ancestors; infinite for no limit."""
        return max(0.0, self._left_seconds())

    def _left_seconds(self) -> float:
        return min(budget.seconds - budget.elapsed for budget in self._family)

    def spent(self, kind: str) -> float:
        """Return how much of ``kind`` was used."""
        return self.elapsed if kind == "seconds" else self._pots[kind].spent

    def remaining(self, kind: str) -> float:
        """Return how much of ``kind`` is left beside what is reserved; infinite for no limit."""
        if kind == "seconds":
            return self.remaining_seconds
        pots = [budget._pots[kind] for budget in self._family]
        return max(0.0, min(pot.limit - pot.spent - pot.reserved for pot in pots))

    def has_limit(self, kind: str) -> bool:
        """Return whether this budget, or one that it is in, limits ``kind``."""
        return any(budget._pots[kind].limit < math.inf for budget in self._family)

    def cost(self, model_id: str | None, usage: TokenUsage) -> float:
        """Return what ``usage`` costs in dollars; 0 if nobody asked for a limit on money.

        Raises:
            KeyError: The price of the model is not known.
            MissingExtraError: There is no table of prices, and ``genai-prices`` is not installed.
        """
        return cost(model_id, usage, self._prices) if self.has_limit("money") else 0.0

    def stats(self) -> dict[str, dict[str, float]]:
        """Return limit, spent and reserved of each kind; JSON wants ``None`` for the infinite limits."""
        stats = {
            kind: {"limit": pot.limit, "spent": pot.spent, "reserved": pot.reserved}
            for kind, pot in self._pots.items()
        }
        stats["seconds"] = {"limit": self.seconds, "spent": self.elapsed, "reserved": 0.0}
        return stats

    def __repr__(self) -> str:
        limits = {kind: pot.limit for kind, pot in self._pots.items() if pot.limit < math.inf}
        if self.seconds < math.inf:
            limits["seconds"] = self.seconds
        return f"Budget({', '.join(f'{kind}={limit:g}' for kind, limit in limits.items())})"

    # --- The budget of whoever asks ----------------------------------------------------------------

    @contextmanager
    def active(self) -> Iterator[Budget]:
        """Make this the budget of all that is started inside ``with``: runs, and their descendants."""
        before = _current.get()
        _current.set(self)
        try:
            yield self
        finally:
            _current.set(before)


_current: ContextVar[Budget | None] = ContextVar("manyhands_budget", default=None)


def current_budget() -> Budget | None:
    """Return the budget that is active here, ``None`` if there is none."""
    return _current.get()


def _checked_limit(kind: str, limit: object) -> float:
    if limit is None:
        return math.inf
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"A budget of {kind} is a number or None, not {limit!r}.")
    if not limit >= 0:
        raise ValueError(f"A budget of {limit!r} {kind} makes no sense.")
    return float(limit)
