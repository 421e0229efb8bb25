"""The example that needs a container engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.examples.running import shown_by
from tests.executors.isolated.engine import IMAGE

if TYPE_CHECKING:
    import pytest

    from tests.executors.isolated.engine import LocalEngine


def test_code_in_a_container_sees_no_key_and_calls_tools(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    monkeypatch.setenv("IMAGE", IMAGE)
    shown = shown_by("docker_code").splitlines()
    assert shown[0] == "-> Peru"
    assert "I am guest and know the key: None" in shown
    assert "Networks: ['lo']" in shown
    assert shown[-1] == "Two more at once: ['Peru', 'Peru']"
