"""The walls that can run here, as fixtures.

A test that takes ``wall_executor`` runs once behind each wall: it gets a function that makes executors, with
the keyword arguments of :class:`IsolatedExecutor`, which are cleaned up after the test. Another wall joins
by an entry in ``WALLS``: its name, and a function of the test's request that returns what makes executors
(or calls ``pytest.skip`` where the wall cannot be had).
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from manyhands.executors.isolated.docker import DockerExecutor
from manyhands.executors.isolated.e2b import E2BExecutor
from manyhands.executors.isolated.modal import ModalExecutor
from manyhands.executors.isolated.process import ProcessExecutor
from tests.executors.isolated import clouds
from tests.executors.isolated.engine import IMAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from manyhands.executors.isolated.executor import IsolatedExecutor

    MakeExecutor = Callable[..., IsolatedExecutor]


def _docker(request: pytest.FixtureRequest) -> MakeExecutor:
    engine = request.getfixturevalue("engine")
    return functools.partial(DockerExecutor, image=IMAGE, host=engine.host)


@pytest.fixture
def fake_clouds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the SDKs of clouds, which run guests on this computer."""
    monkeypatch.setitem(sys.modules, "e2b_code_interpreter", clouds.E2B)
    monkeypatch.setitem(sys.modules, "modal", clouds.MODAL)


def _e2b(request: pytest.FixtureRequest) -> MakeExecutor:
    request.getfixturevalue("fake_clouds")
    return functools.partial(E2BExecutor, python=sys.executable)


def _modal(request: pytest.FixtureRequest) -> MakeExecutor:
    request.getfixturevalue("fake_clouds")
    return functools.partial(ModalExecutor, python=sys.executable)


WALLS: dict[str, Callable[[pytest.FixtureRequest], MakeExecutor]] = {
    "process": lambda request: ProcessExecutor,
    "docker": _docker,
    "e2b": _e2b,
    "modal": _modal,
}


#: Walls whose clouds are played by this computer: they hold nothing off, so only harmless tests run there.
STAND_INS = {"e2b", "modal"}
HARMLESS = {"test_code"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "wall" in metafunc.fixturenames:
        harmless = metafunc.module.__name__.rpartition(".")[2] in HARMLESS
        names = [name for name in WALLS if harmless or name not in STAND_INS]
        metafunc.parametrize("wall", names, indirect=True)


@pytest.fixture
def wall(request: pytest.FixtureRequest) -> MakeExecutor:
    return WALLS[request.param](request)


@pytest.fixture
async def wall_executor(wall: MakeExecutor) -> AsyncIterator[MakeExecutor]:
    made: list[IsolatedExecutor] = []

    def make(**options: Any) -> IsolatedExecutor:
        executor = wall(**{"timeout_seconds": 20, "warm_workers": 0, **options})
        made.append(executor)
        return executor

    yield make
    for executor in made:
        await executor.acleanup()
