"""What tokens cost, for those who watch: told if the price is known, and never waited for.

Reading the table of ``genai-prices`` takes a good part of a second: a thread does it, once for the process,
and what is to be priced meanwhile is kept until then.
"""

from __future__ import annotations

import importlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from manyhands.errors import MissingExtraError
from manyhands.limits.prices import cost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from manyhands.limits.prices import Price
    from manyhands.messages import TokenUsage

# Models whose price is known to be unknown, and calls that wait for the table.
_MOST_UNPRICED = 1000
_MOST_WAITING = 100_000


class _Table:
    """The table of ``genai-prices``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = False
        self.there = threading.Event()

    def load(self) -> None:
        """Have it loaded, if nobody has asked for it yet."""
        with self._lock:
            asked, self._asked = self._asked, True
        if not asked:
            threading.Thread(target=self._import, name="manyhands-prices", daemon=True).start()

    def _import(self) -> None:
        try:
            importlib.import_module("genai_prices")
        except ImportError:
            pass  # then no price is known
        finally:
            self.there.set()


_table = _Table()


class Till:
    """Prices calls, now or when prices are there.

    Args:
        prices: Prices by model; ``None`` asks ``genai-prices``, if it is installed.
        pay: Told of each priced call: what it is for, and US dollars.
    """

    def __init__(self, prices: Mapping[str, Price] | None, pay: Callable[[Any, float], None]) -> None:
        self._prices = prices
        self._pay = pay
        self._unpriced: set[str | None] = set()
        self._waiting: deque[tuple[Any, str | None, TokenUsage]] = deque(maxlen=_MOST_WAITING)
        if prices is None:
            _table.load()

    def take(self, what: Any, model_id: str | None, usage: TokenUsage) -> None:
        """Price a call."""
        if self._prices is None and not _table.there.is_set():
            self._waiting.append((what, model_id, usage))
            return
        self.catch_up()
        self._price(what, model_id, usage)

    def catch_up(self) -> None:
        """Price what has waited, if prices are there."""
        while self._waiting and _table.there.is_set():
            try:
                waiting = self._waiting.popleft()
            except IndexError:  # another thread took the last
                return
            self._price(*waiting)

    def _price(self, what: Any, model_id: str | None, usage: TokenUsage) -> None:
        if model_id in self._unpriced:
            return
        try:
            paid = cost(model_id, usage, self._prices)
        except (KeyError, MissingExtraError):
            if len(self._unpriced) < _MOST_UNPRICED:
                self._unpriced.add(model_id)
            return
        self._pay(what, paid)
