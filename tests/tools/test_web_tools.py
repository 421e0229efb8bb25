"""The tools that read the web, against a real server on this machine."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from manyhands.errors import AgentToolExecutionError, ToolDefinitionError
from manyhands.tools.search import (
    ApiWebSearchTool,
    DuckDuckGoSearchTool,
    GoogleSearchTool,
    WebSearchTool,
    WikipediaSearchTool,
)
from manyhands.tools.web import VisitWebpageTool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """A web server whose pages a test writes."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, str], Any]] = []
        self.pages: dict[str, Handler] = {}
        self.url = ""

    def page(self, path: str, body: str | bytes, content_type: str = "text/html", status: int = 200) -> str:
        async def answer(_: web.Request) -> web.Response:
            raw = body.encode() if isinstance(body, str) else body
            return web.Response(body=raw, headers={"Content-Type": content_type}, status=status)

        self.pages[path] = answer
        return self.url + path

    def json(self, path: str, body: Any) -> str:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response(body)

        self.pages[path] = answer
        return self.url + path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        sent = await request.json() if request.content_type == "application/json" else None
        self.requests.append((request.path, dict(request.query), dict(request.headers), sent))
        if request.path not in self.pages:
            raise web.HTTPNotFound
        return await self.pages[request.path](request)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}"
    yield made
    await runner.cleanup()


class TestVisitWebpage:
    async def test_page_is_given_as_markdown(self, site: Site) -> None:
        url = site.page("/a/page", "<h1>Title</h1><p>See <a href='other'>this</a>.</p>")
        text = await VisitWebpageTool().acall(url)
        assert text == f"# Title\n\nSee [this]({site.url}/a/other)."

    def test_page_is_given_to_sync_code(self) -> None:
        with pytest.raises(AgentToolExecutionError, match="could not be read"):
            VisitWebpageTool(timeout_seconds=5)("http://127.0.0.1:9/")

    async def test_path_is_taken_from_the_base_url(self, site: Site) -> None:
        site.page("/here", "<p>yes</p>")
        assert await VisitWebpageTool(base_url=site.url).acall(url="/here") == "yes"

    async def test_text_and_json_are_given_as_they_are(self, site: Site) -> None:
        visit = VisitWebpageTool()
        assert await visit.acall(site.page("/t", "a <b>", "text/plain")) == "a <b>"
        assert await visit.acall(site.json("/j", {"a": 1})) == '{"a": 1}'

    async def test_other_content_is_refused(self, site: Site) -> None:
        url = site.page("/p", b"%PDF", "application/pdf")
        with pytest.raises(AgentToolExecutionError, match="its content is of type application/pdf"):
            await VisitWebpageTool().acall(url)

    async def test_encoding_is_taken_from_header_page_or_guessed(self, site: Site) -> None:
        visit = VisitWebpageTool()
        latin = "<p>Köln</p>".encode("latin-1")
        assert await visit.acall(site.page("/1", latin, "text/html; charset=iso-8859-1")) == "Köln"
        assert await visit.acall(site.page("/2", b"<meta charset='iso-8859-1'>" + latin)) == "Köln"
        assert await visit.acall(site.page("/3", "<p>Köln</p>")) == "Köln"
        assert "K" in await visit.acall(site.page("/4", latin, "text/html; charset=unheard-of"))

    async def test_long_page_is_shortened_in_the_middle(self, site: Site) -> None:
        url = site.page("/long", "<p>begin " + "x" * 50_000 + " end</p>")
        text = await VisitWebpageTool(max_output_length=1000).acall(url)
        assert text.startswith("begin xxx")
        assert text.endswith("xxx end")
        assert "49010 characters left out here" in text

    async def test_error_status_is_told(self, site: Site) -> None:
        with pytest.raises(AgentToolExecutionError, match=r"/nowhere answered with an error: 404 Not Found"):
            await VisitWebpageTool().acall(f"{site.url}/nowhere?key=secret")
        with pytest.raises(AgentToolExecutionError, match=r"answered with an error: 599"):
            await VisitWebpageTool().acall(site.page("/odd", "", status=599))

    async def test_silent_server_is_given_up(self, site: Site) -> None:
        async def silent(_: web.Request) -> web.Response:
            await asyncio.sleep(30)
            raise AssertionError

        site.pages["/silent"] = silent
        with pytest.raises(AgentToolExecutionError, match=r"gave no answer within 0.1 seconds"):
            await VisitWebpageTool(timeout_seconds=0.1).acall(f"{site.url}/silent")

    @pytest.mark.parametrize("url", ["http://", "http://exa mple.com:port/", "ftp://example.com/x"])
    async def test_what_is_no_web_address_is_told(self, url: str) -> None:
        with pytest.raises(AgentToolExecutionError, match=r"is not a web address|could not be read"):
            await VisitWebpageTool().acall(url)

    async def test_body_is_read_up_to_a_limit_only(self, site: Site) -> None:
        sent = 0

        async def endless(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65536)
                sent += 65536

        site.pages["/endless"] = endless
        text = await VisitWebpageTool(max_output_length=100).acall(f"{site.url}/endless")
        assert text.startswith("xxx")
        assert sent < 64 * 1024 * 1024

    async def test_many_visits_go_on_side_by_side(self, site: Site) -> None:
        async def slow(_: web.Request) -> web.Response:
            await asyncio.sleep(0.2)
            return web.Response(text="slow")

        site.pages["/slow"] = slow
        visit = VisitWebpageTool()
        start = time.perf_counter()
        assert set(await asyncio.gather(*(visit.acall(f"{site.url}/slow") for _ in range(50)))) == {"slow"}
        assert time.perf_counter() - start < 3


