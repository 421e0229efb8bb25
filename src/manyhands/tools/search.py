"""Searching the web: one tool per kind of engine, all async, all giving results as Markdown."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import xml.etree.ElementTree as ElementTree
from abc import abstractmethod
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from manyhands.errors import AgentToolExecutionError, ToolDefinitionError
from manyhands.tools.http import HttpTool, Reply, ask

_QUERY: dict[str, Any] = {"type": "string", "description": "The search query to perform."}


@dataclass(frozen=True, slots=True)
class Result:
    """One hit of a search."""

    title: str
    url: str
    text: str = ""
    note: str = ""


def as_markdown(results: list[Result], query: str) -> str:
    """Return ``results`` as a model reads them."""
    if not results:
        return f"No results found for '{query}'. Try a shorter or less restrictive query."
    lines = []
    for result in results:
        parts = [f"[{result.title}]({result.url})", result.note, result.text]
        lines.append("\n".join(part for part in parts if part))
    return "## Search Results\n\n" + "\n\n".join(lines)


class _Pace:
    """Hands out moments, one every ``1 / rate`` seconds, to callers from any loop or thread."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    async def wait(self) -> None:
        if not self._interval:
            return
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval
        if mine > now:
            await asyncio.sleep(mine - now)


class SearchTool(HttpTool):
    """What all searches have in common; a subclass asks its engine in ``_find``.

    Args:
        max_results: Most results to give.
        rate_limit: Searches per second at most, over all runs that share this tool; ``None`` for no
            limit.
    """

    name = "web_search"
    inputs = {"query": _QUERY}
    output_type = "string"

    def __init__(self, max_results: int = 10, rate_limit: float | None = None) -> None:
        self.max_results = max_results
        self._pace = _Pace(rate_limit)

    async def forward(self, query: str) -> str:
        """Return the results for ``query`` as Markdown.

        Raises:
            AgentToolExecutionError: The engine did not answer.
        """
        await self._pace.wait()
        results = await self._find(query)
        return as_markdown(results[: self.max_results], query)

    @abstractmethod
    async def _find(self, query: str) -> list[Result]:
        """Return what the engine finds."""


def _parsed(reply: Reply, engine: str) -> Any:
    try:
        return json.loads(reply.text)
    except json.JSONDecodeError as error:
        raise AgentToolExecutionError(f"{engine} answered with something that is not JSON.") from error


def _key(given: str, variable: str, engine: str) -> str:
    key = given or os.environ.get(variable, "")
    if not key:
        raise ToolDefinitionError(f"{engine} needs an API key: set {variable}, or give `api_key=`.")
    return key


# --- Engines that need no key ------------------------------------------------------------------


