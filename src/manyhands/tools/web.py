"""Reading web pages."""

from __future__ import annotations

import functools

from manyhands._bridge import call_sync
from manyhands.errors import AgentToolExecutionError
from manyhands.tools.http import HttpTool, Reply, ask
from manyhands.tools.markdown import html_to_markdown

# Up to here a page is translated in well under the time that a loop may be held up.
_INLINE_CHARACTERS = 20_000


class VisitWebpageTool(HttpTool):
    """Reads a web page as Markdown.

    Args:
        max_output_length: Characters of a page that the model gets; of a longer one the beginning
            and the end.
        timeout_seconds: Limit on one visit.
        base_url: Put before addresses that are only a path, for tests and mirrors.
        headers: Headers to send along.
    """

    name = "visit_webpage"
    description = (
        "Visits a webpage at the given url and reads its content as a markdown string. "
        "Use this to browse webpages."
    )
    inputs = {"url": {"type": "string", "description": "The url of the webpage to visit."}}
    output_type = "string"

    def __init__(
        self,
        max_output_length: int = 40_000,
        timeout_seconds: float = 20.0,
        base_url: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.max_output_length = max_output_length
        self.timeout_seconds = timeout_seconds
        self.base_url = base_url
        self.headers = headers or {}

    async def forward(self, url: str) -> str:
        """Return the page at ``url`` as Markdown.

        Raises:
            AgentToolExecutionError: The page cannot be read; the text says why.
        """
        reply = await ask(self._address(url), headers=self.headers, timeout_seconds=self.timeout_seconds)
        return shortened(await _readable(reply, url), self.max_output_length)

    def _address(self, url: str) -> str:
        url = url.strip()
        if self.base_url and url.startswith("/"):
            return self.base_url.rstrip("/") + url
        return url if "://" in url else f"https://{url}"


async def _readable(reply: Reply, url: str) -> str:
    kind = reply.content_type
    if kind in ("text/html", "application/xhtml+xml"):
        if len(reply.text) <= _INLINE_CHARACTERS:
            return html_to_markdown(reply.text, reply.url)
        call = functools.partial(html_to_markdown, reply.text, reply.url)
        return await call_sync(call, label="tool-visit_webpage")
    if kind.startswith("text/") or kind.endswith(("json", "xml", "javascript", "yaml")):
        return reply.text
    raise AgentToolExecutionError(f"{url} is not a page of text: its content is of type {kind}.")


def shortened(text: str, limit: int) -> str:
    """Return ``text``, or its beginning and end with a note between them if it is longer than ``limit``."""
    if len(text) <= limit:
        return text
    half = limit // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n\n... {left_out} characters left out here ...\n\n{text[len(text) - half :]}"