LITE_PAGE = """
<table><tr><td>1.</td><td><a rel="nofollow" class='result-link'
 href="//duckduckgo.com/l/?uddg=https%3A%2F%2Fa.example%2Fx%3Fy%3D1&rut=0">First <b>hit</b></a></td></tr>
<tr><td></td><td class='result-snippet'>About
 <b>it</b> &amp; more</td></tr>
<tr><td><a class="result-link" href="https://b.example/">Second</a></td></tr></table>
"""

FEED = """<?xml version="1.0"?><rss><channel><item><title>One</title><link>https://a.example/</link>
<description>About it</description></item><item><title>Two</title><link>https://b.example/</link></item>
</channel></rss>"""


class TestSearches:
    async def test_duckduckgo_results_are_given_as_markdown(self, site: Site) -> None:
        search = DuckDuckGoSearchTool(base_url=site.page("/lite/", LITE_PAGE))
        assert search.name == "web_search"
        assert await search.acall("what is it") == (
            "## Search Results\n\n[First hit](https://a.example/x?y=1)\nAbout it & more\n\n"
            "[Second](https://b.example/)"
        )
        assert site.requests[0][1] == {"q": "what is it"}

    async def test_no_more_than_max_results_are_given(self, site: Site) -> None:
        search = WebSearchTool(max_results=1, base_url=site.page("/lite/", LITE_PAGE))
        assert "Second" not in await search.acall("x")

    async def test_no_result_is_an_answer_and_a_refusal_an_error(self, site: Site) -> None:
        search = WebSearchTool(base_url=site.page("/lite/", "<html></html>"))
        assert (await search.acall("xyzzy")).startswith("No results found for 'xyzzy'.")
        site.page("/lite/", "<html></html>", status=202)
        with pytest.raises(AgentToolExecutionError, match="no more searches for now"):
            await search.acall("xyzzy")

    async def test_bing_feed_is_read(self, site: Site) -> None:
        search = WebSearchTool(engine="bing", base_url=site.page("/search", FEED, "text/xml"))
        text = await search.acall("x")
        assert "[One](https://a.example/)\nAbout it\n\n[Two](https://b.example/)" in text
        assert site.requests[0][1] == {"q": "x", "format": "rss"}
        site.page("/search", "<html>")
        with pytest.raises(AgentToolExecutionError, match="no result feed"):
            await search.acall("x")

    async def test_exa_is_asked_with_its_key(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EXA_API_KEY", raising=False)
        with pytest.raises(ToolDefinitionError, match="set EXA_API_KEY"):
            WebSearchTool(engine="exa")
        monkeypatch.setenv("EXA_API_KEY", "k1")
        url = site.json("/exa", {"results": [{"title": "T", "url": "https://a", "highlights": ["h1", "h2"]}]})
        search = WebSearchTool(engine="exa", base_url=url)
        assert "[T](https://a)\nh1 h2" in await search.acall("x")
        _, _, headers, body = site.requests[0]
        assert headers["x-api-key"] == "k1"
        assert body["query"] == "x"

    def test_unknown_engine_or_provider_is_told(self) -> None:
        with pytest.raises(ToolDefinitionError, match="one of duckduckgo, bing, exa"):
            WebSearchTool(engine="altavista")  # type: ignore[arg-type]
        with pytest.raises(ToolDefinitionError, match="one of serpapi, serper"):
            GoogleSearchTool(provider="x")  # type: ignore[arg-type]

    async def test_google_results_of_a_year_come_from_serpapi(self, site: Site) -> None:
        found = {"title": "T", "link": "https://a", "snippet": "s", "date": "May 2020", "source": "src"}
        url = site.json("/serpapi", {"organic_results": [found]})
        search = GoogleSearchTool(api_key="k2", base_url=url)
        text = await search.acall(query="x", filter_year=2020)
        assert "[T](https://a)\nDate published: May 2020\nsrc\ns" in text
        query = site.requests[0][1]
        assert query["api_key"] == "k2"
        assert query["tbs"] == "cdr:1,cd_min:01/01/2020,cd_max:12/31/2020"

    async def test_google_results_come_from_serper(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SERPER_API_KEY", "k3")
        url = site.json("/serper", {"organic": [{"title": "T", "link": "https://a"}]})
        search = GoogleSearchTool("serper", base_url=url)
        assert "[T](https://a)" in await search.acall("x")
        _, _, headers, body = site.requests[0]
        assert headers["X-API-KEY"] == "k3"
        assert body == {"q": "x"}

    async def test_keys_do_not_appear_in_errors(self, site: Site) -> None:
        search = GoogleSearchTool(api_key="very-secret", base_url=f"{site.url}/gone")
        with pytest.raises(AgentToolExecutionError, match="404") as caught:
            await search.acall("x")
        assert "very-secret" not in str(caught.value)
        assert "very-secret" not in repr(search)

    async def test_api_search_sends_its_key_and_parameters(self, site: Site) -> None:
        url = site.json(
            "/brave", {"web": {"results": [{"title": "T", "url": "https://a", "description": "d"}]}}
        )
        search = ApiWebSearchTool(endpoint=url, api_key="k4", params={"count": 3})
        assert "[T](https://a)\nd" in await search.acall("x")
        _, query, headers, _ = site.requests[0]
        assert query == {"q": "x", "count": "3"}
        assert headers["X-Subscription-Token"] == "k4"

    async def test_answer_that_is_not_json_is_told(self, site: Site) -> None:
        search = ApiWebSearchTool(endpoint=site.page("/brave", "<html>"), headers={})
        with pytest.raises(AgentToolExecutionError, match="not JSON"):
            await search.acall("x")

    async def test_searches_keep_their_rate_over_all_runs(self, site: Site) -> None:
        search = DuckDuckGoSearchTool(rate_limit=20, base_url=site.page("/lite/", LITE_PAGE))
        start = time.perf_counter()
        await asyncio.gather(*(search.acall("x") for _ in range(6)))
        assert 0.24 <= time.perf_counter() - start < 2


class TestWikipedia:
    async def test_page_of_that_title_is_given(self, site: Site) -> None:
        page = {"title": "Bonn", "extract": "A city.", "fullurl": "https://w/Bonn"}
        url = site.json("/w/api.php", {"query": {"pages": [page]}})
        search = WikipediaSearchTool("me (me@example.com)", content_type="summary", base_url=url)
        assert await search.acall("Bonn") == "# Bonn\n\nA city.\n\nRead more: https://w/Bonn"
        _, query, headers, _ = site.requests[0]
        assert (query["titles"], query["exintro"], query["explaintext"]) == ("Bonn", "1", "1")
        assert headers["User-Agent"] == "me (me@example.com)"

    async def test_page_that_a_search_finds_is_given_else(self, site: Site) -> None:
        async def answer(request: web.Request) -> web.Response:
            missing = {"title": "capital before Berlin", "missing": True}
            found = {"title": "Bonn", "extract": "A city.", "fullurl": "https://w/Bonn"}
            return web.json_response(
                {"query": {"pages": [found if "gsrsearch" in request.query else missing]}}
            )

        site.pages["/api"] = answer
        search = WikipediaSearchTool(base_url=f"{site.url}/api")
        assert (await search.acall("capital before Berlin")).startswith("# Bonn")

    async def test_nothing_found_is_an_answer(self, site: Site) -> None:
        search = WikipediaSearchTool(base_url=site.json("/api", {"batchcomplete": True}))
        assert await search.acall("xyzzy") == "No Wikipedia page found for 'xyzzy'. Try a different query."

    def test_options_that_do_not_exist_are_told(self) -> None:
        with pytest.raises(ToolDefinitionError, match="'text' or 'summary'"):
            WikipediaSearchTool(content_type="all")  # type: ignore[arg-type]
        with pytest.raises(ToolDefinitionError, match="'WIKI' or 'HTML'"):
            WikipediaSearchTool(extract_format="PDF")  # type: ignore[arg-type]
