"""The page, in a real browser: what a person sees and does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from manyhands import ChatMessage, CodeAgent, tool
from manyhands.limits import RetryingModel, RetryPolicy
from manyhands.serve import Token
from manyhands.testing import FunctionModel, ScriptedModel
from tests.agents.replies import code
from tests.limits.doubles import PlayedModel
from tests.serve.browser import browsing, started
from tests.serve.serving import Gate, echo, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# One browser serves all tests, each with a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    async with started() as running:
        yield running


LOOK_UP = """words = ["one", "two"]
for word in words:
    print(look_up(word))  # <b>bold</b>"""


@tool
async def look_up(word: str) -> str:
    """Look up a word.

    Args:
        word: What.
    """
    return f"<img src=x onerror=alert(1)> {word}"


@tool(requires_approval=True)
async def delete(path: str) -> str:
    """Delete a file.

    Args:
        path: Which.
    """
    return f"{path} is gone"


def coder(**options: Any) -> CodeAgent:
    """An agent that looks up two words, and answers."""
    return CodeAgent(
        [look_up], ScriptedModel([code(LOOK_UP), code("final_answer('<i>done</i>')")]), **options
    )


def deleter() -> CodeAgent:
    """An agent that deletes a file, and answers with what it was told."""

    async def answer(messages: list[ChatMessage]) -> str:
        if len(messages) < 3:
            return code("print(delete('/tmp/old'))")
        told = messages[-1].text.replace("'", '"')
        return code(f"final_answer('''{told}''')")

    return CodeAgent([delete], FunctionModel(answer), name="deleter")


async def begin(page: Any, task: str) -> None:
    """Write a task and start it, once the page has its agents."""
    await page.wait_for_selector("#pulse >> text=at work")
    await page.fill("#task", task)
    await page.keyboard.press("Control+Enter")


async def test_a_run_is_started_and_watched_step_by_step(browser: Any) -> None:
    async with served(coder()) as client, browsing(browser, client.url) as page:
        await begin(page, "Look up two words")
        await page.wait_for_selector(".answer")
        assert await page.inner_text(".task") == "Look up two words"
        assert await page.locator(".step").count() == 2
        assert await page.locator("pre.code .k").all_inner_texts() == ["for", "in"]
        assert "# <b>bold</b>" in await page.inner_text("pre.code >> nth=0")
        assert await page.locator(".call b").all_inner_texts() == ["look_up", "look_up"]
        assert "Execution logs:" in await page.inner_text(".step >> nth=0")
        await page.wait_for_selector("#list .state.success")


async def test_what_a_model_or_tool_writes_never_becomes_markup(browser: Any) -> None:
    async with served(coder()) as client, browsing(browser, client.url) as page:
        await begin(page, "<h1>Task</h1>")
        await page.wait_for_selector(".answer")
        assert await page.inner_text(".answer p") == "<i>done</i>"
        assert await page.inner_text(".task") == "<h1>Task</h1>"
        assert await page.locator("main img, main i, main h1").count() == 0


async def test_tokens_are_drawn_as_they_come(browser: Any) -> None:
    gate = Gate(lambda task: True)
    agent = gate.agent(stream_outputs=True)
    async with served(agent) as client, browsing(browser, client.url) as page:
        await begin(page, "slowly")
        await gate.until(1)
        await page.wait_for_selector(".step.live")
        gate.open()
        await page.wait_for_selector(".answer >> text=answer to slowly")
        assert await page.locator(".typing, .step.live").count() == 0


async def test_a_call_is_approved_with_a_key(browser: Any) -> None:
    async with served(deleter()) as client, browsing(browser, client.url) as page:
        await begin(page, "clean up")
        await page.wait_for_selector(".request")
        await page.wait_for_selector("#needs-you >> text=1 waits for you")
        await page.keyboard.press("a")
        await page.wait_for_selector(".request.closed >> text=Approved")
        await page.wait_for_selector(".answer:has-text('/tmp/old is gone')")


async def test_a_call_is_denied_with_a_reason_that_the_model_sees(browser: Any) -> None:
    async with served(deleter()) as client, browsing(browser, client.url) as page:
        await begin(page, "clean up")
        await page.wait_for_selector(".request")
        await page.keyboard.press("d")
        await page.keyboard.type("keep it")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".request.closed >> text=Denied: keep it")
        await page.wait_for_selector(".answer >> text=keep it")


async def test_the_arguments_of_a_call_are_changed(browser: Any) -> None:
    async with served(deleter()) as client, browsing(browser, client.url) as page:
        await begin(page, "clean up")
        await page.wait_for_selector(".request")
        await page.keyboard.press("c")
        editor = page.locator(".request textarea")
        await editor.fill("{nonsense")
        await page.click(".request >> text=Approve")
        await page.wait_for_selector("#toast.shown >> text=no JSON")
        await editor.fill('{"path": 7}')
        await page.click(".request >> text=Approve")
        await page.wait_for_selector("#toast.shown >> text=path")
        await editor.fill('{"path": "/tmp/other"}')
        await page.click(".request >> text=Approve")
        await page.wait_for_selector(".answer:has-text('/tmp/other is gone')")


async def test_a_run_is_told_something_paused_resumed_and_cancelled(browser: Any) -> None:
    gate = Gate()
    async with served(gate.agent()) as client, browsing(browser, client.url) as page:
        await begin(page, "wait")
        await gate.until(1)
        await page.wait_for_selector(".tell input")
        await page.keyboard.press("i")
        await page.keyboard.type("hurry up")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#toast.shown >> text=at its next step")
        await page.locator("#list").focus()
        await page.keyboard.press("p")
        await page.wait_for_selector(".note >> text=Paused")
        await page.click("text=Resume (p)")
        await page.wait_for_selector(".note >> text=Goes on")
        await page.click("text=Cancel (x)")
        await page.wait_for_selector(".note >> text=cancelled")
        await page.wait_for_selector("#list >> text=cancelled")
        assert await page.locator(".head button:visible").count() == 0


