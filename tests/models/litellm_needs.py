"""What tests have to allow litellm: it reads files on the loop, and leaves tasks and sockets behind."""

from __future__ import annotations

import gc
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blockbuster import blockbuster_ctx

if TYPE_CHECKING:
    from collections.abc import Iterator

WARNINGS = (
    "ignore::ResourceWarning",
    "ignore::UserWarning:pydantic",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
# Where it may read certificates, settings and counters of tokens.
_MAY_BLOCK = {
    "litellm/main.py": {"acompletion"},
    "litellm/utils.py": {"wrapper_async"},
    "litellm/router.py": {"acompletion", "_acompletion"},
    "litellm/litellm_core_utils/streaming_handler.py": {"__anext__"},
}


def sweep() -> None:
    """Let what litellm has left be found now, and not in the middle of a test of something else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@contextmanager
def only_litellm_blocks_the_loop() -> Iterator[None]:
    """As everywhere, blocking the loop is an error; but litellm itself may."""
    with blockbuster_ctx("manyhands") as blocking:
        for function in blocking.functions.values():
            for path, names in _MAY_BLOCK.items():
                function.can_block_in(path, names)
        yield
