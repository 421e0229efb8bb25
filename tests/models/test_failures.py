"""Every answer that is no reply becomes the error whose class says whose fault it is."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from manyhands.errors import AuthenticationError, BadRequestError, ProviderError, RateLimitError, ServerError
from manyhands.models.failures import error_class, error_inside, is_error, reason_of, refusal, retry_after

WHERE = "https://api.test/v1/chat/completions"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, RateLimitError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (400, BadRequestError),
        (404, BadRequestError),
        (413, BadRequestError),
        (422, BadRequestError),
        (302, BadRequestError),
        (408, ServerError),
        (409, ServerError),
        (500, ServerError),
        (503, ServerError),
        (529, ServerError),
    ],
)
def test_the_status_decides_the_class(status: int, kind: type[ProviderError]) -> None:
    error = refusal(status, b"", {}, where=WHERE)
    assert type(error) is kind is error_class(status)
    assert error.status == status


def test_the_sentence_holds_address_status_and_the_providers_reason() -> None:
    body = {
        "error": {"message": "Unknown model 'x'.", "type": "invalid_request_error", "code": "model_not_found"}
    }
    error = refusal(404, json.dumps(body).encode(), {}, where=WHERE)
    assert str(error) == f"{WHERE} answered 404: Unknown model 'x'."
    assert error.body == body


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"error": {"message": "a"}}, "a"),
        ({"error": "a"}, "a"),
        ({"message": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"loc": ["body"], "msg": "a"}]}, "a"),
        ([{"error": {"code": 400, "message": "a"}}], "a"),
        ({"error": {"message": None}, "detail": "a"}, "a"),
        ({"error": {}}, ""),
        ("a", "a"),
        (None, ""),
    ],
)
def test_the_reason_is_found_in_all_its_usual_places(answer: Any, reason: str) -> None:
    assert reason_of(answer) == reason


def test_a_body_that_is_no_json_is_quoted_shortly() -> None:
    error = refusal(502, b"upstream   timed\nout " + b"x" * 5000, {}, where=WHERE)
    assert "502: upstream timed out xxx" in str(error)
    assert len(str(error)) < 700
    assert "a web page instead of JSON" in str(refusal(502, b" <html>Bad gateway", {}, where=WHERE))
    assert str(refusal(500, b"", {}, where=WHERE)).endswith("answered 500.")


def test_a_redirect_says_where_to() -> None:
    error = refusal(308, b"", {"Location": "https://new.test/v1"}, where=WHERE)
    assert "redirects to https://new.test/v1; use that address as api_base" in str(error)


def test_a_key_that_the_server_repeats_is_struck_out() -> None:
    body = json.dumps({"error": {"message": "Incorrect key: sk-secret-1.", "key": "sk-secret-1"}}).encode()
    error = refusal(401, body, {}, where=WHERE, secret="sk-secret-1")
    assert "sk-secret-1" not in f"{error} {error.body} {error!r}"
    inside = error_inside({"error": {"message": "sk-secret-1"}}, where=WHERE, secrets=["sk-secret-1"])
    assert "sk-secret-1" not in f"{inside} {inside.body}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-1"}, 0.0),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    seconds = retry_after({"Retry-After": formatdate(time.time() + 90, usegmt=True)})
    assert seconds is not None
    assert 85 < seconds <= 90


@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        ({"error": {"message": "a", "code": 429}}, RateLimitError, 429),
        ({"error": {"message": "a", "code": "502"}}, ServerError, 502),
        ({"error": {"message": "a", "type": "rate_limit_error"}}, RateLimitError, 429),
        ({"error": {"message": "a", "code": "insufficient_quota"}}, RateLimitError, 429),
        ({"error": {"message": "a", "type": "invalid_request_error"}}, BadRequestError, 400),
        ({"error": {"message": "a", "type": "authentication_error"}}, AuthenticationError, 401),
        ({"error": {"message": "a", "type": "overloaded_error"}}, ServerError, 500),
        ({"error": {"message": "a"}}, ServerError, None),
        ({"error": "a"}, ServerError, None),
        ({"object": "error", "message": "a", "code": 400}, BadRequestError, 400),
        ({"type": "error", "message": "a"}, ServerError, None),
    ],
)
def test_an_error_inside_an_answer_counts_like_its_status(
    answer: dict[str, Any], kind: type[ProviderError], status: int | None
) -> None:
    assert is_error(answer)
    error = error_inside(answer, where=WHERE)
    assert type(error) is kind
    assert error.status == status
    assert str(error) == f"{WHERE} answered with an error: a"


def test_a_reply_is_no_error() -> None:
    assert not is_error({"object": "chat.completion", "choices": [], "error": None})
