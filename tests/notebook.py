"""A real notebook kernel for tests: cells go in, what they show comes out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Kernel:
    """Runs cells, one after the other.

    Args:
        manager: Holds the kernel's process.
        client: Speaks with it.
    """

    def __init__(self, manager: Any, client: Any) -> None:
        self._manager = manager
        self._client = client

    def __call__(self, source: str, interrupt_at: str = "never") -> str:
        """Run a cell, and return its text: outputs, values, and the names of errors.

        Args:
            source: The cell.
            interrupt_at: Press the stop button when this is shown.
        """
        shown: list[str] = []

        def on_output(message: dict[str, Any]) -> None:
            content = message["content"]
            text = content.get("text") or content.get("data", {}).get("text/plain", "")
            shown.append(text + content.get("ename", ""))
            if interrupt_at in text:
                self._manager.interrupt_kernel()

        self._client.execute_interactive(source, timeout=60, output_hook=on_output)
        return "".join(shown).strip()


@contextmanager
def kernel(folder: Path | None = None) -> Iterator[Kernel]:
    """Start a kernel; the test is skipped where Jupyter's parts are missing.

    Args:
        folder: Where it works.
    """
    kernels = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    loops = pytest.importorskip("jupyter_core.utils")
    manager, client = kernels.start_new_kernel(
        kernel_name="python3", cwd=folder and str(folder), extra_arguments=["--HistoryManager.enabled=False"]
    )
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        client.context.destroy(linger=0)
        loops.ensure_event_loop().close()
