"""What is no request: too large, too deep, no JSON, unknown fields. Each gets a clear answer in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyhands import CallerError
from manyhands.serve import Settings, create_app
from manyhands.serve.bodies import MAX_DEPTH, parse
from manyhands.serve.jsonable import Bounds, encoded, jsonable
from manyhands.serve.problems import Problem
from tests.serve.serving import echo, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JSON = {"Content-Type": "application/json"}
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


UNFIT = [
    (b"", 400, "needs a body"),
    (b"{", 400, "no JSON"),
    (b"\xff", 400, "no valid UTF-8"),
    (b'{"task": NaN}', 400, "NaN is no JSON"),
    (b'{"task": "a", "task": "b"}', 400, "a key stands twice"),
    (b'{"task": "\\ud800"}', 400, "no valid UTF-8"),
    (b'{"task": ' + b"[" * 40 + b"]" * 40 + b"}", 400, "nested deeper"),
    (b"[" * 100_000, 400, "no JSON"),
    (b'{"max_steps": ' + b"9" * 5000 + b"}", 400, "no JSON"),
    (b"[]", 422, "body: Input should be"),
    (b"null", 422, "body: Input should be"),
    (b"{}", 422, "body.task: Field required"),
    (b'{"task": ""}', 422, "body.task: String should have at least 1 character"),
    (b'{"task": "a", "steps": 5}', 422, "body.steps: Extra inputs are not permitted"),
    (b'{"task": "a", "max_steps": "5"}', 422, "body.max_steps: Input should be a valid integer"),
    (b'{"task": "a", "max_steps": true}', 422, "body.max_steps: Input should be a valid integer"),
    (b'{"task": "a", "max_steps": 0}', 422, "body.max_steps"),
    (b'{"task": "a", "timeout": -1}', 422, "body.timeout"),
    (b'{"task": "a", "wait": 1}', 422, "body.wait: Input should be a valid boolean"),
    (b'{"task": "a", "additional_args": {"a b": 1}}', 422, "additional_args"),
]


async def test_a_body_that_does_not_fit_is_explained() -> None:
    async with served(echo()) as client:
        for body, status, says in UNFIT:
            refused = await client.ask("POST", "/v1/runs", data=body, headers=JSON)
            assert refused.status == status, body[:80]
            assert says in refused.error["message"], body[:80]
        assert (await client.get("/v1/runs")).json["runs"] == []


async def test_a_whole_number_may_have_a_point() -> None:
    async with served(echo()) as client:
        assert (await client.start("a", max_steps=2.0, wait=True))["status"] == "success"


async def test_other_types_of_content_are_refused() -> None:
    async with served(echo()) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            refused = await client.ask(
                "POST", "/v1/runs", data=b'{"task": "a"}', headers={"Content-Type": kind}
            )
            assert refused.status == 415


async def test_a_large_body_is_refused_however_it_comes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with served(echo(), max_body=2000) as client:
        whole = await client.ask("POST", "/v1/runs", data=b" " * 2001, headers=JSON)
        assert (whole.status, whole.error["type"]) == (413, "too_large")
        in_pieces = await client.ask("POST", "/v1/runs", data=pieces(), headers=JSON)
        assert in_pieces.status == 413
        assert (await client.start("a" * 1900, wait=True))["status"] == "success"


async def test_headers_without_an_end_are_refused() -> None:
    async with served(echo()) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Long: {'x' * 200_000}".encode())
        assert b" 400 " in await reader.readline()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async with served(echo(), body_seconds=0.05) as client:
        host, _, port = client.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/runs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: 10\r\n\r\n{{".encode())
        assert b" 408 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_query_that_does_not_fit_is_explained() -> None:
    async with served(echo()) as client:
        for query in ("limit=0", "limit=x", "limit=1001", "what=5", "limit=1&limit=2", "after="):
            refused = await client.get(f"/v1/runs?{query}")
            assert refused.status == 422, query
            assert refused.error["message"]


async def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    async with served(echo()) as client:
        nothing = await client.get("/v2/runs")
        assert (nothing.status, nothing.error["type"]) == (404, "not_found")
        wrong = await client.ask("PUT", "/v1/runs")
        assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, POST")


async def test_every_answer_tells_browsers_to_be_careful() -> None:
    async with served(echo()) as client:
        for path in ("/", "/v1/runs", "/v1/nothing", "/openapi.json"):
            headers = (await client.get(path)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert "Server" not in headers
        assert (await client.get("/v1/runs")).headers["Cache-Control"] == "no-store"


# --- Values ------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=5)
    ),
    max_leaves=20,
)


@unhurried
@given(plain)
def test_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@unhurried
@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        parse(body)
    except Problem as problem:
        assert problem.status == 400


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_depth_is_limited(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH:
        parse(body)
    else:
        with pytest.raises(Problem, match="nested deeper"):
            parse(body)


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just(Unshowable())
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner)
    ),
    max_leaves=30,
)


@unhurried
@given(anything)
def test_any_value_can_be_sent(value: Any) -> None:
    sent = encoded(jsonable(value))
    assert b"\n" not in sent
    json.loads(sent)


@unhurried
@given(plain)
def test_json_values_are_sent_as_they_are(value: Any) -> None:
    assert json.loads(encoded(jsonable(value))) == value


def test_what_is_sent_is_bounded() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert len(encoded(jsonable(circle))) < 1000
    bounds = Bounds(text=10, items=3, depth=4, total=100)
    assert jsonable("x" * 20, bounds) == "xxxxxxxxxx… (10 more characters)"
    assert jsonable(list(range(10)), bounds) == [0, 1, 2]
    huge = {str(number): ["y" * 1000] * 100 for number in range(1000)}
    assert len(encoded(jsonable(huge, Bounds(total=10_000)))) < 40_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_runs": 0},
        {"max_runs": 1.5},
        {"max_queued": -1},
        {"heartbeat": 0},
        {"keep_seconds": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CallerError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize("agents", [[], {}, "agent", 5, [5], [echo(), echo()], {"": echo()}])
def test_what_is_no_agent_cannot_be_served(agents: Any) -> None:
    with pytest.raises(CallerError):
        create_app(agents)
