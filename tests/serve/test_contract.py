"""The OpenAPI document says what the server does: schemathesis tries to prove the contrary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings

from manyhands import ToolCallingAgent, tool
from manyhands.serve import Settings, Token, create_app
from manyhands.serve.openapi import document
from manyhands.serve.server import Server
from manyhands.testing import FunctionModel
from tests.agents.replies import calls, final
from tests.serve.serving import echo, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from manyhands import ChatMessage

SECRET = "contract-token-of-the-tests"
HEADERS = {"Authorization": f"Bearer {SECRET}"}


@tool(requires_approval=True)
def add(first: int, second: int) -> int:
    """Add.

    Args:
        first: A number.
        second: A number.
    """
    return first + second


KEPT = "kept"


async def answer(messages: list[ChatMessage]) -> ChatMessage:
    if task_of(messages) == KEPT:
        return calls(("add", {"first": 1, "second": 2}))
    return final(f"answer to {task_of(messages)}")


app = create_app(
    [
        ToolCallingAgent([add], FunctionModel(answer), name="first", description="Adds."),
        echo(name="second", stream_outputs=True),
    ],
    tokens=[Token(SECRET, "tests", operator=True)],
    settings=Settings(keep_runs=50, heartbeat=0.2, max_sessions=50, drain_seconds=1),
)


def described() -> dict[str, Any]:
    found = document(app.state.endpoints, secured=True)
    # A stream without an end cannot be read to its end.
    del found["paths"]["/v1/fleet/events"]
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The app behind the real server, on a thread of its own."""
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(app, on_ready=ready.set)
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
        thread.start()
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


schema = schemathesis.openapi.from_dict(described())
# What is wrong may also be too large.
schema.config.checks.negative_data_rejection.expected_statuses.append("413")


bounded = settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def check(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(base_url=address, headers=HEADERS, timeout=30)


def for_each_operation(name: str, chosen: Any, make_test: Callable[[], Any]) -> dict[str, Any]:
    """Return a test for each operation, by names of their own.

    The tests that schemathesis makes of one function have one id for pytest, and side by side only one of
    them would be run.
    """
    tests = {}
    for found in chosen.get_all_operations():
        operation = found.ok()
        one = schema.include(method=operation.method, path=operation.path)
        label = re.sub(r"\W+", "_", operation.label).strip("_")
        tests[f"{name}__{label}"] = one.parametrize()(bounded(make_test()))
    return tests


def any_call() -> Callable[[schemathesis.Case[Any], str], None]:
    def test(case: schemathesis.Case[Any], address: str) -> None:
        check(case, address)

    return test


globals().update(for_each_operation("test_every_answer_is_as_the_document_says", schema, any_call))


@pytest.fixture(scope="module")
def known(address: str) -> dict[str, str]:
    """Ids of a run that waits for an approval, and of a conversation."""
    return {"run": made(address, "runs"), "session": made(address, "sessions")}


def made(address: str, kind: str) -> str:
    body = json.dumps({"task": KEPT} if kind == "runs" else {}).encode()
    asked = urllib.request.Request(
        f"{address}/v1/{kind}", body, HEADERS | {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked) as answer:
        return str(json.loads(answer.read())["id"])


def call_of_known() -> Callable[[schemathesis.Case[Any], str, dict[str, str]], None]:
    def test(case: schemathesis.Case[Any], address: str, known: dict[str, str]) -> None:
        if case.path_parameters.get("id"):
            case.path_parameters["id"] = known["session" if "sessions" in case.path else "run"]
        with contextlib.suppress(TypeError, ValueError):
            if 0 < float((case.query or {}).get("wait", 0)) <= 300:
                case.query["wait"] = 0.01  # the run waits for longer than the test
        check(case, address)

    return test


with_ids = schema.include(path_regex=r"\{id\}").exclude(path_regex="cancel|events").exclude(method="DELETE")
globals().update(
    for_each_operation("test_so_it_does_for_runs_and_conversations_that_exist", with_ids, call_of_known)
)
