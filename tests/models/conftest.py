"""What tests of models share: errors arrive at once, as the provider gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from manyhands.testing import retries_off

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def errors_arrive_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("retries"):
        yield
        return
    with retries_off():
        yield
