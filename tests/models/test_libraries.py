"""What models share that are asked through a library: its errors as ours, secrets, things made once."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    MissingExtraError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.models.endpoint import Secret
from manyhands.models.libraries import (
    LibraryClient,
    Once,
    failure,
    require,
    secrets_in,
    without_secrets,
)


class Refused(Exception):
    """An error as most libraries make them: with a status, and headers on its response."""

    def __init__(self, text: str, status: int, **headers: str) -> None:
        super().__init__(text)
        self.status_code = status
        self.response = SimpleNamespace(headers={n.replace("_", "-"): v for n, v in headers.items()})
        self.body = {"error": text}


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (Refused("slow", 429, retry_after="3"), RateLimitError, 429),
        (Refused("who?", 401), AuthenticationError, 401),
        (Refused("what?", 422), BadRequestError, 422),
        (Refused("oh", 503, Retry_After="4"), ServerError, 503),
        (ValueError("no such provider"), BadRequestError, None),
        (TypeError("no such argument"), BadRequestError, None),
        (TimeoutError("silence"), ConnectionFailedError, None),
        (ConnectionResetError("gone"), ConnectionFailedError, None),
        (json.JSONDecodeError("no JSON", "<html>", 0), ServerError, None),
        (KeyError("a mistake of the library"), ProviderError, None),
    ],
)
def test_errors_become_ours_by_status_or_by_kind(error: Exception, kind: type, status: int | None) -> None:
    ours = failure(error, "someone")
    assert type(ours) is kind
    assert isinstance(ours, ProviderError)
    assert ours.status == status
    assert str(ours).startswith(f"someone answered {status}: " if status else "someone: ")
    assert ours.__cause__ is error


def test_the_time_to_come_back_is_found_under_any_spelling() -> None:
    for name in ("retry_after", "Retry_After", "RETRY_AFTER"):
        ours = failure(Refused("slow", 429, **{name: "3"}), "someone")
        assert isinstance(ours, ProviderError)
        assert ours.retry_after == 3
    milliseconds = failure(Refused("slow", 429, retry_after_ms="1500"), "someone")
    assert isinstance(milliseconds, ProviderError)
    assert milliseconds.retry_after == 1.5


def test_our_own_errors_stay_as_they_are() -> None:
    ours = RateLimitError("slow")
    assert failure(ours, "someone") is ours


def test_a_secret_is_struck_out_and_what_holds_it_is_not_the_cause() -> None:
    key = "sk-" + "1234567890"
    error = Refused(f"the key {key} is wrong", 401)
    error.__context__ = ValueError(f"also {key}")
    ours = failure(error, "someone", [Secret(key), Secret("no")])
    assert str(ours) == "someone answered 401: the key *** is wrong"
    assert key not in "".join(traceback.format_exception(ours))
    assert getattr(ours, "body", None) is None
    # "no" is in many words; it is no secret.
    assert str(failure(ValueError("nothing known"), "someone", [Secret("no")])) == "someone: nothing known"


def test_secrets_are_known_by_their_names_however_deep() -> None:
    settings = {
        "api_key": "a1",
        "max_tokens": 5,
        "region": "eu",
        "list": [{"litellm_params": {"aws_secret_access_key": "b2", "model": "m"}}],
        "headers": {"Authorization": "Bearer c3"},
        "empty_token": "",
    }
    assert {secret.reveal() for secret in secrets_in(settings)} == {"a1", "b2", "Bearer c3"}
    assert without_secrets(settings) == {
        "max_tokens": 5,
        "region": "eu",
        "list": [{"litellm_params": {"model": "m"}}],
        "headers": {},
    }


def test_a_library_that_is_not_there_is_named_with_its_extra() -> None:
    require("JSON", "json", "json")
    with pytest.raises(MissingExtraError, match=r'It .*pip install "manyhands\[that\]"'):
        require("It", "that", "a_library_that_nobody_wrote")


async def test_a_thing_is_made_once_on_a_worker_thread() -> None:
    made: list[str] = []

    def make() -> object:
        time.sleep(0.02)
        made.append(threading.current_thread().name)
        return object()

    once = Once(make, "connect")
    assert once.made is None
    things = await asyncio.gather(*(once.get() for _ in range(20)))
    assert len(set(map(id, things))) == len(made) == 1
    assert made[0].startswith("connect_")
    assert once.made is things[0] is await once.get()


async def test_a_thing_that_fails_is_tried_again_and_a_cancelled_caller_spoils_nothing() -> None:
    tries = 0

    def make() -> str:
        nonlocal tries
        tries += 1
        time.sleep(0.02)
        if tries == 1:
            raise OSError("not yet")
        return "made"

    once = Once(make, "connect")
    with pytest.raises(OSError, match="not yet"):
        await once.get()
    impatient = asyncio.create_task(once.get())
    await asyncio.sleep(0.01)
    impatient.cancel()
    assert await once.get() == "made"
    assert tries == 2


class Settings:
    def __init__(self) -> None:
        self.thing = Once(self.make, "connect")

    def make(self) -> str:
        return "made"


def test_a_copy_makes_its_own() -> None:
    given = Settings()
    assert asyncio.run(given.thing.get()) == "made"
    copied = pickle.loads(pickle.dumps(given))
    assert copied.thing.made is None
    assert asyncio.run(copied.thing.get()) == "made"


class Broken(LibraryClient):
    """A library that fails before its first chunk, or behind it."""

    closed = False

    async def ask(self, request: dict[str, Any]) -> Any:
        if not request.get("stream"):
            raise Refused("slow", 429)
        return self._chunks()

    async def _chunks(self) -> Any:
        try:
            yield {"one": 1}
            raise Refused("oh", 500)
        finally:
            self.closed = True


async def test_a_library_fails_with_our_errors_at_once_or_in_the_middle() -> None:
    client = Broken("someone")
    with pytest.raises(RateLimitError) as raised:
        await client.chat.completions.create()
    assert raised.value.__context__ is raised.value.__cause__ or raised.value.__context__ is None
    chunks = await client.chat.completions.create(stream=True)
    assert await anext(chunks) == {"one": 1}
    with pytest.raises(ServerError):
        await anext(chunks)
    left = await client.chat.completions.create(stream=True)
    await anext(left)
    client.closed = False
    await left.aclose()
    assert client.closed
