"""Caps on the tree of runs that one run grows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from manyhands.errors import AgentExecutionError
from manyhands.limits import RunTree, TreeLimitError
from manyhands.limits.tree import current_tree
from tests.limits.helpers import settled


async def test_a_branch_too_deep_is_refused_with_advice_for_the_model() -> None:
    tree = RunTree(max_depth=2)
    with tree.branch("manager") as first, tree.branch("worker") as second:
        assert (first, second) == (1, 2)
        with (
            pytest.raises(TreeLimitError, match="Sub-agent 'helper' was not started: it would be at depth 3"),
            tree.branch("helper"),
        ):
            pass
        assert tree.alive == 2
    assert tree.alive == 0
    assert issubclass(TreeLimitError, AgentExecutionError)


async def test_all_branches_count_against_one_breadth() -> None:
    tree, done = RunTree(max_breadth=3), asyncio.Event()
    refused = 0

    async def sub(children: int) -> None:
        nonlocal refused
        try:
            with tree.branch():
                await asyncio.gather(*(sub(0) for _ in range(children)))
                await done.wait()
        except TreeLimitError:
            refused += 1

    task = asyncio.create_task(sub(5))
    await settled()
    assert (tree.alive, refused) == (3, 3)
    done.set()
    await task
    assert (tree.alive, tree.most) == (0, 3)


async def test_depth_is_that_of_each_branch_not_of_its_siblings() -> None:
    tree = RunTree(max_depth=1)

    async def sub() -> int:
        with tree.branch() as depth:
            await asyncio.sleep(0)
            return depth

    assert list(await asyncio.gather(*(sub() for _ in range(5)))) == [1] * 5
    assert current_tree() is None


async def test_a_branch_that_fails_or_is_cancelled_makes_room() -> None:
    tree = RunTree(max_breadth=1)
    with pytest.raises(ZeroDivisionError), tree.branch():
        raise ZeroDivisionError

    async def sub() -> None:
        with tree.branch():
            assert current_tree() is tree
            await asyncio.sleep(100)

    task = asyncio.create_task(sub())
    await settled()
    task.cancel()
    await settled()
    assert tree.alive == 0


async def test_another_tree_begins_at_its_own_depth() -> None:
    with RunTree().branch(), RunTree(max_depth=1).branch() as depth:
        assert depth == 1


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), ("2", TypeError), (True, TypeError)])
def test_a_limit_that_makes_no_sense_is_refused(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        RunTree(max_depth=limit)
    with pytest.raises(error):
        RunTree(max_breadth=limit)