class WebSearchTool(SearchTool):
    """Searches with DuckDuckGo, Bing or Exa.

    Args:
        max_results: Most results to give.
        engine: ``duckduckgo``, ``bing`` or ``exa``; the last needs a key.
        rate_limit: Searches per second at most.
        base_url: Where the engine is; its public address by default.
        api_key: For Exa; ``EXA_API_KEY`` by default.
        timeout_seconds: Limit on one search.
    """

    description = (
        "Performs a web search for a query and returns a string of the top search results formatted "
        "as markdown with titles, links, and descriptions."
    )

    def __init__(
        self,
        max_results: int = 10,
        engine: Literal["duckduckgo", "bing", "exa"] = "duckduckgo",
        rate_limit: float | None = None,
        *,
        base_url: str = "",
        api_key: str = "",
        timeout_seconds: float = 20.0,
    ) -> None:
        super().__init__(max_results, rate_limit)
        if engine not in _ENGINES:
            raise ToolDefinitionError(f"There is no engine '{engine}': use one of {', '.join(_ENGINES)}.")
        self.engine = engine
        self.base_url = base_url or _ENGINES[engine]
        self.timeout_seconds = timeout_seconds
        self._api_key = _key(api_key, "EXA_API_KEY", "Exa") if engine == "exa" else ""

    async def _find(self, query: str) -> list[Result]:
        return await getattr(self, f"_find_{self.engine}")(query)  # type: ignore[no-any-return]

    async def _find_duckduckgo(self, query: str) -> list[Result]:
        reply = await ask(self.base_url, params={"q": query}, timeout_seconds=self.timeout_seconds)
        parser = _DuckDuckGoPage()
        parser.feed(reply.text)
        parser.close()
        if not parser.results and reply.status == 202:
            raise AgentToolExecutionError(
                "DuckDuckGo answers no more searches for now: wait a while, or search less often "
                "(`rate_limit=`)."
            )
        return parser.results

    async def _find_bing(self, query: str) -> list[Result]:
        params = {"q": query, "format": "rss"}
        reply = await ask(self.base_url, params=params, timeout_seconds=self.timeout_seconds)
        try:
            items = ElementTree.fromstring(reply.text).findall("./channel/item")
        except ElementTree.ParseError as error:
            raise AgentToolExecutionError("Bing answered with something that is no result feed.") from error
        return [
            Result(*(item.findtext(tag, "").strip() for tag in ("title", "link", "description")))
            for item in items
        ]

    async def _find_exa(self, query: str) -> list[Result]:
        body = {"query": query, "numResults": self.max_results, "contents": {"highlights": True}}
        headers = {"x-api-key": self._api_key}
        reply = await ask(
            self.base_url, method="POST", json=body, headers=headers, timeout_seconds=self.timeout_seconds
        )
        return [
            Result(
                item.get("title") or item.get("url", ""),
                item.get("url", ""),
                " ".join(item.get("highlights") or ()) or item.get("text", ""),
            )
            for item in _parsed(reply, "Exa").get("results", ())
        ]


_ENGINES = {
    "duckduckgo": "https://lite.duckduckgo.com/lite/",
    "bing": "https://www.bing.com/search",
    "exa": "https://api.exa.ai/search",
}


class DuckDuckGoSearchTool(WebSearchTool):
    """Searches with DuckDuckGo.

    Args:
        max_results: Most results to give.
        rate_limit: Searches per second at most; the engine refuses those who ask much more often.
        **options: ``base_url`` and ``timeout_seconds`` of :class:`WebSearchTool`.
    """

    description = (
        "Performs a duckduckgo web search based on your query (think a Google search) then returns the "
        "top search results."
    )

    def __init__(self, max_results: int = 10, rate_limit: float | None = 1.0, **options: Any) -> None:
        super().__init__(max_results, "duckduckgo", rate_limit, **options)


