"""Who comes in, whose runs they see, and how many they may have."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from starlette.testclient import TestClient

from manyhands import CallerError
from manyhands.serve import Token, create_app, read_tokens
from tests.serve.serving import Client, Gate, echo, served

if TYPE_CHECKING:
    from pathlib import Path

ANN, BOB, OPERATOR = "token-of-ann-123456", "token-of-bob-123456", "token-of-operator-1"
TOKENS = [Token(ANN, "ann"), Token(BOB, "bob"), Token(OPERATOR, "staff", operator=True)]


def as_user(client: Client, secret: str) -> Client:
    return Client(client.url, client.session, client.app, {"Authorization": f"Bearer {secret}"})


WRONG = [None, "", ANN, f"Basic {ANN}", "Bearer", f"Bearer {ANN}x", f"Bearer {ANN[:-1]}", "Bearer \xff"]


async def test_nobody_comes_in_without_a_token_that_is_right() -> None:
    async with served(echo(), tokens=TOKENS) as client:
        for header in WRONG:
            headers = {} if header is None else {"Authorization": header}
            for path in ("/v1/runs", "/v1/agents", "/v1/fleet", "/metrics", "/v1/models"):
                refused = await client.get(path, headers=headers)
                assert refused.status == 401, header
                assert refused.headers["WWW-Authenticate"] == "Bearer"
            for path in ("/", "/healthz", "/readyz", "/openapi.json"):
                assert (await client.get(path, headers=headers)).status == 200, header


async def test_a_tenant_sees_only_its_own() -> None:
    gate = Gate()
    async with served(gate.agent(), tokens=TOKENS) as client:
        ann, bob, operator = (as_user(client, secret) for secret in (ANN, BOB, OPERATOR))
        run = await ann.start("secret of ann")
        session = (await ann.post("/v1/sessions")).json["id"]
        assert run["tenant"] == "ann"
        await gate.until(1)
        for path in ("", "/events", "/approvals"):
            assert (await bob.get(f"/v1/runs/{run['id']}{path}")).status == 404
        for door in ("cancel", "pause", "resume"):
            assert (await bob.post(f"/v1/runs/{run['id']}/{door}")).status == 404
        assert (await bob.get(f"/v1/runs?after={run['id']}")).status == 404
        assert (await bob.get(f"/v1/sessions/{session}")).status == 404
        assert (await bob.ask("DELETE", f"/v1/sessions/{session}")).status == 404
        assert (await bob.post("/v1/runs", {"task": "this", "session": session})).status == 404
        for path in ("/v1/runs", "/v1/sessions", "/v1/approvals", "/v1/fleet"):
            shown = await bob.get(path)
            assert shown.status == 200
            assert b"ann" not in shown.body
            assert run["id"].encode() not in shown.body
        assert (await bob.get("/metrics")).status == 403
        assert (await bob.get("/v1/fleet")).json["runs"]["started"] == 0
        assert (await ann.get("/v1/fleet")).json["runs"]["started"] == 1
        assert (await operator.get(f"/v1/runs/{run['id']}")).status == 200
        assert (await operator.get("/v1/fleet")).json["runs"]["started"] == 1
        assert (await operator.get("/metrics")).status == 200
        gate.open()
        assert (await ann.ended(run["id"]))["output"] == "answer to secret of ann"


async def test_a_tenant_has_no_more_runs_than_it_may() -> None:
    gate = Gate()
    limited = [Token(ANN, "ann", max_runs=2), Token(BOB, "bob")]
    async with served(gate.agent(), tokens=limited) as client:
        ann, bob = as_user(client, ANN), as_user(client, BOB)
        for number in range(2):
            await ann.start(str(number))
        refused = await ann.post("/v1/runs", {"task": "too much"})
        assert (refused.status, "Retry-After" in refused.headers) == (429, True)
        chat = {"model": "agent", "messages": [{"role": "user", "content": "too much"}]}
        assert (await ann.post("/v1/chat/completions", chat)).status == 429
        await bob.start("of bob")
        gate.open()
        for run in (await ann.get("/v1/runs")).json["runs"]:
            await ann.ended(run["id"])
        assert (await ann.start("again", wait=True))["status"] == "success"


async def test_a_tenant_starts_no_more_runs_in_a_minute_than_it_may() -> None:
    async with served(echo(), tokens=[Token(ANN, "ann", runs_per_minute=3)]) as client:
        ann = as_user(client, ANN)
        for number in range(3):
            await ann.start(str(number), wait=True)
        refused = await ann.post("/v1/runs", {"task": "too much"})
        assert refused.status == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60


async def test_tenants_take_turns() -> None:
    gate = Gate(lambda task: task == "first")
    async with served(gate.agent(), tokens=TOKENS, max_runs=1) as client:
        ann, bob = as_user(client, ANN), as_user(client, BOB)
        await ann.start("first")
        await gate.until(1)
        runs = [await ann.start(f"ann {number}") for number in range(5)]
        late = await bob.start("bob")
        gate.open()
        await asyncio.gather(*[ann.ended(run["id"]) for run in runs], bob.ended(late["id"]))
    assert gate.begun.index("bob") <= 2


# --- Without tokens --------------------------------------------------------------------------------------


async def test_a_page_that_calls_this_computer_by_another_name_gets_nothing() -> None:
    async with served(echo()) as client:
        for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.nip.io", ""):
            refused = await client.get("/v1/runs", headers={"Host": host})
            assert refused.status in (400, 421), host


async def test_the_names_of_this_computer_are_answered() -> None:
    async with served(echo()) as client:
        for host in ("localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", "[::1]"):
            assert (await client.get("/v1/runs", headers={"Host": host})).status == 200


async def test_a_page_of_another_site_may_not_start_runs() -> None:
    async with served(echo()) as client:
        host = client.url.removeprefix("http://")
        for origin in ("http://evil.example", "null", f"http://{host}.evil.example", "http://localhost:1"):
            refused = await client.post("/v1/runs", {"task": "this"}, headers={"Origin": origin})
            assert refused.status == 403
            assert "Access-Control-Allow-Origin" not in refused.headers
        own = await client.post("/v1/runs", {"task": "this"}, headers={"Origin": f"http://{host}"})
        assert own.status == 202
        asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        assert (await client.ask("OPTIONS", "/v1/runs", headers=asked)).status == 405


def test_without_tokens_other_computers_are_not_answered() -> None:
    for client, status in (("192.0.2.7", 401), ("testclient", 401), ("127.0.0.1", 200), ("::1", 200)):
        with TestClient(create_app(echo()), base_url="http://localhost", client=(client, 50000)) as asking:
            assert asking.get("/v1/runs").status_code == status


def test_an_app_behind_something_that_asks_may_be_open() -> None:
    app = create_app(echo(), open_to_all=True)
    with TestClient(app, base_url="http://agents.example", client=("192.0.2.7", 50000)) as asking:
        assert asking.get("/v1/runs").status_code == 200


# --- Tokens ------------------------------------------------------------------------------------------------


def test_tokens_come_from_the_environment() -> None:
    environ = {"MANYHANDS_SERVE_TOKENS": f"{OPERATOR}, ann:{ANN},bob:{BOB}"}
    assert read_tokens(environ=environ) == [
        Token(OPERATOR, operator=True),
        Token(ANN, "ann"),
        Token(BOB, "bob"),
    ]
    assert read_tokens(environ={}) == []


def test_tokens_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(
        f'[ann]\ntokens = ["{ANN}", "{BOB}"]\nmax_runs = 3\nruns_per_minute = 60\n'
        f'[staff]\ntoken = "{OPERATOR}"\noperator = true\n'
    )
    assert read_tokens(str(file)) == [
        Token(ANN, "ann", max_runs=3, runs_per_minute=60),
        Token(BOB, "ann", max_runs=3, runs_per_minute=60),
        Token(OPERATOR, "staff", operator=True),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[ann]\ntoken = 'short'", "fewer than 16 characters"),
        ("[ann]\ntoken = 5", "must be a str"),
        ("[ann]\nmax_runs = 5", "needs a token"),
        ("[ann]\ntoken = 'token-of-ann-123456'\nmax_run = 5", "known are token"),
        ("[ann]\ntoken = 'token-of-ann-123456'\nmax_runs = 0", "at least 1"),
        ("[ann]\ntoken = 'token-of-ann-123456'\nmax_runs = true", "must be a int"),
        ("[ann]\ntoken = 'token of ann 123456'", "cannot stand in a header"),
        ("ann = 'token-of-ann-123456'", "must be a table"),
        ("", "holds no tokens"),
        ("[ann", "no TOML file"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(content)
    with pytest.raises(CallerError, match=says) as raised:
        read_tokens(str(file))
    assert "token-of-ann" not in str(raised.value)


async def test_tokens_are_never_shown(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    assert ANN not in repr(TOKENS)
    async with served(echo(), tokens=TOKENS) as client:
        ann = as_user(client, ANN)
        run = await ann.start("this", wait=True)
        shown = [await ann.get(path) for path in ("/v1/runs", "/v1/fleet", f"/v1/runs/{run['id']}/events")]
        shown.append(await as_user(client, ANN + "x").get("/v1/runs"))
        assert all(ANN.encode() not in answer.body for answer in shown)
        assert ANN not in repr(vars(client.app.state.service.doorkeeper))
    assert ANN not in caplog.text
