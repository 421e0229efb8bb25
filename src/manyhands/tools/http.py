"""Pages and APIs over HTTP for the web tools: one pool of connections per event loop, bounded reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from manyhands._bridge import PerLoop
from manyhands.errors import AgentToolExecutionError
from manyhands.tools.base import Tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import ClientResponse, ClientSession

MAX_BYTES = 5 * 1024 * 1024

# Some sites answer nothing but errors to clients that do not look like a browser.
BROWSER_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; manyhands)",
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Accept-Language": "en;q=0.9,*;q=0.5",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        url: The address that answered, after redirects.
        status: HTTP status.
        content_type: Such as ``text/html``, lower case, without parameters.
        text: The body as text.
        cut: Whether the body was longer than allowed.
    """

    url: str
    status: int
    content_type: str
    text: str
    cut: bool = False


class HttpTool(Tool):
    """A tool that asks servers."""

    def setup(self) -> None:
        """Load the HTTP client: it takes a while, which the loop need not wait for."""
        import aiohttp  # noqa: F401


def _open() -> ClientSession:
    import aiohttp

    # Cookies of one run must not reach another; proxies are taken from the environment.
    return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=True)


_sessions: PerLoop[ClientSession] = PerLoop(_open, lambda session: session.close())


async def ask(
    url: str,
    *,
    method: str = "GET",
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    data: Any = None,
    timeout_seconds: float = 20.0,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Reply:
    """Send one request and read the answer as text.

    Args:
        url: Where; shown in errors without its query, which may hold a key.
        method: HTTP method.
        params: Query parameters.
        headers: Headers beyond those of a browser.
        json: Body, sent as JSON.
        data: Body, sent as a form.
        timeout_seconds: Limit on the whole exchange.
        max_bytes: What is longer is cut off.
        **options: More arguments of aiohttp's ``request``, such as ``proxy``.

    Raises:
        AgentToolExecutionError: No answer, or one that says the request failed.
    """
    import aiohttp

    where = _shown(url)
    session = await _sessions.get()
    sent = session.request(
        method,
        url,
        params=params,
        headers={**BROWSER_HEADERS, **(headers or {})},
        json=json,
        data=data,
        timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        **options,
    )
    try:
        async with sent as response:
            return await _read(response, where, max_bytes)
    except TimeoutError as error:
        raise AgentToolExecutionError(
            f"{where} gave no answer within {timeout_seconds:g} seconds. Try again later, or another address."
        ) from error
    except aiohttp.InvalidURL as error:
        raise AgentToolExecutionError(
            f"{where!r} is not a web address. Give one such as https://example.com/page."
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        raise AgentToolExecutionError(f"{where} could not be read: {_reason(error)}") from error


async def _read(response: ClientResponse, where: str, max_bytes: int) -> Reply:
    if response.status >= 400:
        name = _status_name(response.status)
        raise AgentToolExecutionError(f"{where} answered with an error: {response.status} {name}.")
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > max_bytes:
            break
    raw = bytes(body[:max_bytes])
    return Reply(
        str(response.url),
        response.status,
        response.content_type.lower(),
        _decoded(raw, response.charset),
        len(body) > max_bytes,
    )


_META_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)


def _decoded(body: bytes, charset: str | None) -> str:
    if charset is None and (found := _META_CHARSET.search(body[:4096])):
        charset = found[1].decode("ascii")
    try:
        return body.decode(charset or "utf-8", errors="replace")
    except LookupError:  # an encoding that nobody knows
        return body.decode("utf-8", errors="replace")


def _status_name(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _shown(url: str) -> str:
    return urlsplit(url)._replace(query="", fragment="").geturl() or url


def _reason(error: BaseException) -> str:
    return str(error).rstrip(".") + "." if str(error) else f"{type(error).__name__}."