class _DuckDuckGoPage(HTMLParser):
    """Reads the results off DuckDuckGo's page for clients without scripts."""

    _LINKS = frozenset({"result-link", "result__a"})
    _TEXTS = frozenset({"result-snippet", "result__snippet"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.results: list[Result] = []
        self._inside = ""
        self._tag = ""
        self._url = ""
        self._words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        classes = set(given.get("class", "").split())
        if classes & self._LINKS:
            self._inside, self._tag, self._words = "link", tag, []
            self._url = _target(given.get("href", ""))
        elif classes & self._TEXTS:
            self._inside, self._tag, self._words = "text", tag, []

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._words.append(data)

    def handle_endtag(self, tag: str) -> None:
        if not self._inside or tag != self._tag:
            return
        words = " ".join("".join(self._words).split())
        if self._inside == "link":
            self.results.append(Result(words, self._url))
        elif self.results:
            last = self.results[-1]
            self.results[-1] = Result(last.title, last.url, words)
        self._inside = ""


def _target(href: str) -> str:
    """Return where a result leads: its link may go by way of the engine."""
    wrapped = parse_qs(urlsplit(href).query).get("uddg")
    if wrapped:
        return wrapped[0]
    return f"https:{href}" if href.startswith("//") else href


# --- Engines that need a key -------------------------------------------------------------------


class GoogleSearchTool(SearchTool):
    """Searches with Google, through SerpApi or Serper.

    Args:
        provider: ``serpapi`` or ``serper``.
        max_results: Most results to give.
        rate_limit: Searches per second at most.
        api_key: ``SERPAPI_API_KEY`` or ``SERPER_API_KEY`` by default.
        base_url: Where the provider is; its public address by default.
        timeout_seconds: Limit on one search.
    """

    description = (
        "Performs a google web search for your query then returns a string of the top search results."
    )
    inputs = {
        "query": _QUERY,
        "filter_year": {
            "type": "integer",
            "description": "Optionally restrict results to a certain year",
            "nullable": True,
        },
    }

    def __init__(
        self,
        provider: Literal["serpapi", "serper"] = "serpapi",
        max_results: int = 10,
        rate_limit: float | None = None,
        *,
        api_key: str = "",
        base_url: str = "",
        timeout_seconds: float = 20.0,
    ) -> None:
        super().__init__(max_results, rate_limit)
        if provider not in _GOOGLE:
            raise ToolDefinitionError(f"There is no provider '{provider}': use one of {', '.join(_GOOGLE)}.")
        address, variable = _GOOGLE[provider]
        self.provider = provider
        self.base_url = base_url or address
        self.timeout_seconds = timeout_seconds
        self._api_key = _key(api_key, variable, "Google search")

    async def forward(self, query: str, filter_year: int | None = None) -> str:
        """Return the results for ``query``, of one year if ``filter_year`` is given.

        Raises:
            AgentToolExecutionError: The provider did not answer.
        """
        await self._pace.wait()
        results = await self._find(query, filter_year)
        return as_markdown(results[: self.max_results], query)

    async def _find(self, query: str, year: int | None = None) -> list[Result]:
        asked = {"q": query}
        if year is not None:
            asked["tbs"] = f"cdr:1,cd_min:01/01/{year},cd_max:12/31/{year}"
        if self.provider == "serper":
            headers = {"X-API-KEY": self._api_key}
            reply = await ask(
                self.base_url,
                method="POST",
                json=asked,
                headers=headers,
                timeout_seconds=self.timeout_seconds,
            )
            found = _parsed(reply, "Serper").get("organic", ())
        else:
            params = {**asked, "engine": "google", "google_domain": "google.com", "api_key": self._api_key}
            reply = await ask(self.base_url, params=params, timeout_seconds=self.timeout_seconds)
            found = _parsed(reply, "SerpApi").get("organic_results", ())
        return [_google_result(item) for item in found]


_GOOGLE = {
    "serpapi": ("https://serpapi.com/search.json", "SERPAPI_API_KEY"),
    "serper": ("https://google.serper.dev/search", "SERPER_API_KEY"),
}


def _google_result(item: dict[str, Any]) -> Result:
    notes = [f"Date published: {item['date']}" if item.get("date") else "", item.get("source") or ""]
    return Result(
        item.get("title", ""),
        item.get("link", ""),
        item.get("snippet", ""),
        "\n".join(note for note in notes if note),
    )


class ApiWebSearchTool(SearchTool):
    """Searches with Brave, or any engine whose API answers in the same form.

    Args:
        endpoint: Where the engine is; Brave by default.
        api_key: The key; by default that in the environment variable ``api_key_name``.
        api_key_name: ``BRAVE_API_KEY`` by default.
        headers: Sent instead of the header that Brave wants its key in.
        params: Query parameters beyond ``q``.
        rate_limit: Searches per second at most.
        max_results: Most results to give.
        timeout_seconds: Limit on one search.
    """

    description = (
        "Performs a web search for a query and returns a string of the top search results formatted as "
        "markdown with titles, URLs, and descriptions."
    )

    def __init__(
        self,
        endpoint: str = "",
        api_key: str = "",
        api_key_name: str = "",
        headers: dict[str, str] | None = None,
        params: dict[str, Any] | None = None,
        rate_limit: float | None = 1.0,
        *,
        max_results: int = 10,
        timeout_seconds: float = 20.0,
    ) -> None:
        super().__init__(max_results, rate_limit)
        self.endpoint = endpoint or "https://api.search.brave.com/res/v1/web/search"
        if headers is None:
            headers = {"X-Subscription-Token": _key(api_key, api_key_name or "BRAVE_API_KEY", "Web search")}
        self._headers = headers
        self.params = {"count": max_results} if params is None else params
        self.timeout_seconds = timeout_seconds

    async def _find(self, query: str) -> list[Result]:
        params = {"q": query, **{name: str(value) for name, value in self.params.items()}}
        headers = {"Accept": "application/json", **self._headers}
        reply = await ask(self.endpoint, params=params, headers=headers, timeout_seconds=self.timeout_seconds)
        found = (_parsed(reply, "The search engine").get("web") or {}).get("results", ())
        return [
            Result(item.get("title", ""), item.get("url", ""), item.get("description", "")) for item in found
        ]


# --- Wikipedia ---------------------------------------------------------------------------------


class WikipediaSearchTool(HttpTool):
    """Reads the Wikipedia page about a topic.

    Args:
        user_agent: Wikipedia asks programs to say who they are and how to reach you.
        language: Which Wikipedia, such as ``en``.
        content_type: ``text`` for the whole page, ``summary`` for its beginning.
        extract_format: ``WIKI`` for plain text with headings, ``HTML``.
        base_url: Where Wikipedia's API is; its public address by default.
        timeout_seconds: Limit on one request.
    """

    name = "wikipedia_search"
    description = (
        "Searches Wikipedia and returns a summary or full text of the given topic, along with the page URL."
    )
    inputs = {"query": {"type": "string", "description": "The topic to search on Wikipedia."}}
    output_type = "string"

    def __init__(
        self,
        user_agent: str = "manyhands (Python; agents that search the web)",
        language: str = "en",
        content_type: Literal["text", "summary"] = "text",
        extract_format: Literal["WIKI", "HTML"] = "WIKI",
        *,
        base_url: str = "",
        timeout_seconds: float = 20.0,
    ) -> None:
        if content_type not in ("text", "summary"):
            raise ToolDefinitionError(f"content_type is {content_type!r}: use 'text' or 'summary'.")
        if extract_format not in ("WIKI", "HTML"):
            raise ToolDefinitionError(f"extract_format is {extract_format!r}: use 'WIKI' or 'HTML'.")
        self.user_agent = user_agent
        self.language = language
        self.content_type = content_type
        self.extract_format = extract_format
        self.base_url = base_url or f"https://{language}.wikipedia.org/w/api.php"
        self.timeout_seconds = timeout_seconds

    async def forward(self, query: str) -> str:
        """Return the page whose title is ``query``, else the one that a search finds first.

        Raises:
            AgentToolExecutionError: Wikipedia did not answer.
        """
        page = await self._page({"titles": query})
        if page is None:
            page = await self._page({"generator": "search", "gsrsearch": query, "gsrlimit": "1"})
        if page is None:
            return f"No Wikipedia page found for '{query}'. Try a different query."
        return f"# {page['title']}\n\n{page['extract'].strip()}\n\nRead more: {page.get('fullurl', '')}"

    async def _page(self, choice: dict[str, str]) -> dict[str, Any] | None:
        params = {
            "action": "query",
            "format": "json",
            "formatversion": "2",
            "prop": "extracts|info",
            "inprop": "url",
            "redirects": "1",
            **choice,
        }
        if self.extract_format == "WIKI":
            params["explaintext"] = "1"
        if self.content_type == "summary":
            params["exintro"] = "1"
        headers = {"User-Agent": self.user_agent}
        reply = await ask(self.base_url, params=params, headers=headers, timeout_seconds=self.timeout_seconds)
        pages = (_parsed(reply, "Wikipedia").get("query") or {}).get("pages", ())
        return next((page for page in pages if page.get("extract")), None)
