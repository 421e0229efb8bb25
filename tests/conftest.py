"""What every test gets: code of ours that blocks the event loop fails the test, and an id of its own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

from tests.executors.isolated.engine import engine as engine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("manyhands"):
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let no two tests have one id: side by side, only one of them would be run."""
    times = Counter(item.nodeid for item in items)
    twice = sorted(name for name, count in times.items() if count > 1)
    if twice:
        raise pytest.UsageError(f"These names stand for several tests: {', '.join(twice)}.")