async def test_the_limits_of_a_run_are_changed(browser: Any) -> None:
    gate = Gate()
    async with served(gate.agent()) as client, browsing(browser, client.url) as page:
        await begin(page, "wait")
        await gate.until(1)
        await page.wait_for_selector("text=Limits (l)")
        await page.keyboard.press("l")
        await page.keyboard.type("7")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".note:has-text('max_steps=7')")
        gate.open()
        await page.wait_for_selector(".answer")
        await page.wait_for_selector("text=Limits (l)", state="hidden")


async def test_a_thousand_runs_are_a_list_that_keys_walk_through(browser: Any) -> None:
    async with served(echo(), max_runs=200) as client:
        for first in range(0, 1000, 100):
            await asyncio.gather(*(client.start(f"task {n}", wait=True) for n in range(first, first + 100)))
        async with browsing(browser, client.url) as page:
            await page.wait_for_selector("#count >> text=1,000 runs")
            assert await page.locator(".row").count() < 60
            await page.locator("#list").focus()
            await page.keyboard.press("End")
            oldest = await page.inner_text(".row[aria-selected=true] >> nth=0")
            await page.wait_for_selector(f"#detail .answer >> text=answer to {oldest.splitlines()[0]}")
            await page.keyboard.press("ArrowUp")
            assert await page.get_attribute(".row[aria-selected=true]", "aria-posinset") == "999"
            await page.keyboard.press("/")
            await page.keyboard.type("task 77")
            await page.wait_for_selector("#count >> text=/^19 of 1,000/")


async def test_a_run_elsewhere_appears_by_itself_and_the_address_leads_to_it(browser: Any) -> None:
    async with served(echo()) as client, browsing(browser, client.url) as page:
        await page.wait_for_selector("#pulse >> text=0 at work")
        run = await client.start("from elsewhere")
        await page.click(".row >> text=from elsewhere")
        await page.wait_for_selector(".answer >> text=answer to from elsewhere")
        assert page.url.endswith(f"#run={run['id']}")
        await page.reload()
        await page.wait_for_selector(".answer >> text=answer to from elsewhere")


async def test_the_fleet_shows_totals_and_what_runs_wait_for(browser: Any) -> None:
    gate = Gate()
    async with (
        served(gate.agent(name="waiter", max_concurrency=5)) as client,
        browsing(browser, client.url) as page,
    ):
        for number in range(3):
            await client.start(f"task {number}")
        await gate.until(3)
        await page.keyboard.press("f")
        await page.wait_for_selector(".card:has-text('What runs do') >> text=model")
        await page.wait_for_selector(".card:has-text('Limits') >> text=3 of 5")
        await page.click(".card:has-text('At work the longest') >> text=task 0")
        gate.open()
        await page.wait_for_selector("#detail .answer >> text=answer to task 0")


async def test_a_token_is_asked_for_and_a_wrong_one_is_refused(browser: Any) -> None:
    token = Token("s3cret-" * 6, tenant="acme")
    async with served(echo(), tokens=[token]) as client, browsing(browser, client.url) as page:
        await page.wait_for_selector("#door[open]")
        await page.fill("#token", "nonsense")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#door-problem >> text=does not know")
        await page.fill("#token", token.secret)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#pulse >> text=0 at work")
        assert "s3cret" not in page.url
        await begin(page, "hello")
        await page.wait_for_selector(".answer >> text=answer to hello")


async def test_dark_and_light_follow_the_system_until_the_user_chooses(browser: Any) -> None:
    async with served(echo()) as client, browsing(browser, client.url, color_scheme="dark") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = await page.evaluate(ground)
        await page.emulate_media(color_scheme="light")
        await page.wait_for_function(f"{ground} !== '{dark}'")
        await page.wait_for_selector("#pulse >> text=at work")
        await page.keyboard.press("t")
        assert await page.evaluate(ground) == dark
        await page.reload()
        await page.wait_for_function(f"{ground} === '{dark}'")


async def test_every_control_has_a_name_and_the_keyboard_reaches_it(browser: Any) -> None:
    async with served(echo()) as client, browsing(browser, client.url) as page:
        await page.wait_for_selector("#pulse >> text=0 at work")
        controls = "button, input, select, textarea"
        nameless = await page.evaluate(f"""() => [...document.querySelectorAll("{controls}")]
            .filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
            .map((one) => one.outerHTML)""")
        assert nameless == []
        reached = set()
        for _ in range(12):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id"))
        assert {"show-runs", "show-fleet", "theme", "help", "task", "search", "status", "list"} <= reached


async def test_it_says_when_the_server_is_gone(browser: Any) -> None:
    async with served(echo()) as client, browsing(browser, client.url) as page:
        await page.wait_for_selector("#pulse >> text=0 at work")
        await page.context.set_offline(True)
        client.app.state.service.store.drained.set()
        await page.wait_for_selector("#pulse >> text=cannot be reached")
        await page.context.set_offline(False)


async def test_a_reply_that_breaks_off_is_replaced_by_the_next(browser: Any) -> None:
    model = RetryingModel(
        PlayedModel(["<code>\nfinal_answer('wr!", ChatMessage("assistant", code("final_answer('right')"))]),
        RetryPolicy(attempts=2, first_delay=0),
    )
    agent = CodeAgent([], model, stream_outputs=True)
    async with served(agent) as client, browsing(browser, client.url) as page:
        await begin(page, "break")
        await page.wait_for_selector(".answer >> text=right")
        assert "wr" not in await page.inner_text(".step")
