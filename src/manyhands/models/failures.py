"""What went wrong at a provider, as one of our errors: by HTTP status, error object and headers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from manyhands.errors import (
    AuthenticationError,
    BadRequestError,
    ProviderError,
    RateLimitError,
    ServerError,
)
from manyhands.models import codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LONGEST_REASON = 500
_WORDS = (
    (("rate_limit", "too_many_requests", "insufficient_quota", "quota", "resource_exhausted"), 429),
    (("authentication", "invalid_api_key", "unauthorized"), 401),
    (("permission", "forbidden"), 403),
    (("invalid_request", "bad_request", "not_found", "context_length", "unsupported"), 400),
    (("overloaded", "server_error", "internal", "timeout", "unavailable"), 500),
)


def error_class(status: int | None) -> type[ProviderError]:
    """Return the class of error for an HTTP status."""
    if status == 429:
        return RateLimitError
    if status in (401, 403):
        return AuthenticationError
    if status is None or status in (408, 409) or status >= 500 or status < 300:
        return ServerError
    return BadRequestError


def refusal(
    status: int, body: bytes, headers: Mapping[str, str], *, where: str, secret: str | None = None
) -> ProviderError:
    """Return the error for an HTTP answer that is none of 2xx.

    Args:
        status: Its status.
        body: Its body; the provider's reason is looked for there.
        headers: Its headers.
        where: The address that was asked.
        secret: The key, which a server may repeat in its answer; it is struck out.
    """
    text = body.decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")
    try:
        answer = codec.loads(text)
    except ValueError:
        answer = None
    if 300 <= status < 400:
        reason = f"it redirects to {headers.get('Location', 'nowhere')}; use that address as api_base"
    else:
        reason = reason_of(answer) or _first_words(text)
    return error_class(status)(
        f"{where} answered {status}: {reason}" if reason else f"{where} answered {status}.",
        status=status,
        retry_after=retry_after(headers),
        body=answer if isinstance(answer, dict) else None,
    )


def is_error(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer with status 200 is an error object all the same."""
    return bool(answer.get("error")) or "error" in (answer.get("object"), answer.get("type"))


def error_inside(answer: Mapping[str, Any], *, where: str, secrets: Iterable[str] = ()) -> ProviderError:
    """Return the error for an error object that came with status 200, whole or in a stream.

    Args:
        answer: The answer that holds it.
        where: Who was asked.
        secrets: Keys, which a server may repeat in its answer; they are struck out.
    """
    for secret in secrets:
        answer = codec.loads(codec.dumps(answer).replace(secret.encode(), b"***"))
    status = _status_inside(answer.get("error") or answer)
    reason = reason_of(answer) or "an error without a reason"
    return error_class(status)(f"{where} answered with an error: {reason}", status=status, body=answer)


def reason_of(answer: Any) -> str:
    """Return the reason in a provider's error object, in any of its usual forms, "" if there is none."""
    while isinstance(answer, list) and answer:
        answer = answer[0]
    if isinstance(answer, str):
        return answer[:_LONGEST_REASON]
    if not isinstance(answer, dict):
        return ""
    for name in ("error", "message", "detail", "msg", "reason"):
        reason = reason_of(answer.get(name))
        if reason:
            return reason
    return ""


def _first_words(text: str) -> str:
    text = " ".join(text[: 4 * _LONGEST_REASON].split())
    return "a web page instead of JSON" if text.startswith("<") else text[:_LONGEST_REASON]


def _status_inside(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    for name in ("status", "status_code", "code", "http_status"):
        value = error.get(name)
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    words = f"{error.get('type')} {error.get('code')} {error.get('status')}".lower()
    return next((status for keys, status in _WORDS if any(key in words for key in keys)), None)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a provider asks to wait, ``None`` if it does not ask.

    Args:
        headers: ``Retry-After`` as seconds or as a date, or ``retry-after-ms``.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is not None:
        return seconds
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(0.0, number) if number < float("inf") else None
