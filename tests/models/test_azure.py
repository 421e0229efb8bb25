"""A model at Azure: two ways to its address, keys, and tokens that are asked for."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from manyhands.errors import AuthenticationError, BadRequestError
from manyhands.messages import MessageRole, message
from manyhands.models.azure import AzureOpenAIModel, AzureOpenAIServerModel
from tests.models.servers import answering, completion, http

TASK = [message(MessageRole.USER, "Say hello.")]
OK = http(completion())
VARIABLES = (
    "AZURE_OPENAI_ENDPOINT",
    "AZURE_OPENAI_API_KEY",
    "AZURE_OPENAI_AD_TOKEN",
    "OPENAI_API_VERSION",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("endpoint", "version", "path"),
    [
        ("", None, "/openai/v1/chat/completions"),
        ("/", "v1", "/openai/v1/chat/completions"),
        ("/openai/v1/", None, "/openai/v1/chat/completions"),
        ("/openai/v1", "2024-10-21", "/openai/v1/chat/completions"),
        ("", "preview", "/openai/v1/chat/completions?api-version=preview"),
        ("", "2024-10-21", "/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21"),
        ("/openai", "2024-10-21", "/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21"),
        (
            "/gate/way",
            "2024-10-21",
            "/gate/way/openai/deployments/my%2Fgpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)
async def test_the_version_says_which_address_is_asked(endpoint: str, version: str | None, path: str) -> None:
    async with answering(OK) as server:
        asked = AzureOpenAIModel("my/gpt", server.origin + endpoint, "k-1", version)
        assert (await asked.agenerate(TASK)).content == "Hello"
    (request,) = server.requests
    assert request.target == path
    assert request.headers["api-key"] == "k-1"
    assert "authorization" not in request.headers
    assert request.json["model"] == "my/gpt"


async def test_everything_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(OK) as server:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", server.origin)
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k-env")
        monkeypatch.setenv("OPENAI_API_VERSION", "2025-01-01")
        await AzureOpenAIModel("gpt").agenerate(TASK)
    (request,) = server.requests
    assert request.target == "/openai/deployments/gpt/chat/completions?api-version=2025-01-01"
    assert request.headers["api-key"] == "k-env"


async def test_settings_may_come_under_the_names_of_openais_client() -> None:
    async with answering(OK) as server:
        asked = AzureOpenAIModel(
            "gpt-4o",
            client_kwargs={
                "azure_endpoint": server.origin,
                "azure_deployment": "mine",
                "azure_ad_token": "t-1",
                "api_version": "2024-10-21",
                "default_headers": {"X-A": "1"},
            },
        )
        await asked.agenerate(TASK)
    (request,) = server.requests
    assert request.target.startswith("/openai/deployments/mine/")
    assert (request.headers["authorization"], request.headers["x-a"]) == ("Bearer t-1", "1")
    assert "api-key" not in request.headers


async def test_a_token_is_asked_for_before_each_request() -> None:
    tokens = iter(["t-1", "t-2", "t-3"])
    threads: list[threading.Thread] = []

    async def later() -> str:
        return next(tokens)

    def at_once() -> str:
        threads.append(threading.current_thread())
        return next(tokens)

    async with answering(OK) as server:
        asked = AzureOpenAIModel("gpt", server.origin, token_provider=later)
        await asked.agenerate(TASK)
        await asked.agenerate(TASK)
        await AzureOpenAIModel("gpt", server.origin, at_once).agenerate(TASK)
    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer t-1",
        "Bearer t-2",
        "Bearer t-3",
    ]
    assert threads[0] is not threading.main_thread()


async def test_a_token_that_the_server_repeats_shows_nowhere() -> None:
    async with answering(http(b'{"error": {"message": "bad token t-secret"}}', "401 No")) as server:
        asked = AzureOpenAIModel("gpt", server.origin, token_provider=lambda: "t-secret")
        with pytest.raises(AuthenticationError, match=r"bad token \*\*\*"):
            await asked.agenerate(TASK)
    assert "t-secret" not in f"{asked!r} {asked.to_dict()}"


async def test_what_is_missing_is_named() -> None:
    with pytest.raises(BadRequestError, match="AZURE_OPENAI_ENDPOINT"):
        await AzureOpenAIModel("gpt", api_key="k").agenerate(TASK)
    with pytest.raises(AuthenticationError, match="AZURE_OPENAI_API_KEY"):
        await AzureOpenAIModel("gpt", "https://a.test").agenerate(TASK)


def test_a_model_can_be_described_and_made_again() -> None:
    made = AzureOpenAIModel("gpt", "https://a.test", "k-1", "2024-10-21", temperature=0)
    described: dict[str, Any] = made.to_dict()
    assert described == {
        "class": "AzureOpenAIModel",
        "model_id": "gpt",
        "azure_endpoint": "https://a.test",
        "api_version": "2024-10-21",
        "temperature": 0,
    }
    assert AzureOpenAIModel.from_dict(described).to_dict() == described
    assert AzureOpenAIServerModel is AzureOpenAIModel
