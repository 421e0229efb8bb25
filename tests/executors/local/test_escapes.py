"""The guard rails: none of the known ways out of a Python sandbox leads to anything of the host."""

from __future__ import annotations

import copy
import decimal
import json
import math
import random
import threading
from typing import Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.local import LocalPythonExecutor

from .attacks import ATTACKS, PUBLISHED, RISKY_IMPORTS
from .canary import PLANTED, Canary, changed_classes

# Some attacks leave coroutines behind that nobody awaits; Python says so when it collects them.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine", "ignore::pytest.PytestUnraisableExceptionWarning")


class HostError(ValueError):
    """An error that holds an object of the host."""

    def __init__(self) -> None:
        super().__init__("tool failed", PLANTED)
        self.secret = PLANTED


def failing() -> None:
    """A tool that raises."""
    raise HostError


def armed(imports: list[str]) -> tuple[LocalPythonExecutor, Canary]:
    """An executor with the tools that the attacks use."""
    canary = Canary()
    executor = LocalPythonExecutor(imports, timeout_seconds=5)
    executor.send_tools(
        {
            "leak": canary.leak,
            "failing": failing,
            "host_module": lambda: threading,
            # Reached only when what came before was let through.
            "secret": lambda: canary.found.append("a format string read an attribute"),
            "planted": lambda: canary.found.append("something shared was changed"),
        }
    )
    return executor, canary


def attempt(executor: LocalPythonExecutor, source: str) -> None:
    """Run an attack; errors are the expected end."""
    try:
        output: Any = executor(source).output
    except InterpreterError:
        return
    assert output is not PLANTED


def assert_host_unchanged() -> None:
    """Nothing shared carries a trace of the code."""
    assert math.pi == 3.141592653589793
    assert callable(random.random)
    assert 0 <= random.random() < 1
    assert json.loads("[1]") == [1]
    assert decimal.DefaultContext.prec == 28
    assert copy.copy([1]) == [1]
    assert changed_classes() == []
    assert threading.getprofile() is None
    assert threading.gettrace() is None


@pytest.mark.parametrize("source", ATTACKS, ids=range(len(ATTACKS)))
def test_an_attack_gets_nothing(source: str) -> None:
    """With the default modules."""
    executor, canary = armed([])
    attempt(executor, source)
    assert canary.found == []
    assert_host_unchanged()


@pytest.mark.parametrize("source", ATTACKS, ids=range(len(ATTACKS)))
def test_an_attack_gets_nothing_with_more_modules(source: str) -> None:
    """With modules authorised that reach far."""
    executor, canary = armed(RISKY_IMPORTS)
    attempt(executor, source)
    assert canary.found == []
    assert_host_unchanged()


@pytest.mark.parametrize("source", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_a_published_escape_gets_nothing(source: str) -> None:
    """With few and with many modules."""
    for imports in ([], RISKY_IMPORTS):
        executor, canary = armed(imports)
        attempt(executor, source)
        assert canary.found == []
    assert_host_unchanged()


def test_attacks_in_sequence_gain_nothing() -> None:
    """What one step leaves in the variables does not help the next."""
    executor, canary = armed([])
    for source in ATTACKS:
        attempt(executor, source)
        assert canary.found == [], source
    assert_host_unchanged()
