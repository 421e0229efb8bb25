"""Connections: shared by models, kept between calls, one set per event loop, gone when their loop is."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import ssl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from manyhands._bridge import iterate_sync, run_sync
from manyhands.errors import ConnectionFailedError, ProviderError
from manyhands.messages import MessageRole, message
from manyhands.models.openai import OpenAIModel
from manyhands.testing.simulated import SimulatedProvider
from tests.models.servers import CHUNKED, END, answering, chunk, completion, events, http, said

if TYPE_CHECKING:
    from manyhands.models.endpoint import Endpoint

TASK = [message(MessageRole.USER, "Say hello.")]
OK = http(completion())
CHUNKED_STREAM = [CHUNKED, chunk(events(said("Hello"), END)), chunk(b"")]


async def test_calls_and_models_share_connections() -> None:
    async with answering(OK) as server:
        for _ in range(3):
            await OpenAIModel("a", api_base=server.base, api_key="1").agenerate(TASK)
            await OpenAIModel("b", api_base=server.base, api_key="2", timeout=9).agenerate(TASK)
        assert server.connections == 1
    assert [request.headers["authorization"] for request in server.requests[:2]] == ["Bearer 1", "Bearer 2"]


async def test_a_stream_read_to_its_end_keeps_its_connection() -> None:
    async with answering(CHUNKED_STREAM) as server:
        model = OpenAIModel("a", api_base=server.base)
        for _ in range(3):
            assert [delta.content async for delta in model.agenerate_stream(TASK)] == ["Hello"]
        assert server.connections == 1


async def test_a_stream_that_is_done_is_not_waited_for_long() -> None:
    async with answering([*CHUNKED_STREAM[:2], asyncio.Event()]) as server:
        async with asyncio.timeout(5):
            model = OpenAIModel("a", api_base=server.base)
            assert [delta.content async for delta in model.agenerate_stream(TASK)] == ["Hello"]
        await server.left.wait()


async def test_there_is_no_limit_on_connections() -> None:
    go = asyncio.Event()
    async with answering([go, OK]) as server:
        model = OpenAIModel("a", api_base=server.base)
        calls = [asyncio.create_task(model.agenerate(TASK)) for _ in range(300)]
        await server.received(300)
        go.set()
        replies = await asyncio.gather(*calls)
    assert [reply.content for reply in replies] == ["Hello"] * 300


async def test_the_last_user_closes_the_connections() -> None:
    async with answering(OK) as server:
        first, second = (OpenAIModel(name, api_base=server.base) for name in "ab")
        await first.agenerate(TASK)
        await second.agenerate(TASK)
        await first.aclose()
        assert not server.left.is_set()
        await second.agenerate(TASK)
        assert server.connections == 1
        await second.aclose()
        await server.left.wait()
        await second.agenerate(TASK)
        assert server.connections == 2
        await second.aclose()


async def test_a_model_is_a_context_manager() -> None:
    async with answering(OK) as server:
        async with OpenAIModel("a", api_base=server.base) as model:
            await model.agenerate(TASK)
        await server.left.wait()
        await model.aclose()


def test_a_model_works_on_one_loop_after_the_other() -> None:
    with SimulatedProvider() as provider:
        model = OpenAIModel("a", api_base=provider.base_url)

        async def twice() -> None:
            await model.agenerate(TASK)
            await model.agenerate(TASK)

        for _ in range(3):
            asyncio.run(twice())
        assert model.generate(TASK).content
        assert run_sync(model.agenerate(TASK)).content
        assert [delta for delta in model.generate_stream(TASK) if delta.content]
        assert provider.stats.requests == 9
        run_sync(model.aclose())


def test_a_model_works_on_many_loops_at_once() -> None:
    with SimulatedProvider(latency=0.01) as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        failures: list[BaseException] = []

        async def many() -> None:
            for _ in range(5):
                await asyncio.gather(*(model.agenerate(TASK) for _ in range(10)))

        def work() -> None:
            try:
                asyncio.run(many())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert provider.stats.requests == 200


async def test_sync_calls_work_while_a_loop_runs() -> None:
    async with SimulatedProvider() as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        assert (await asyncio.to_thread(model.generate, TASK)).content
        deltas = await asyncio.to_thread(lambda: list(iterate_sync(model.agenerate_stream(TASK))))
        assert deltas


def test_a_sync_stream_left_early_ends_the_call() -> None:
    with SimulatedProvider(tokens_per_second=20) as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        stream = model.generate_stream(TASK)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        model.close()


async def test_many_first_calls_connect_once_and_do_not_block_the_loop() -> None:
    class Watched(OpenAIModel):
        made = 0

        def endpoint(self) -> Endpoint:
            Watched.made += 1
            time.sleep(0.05)  # as reading certificates does
            return super().endpoint()

    async with SimulatedProvider() as provider:
        model = Watched("a", api_base=provider.base_url)
        impatient = asyncio.create_task(model.agenerate(TASK))
        calls = [asyncio.create_task(model.agenerate(TASK)) for _ in range(50)]
        await asyncio.sleep(0)
        impatient.cancel()
        assert len(await asyncio.gather(*calls)) == 50
    assert Watched.made == 1


async def test_a_model_can_be_copied_while_connected() -> None:
    async with answering(OK) as server:
        model = OpenAIModel("a", api_base=server.base, api_key="k")
        await model.agenerate(TASK)
        for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert (await twin.agenerate(TASK)).content == "Hello"


def test_uvloop_is_as_good_as_asyncio() -> None:
    uvloop = pytest.importorskip("uvloop")
    with SimulatedProvider() as provider:

        async def both() -> None:
            model = OpenAIModel("a", api_base=provider.base_url)
            assert (await model.agenerate(TASK)).content
            assert [delta async for delta in model.agenerate_stream(TASK)]

        uvloop.run(both())
        uvloop.run(both())


QUIET = """
import asyncio, gc, logging, sys
# How long things take on a busy computer is not asked here.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing"))
from manyhands.messages import MessageRole, message
from manyhands.models.openai import OpenAIModel
assert "aiohttp" not in sys.modules

async def main(base):
    model = OpenAIModel("a", api_base=base)
    task = [message(MessageRole.USER, "Say hello.")]
    await asyncio.gather(*(model.agenerate(task) for _ in range(20)))
    async for delta in model.agenerate_stream(task):
        pass
    left = model.agenerate_stream(task)
    await anext(left)
    await left.aclose()
    waiting = asyncio.create_task(model.agenerate(task))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])

for _ in range(2):
    asyncio.run(main(sys.argv[1]))
    gc.collect()
model = OpenAIModel("a", api_base=sys.argv[1])
model.generate([message(MessageRole.USER, "Say hello.")])
"""


def test_nothing_is_left_behind() -> None:
    with SimulatedProvider() as provider:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", QUIET, provider.base_url],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


async def test_no_reference_cycles_are_left_by_calls() -> None:
    async with SimulatedProvider() as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        await model.agenerate(TASK)
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await model.agenerate(TASK)
            left = gc.collect()
        finally:
            gc.enable()
    # The server's part of it runs here too, and aiohttp's own leaves a little.
    assert left < 50 * 100


# --- On the way --------------------------------------------------------------------------------


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


async def test_requests_go_through_the_proxy_of_the_environment(no_proxies: pytest.MonkeyPatch) -> None:
    async with answering(OK) as proxy:
        no_proxies.setenv("http_proxy", proxy.origin.replace("//", "//user:pw@"))
        got = await OpenAIModel("m", api_base="http://models.test/v1", api_key="k").agenerate(TASK)
    assert got.content == "Hello"
    (request,) = proxy.requests
    assert request.target == "http://models.test/v1/chat/completions"
    assert request.headers["proxy-authorization"].startswith("Basic ")


async def test_a_proxy_may_be_given(no_proxies: pytest.MonkeyPatch) -> None:
    async with answering(OK) as proxy:
        settings: dict[str, Any] = {"proxy": proxy.origin}
        await OpenAIModel("m", api_base="http://models.test/v1", client_kwargs=settings).agenerate(TASK)
    assert proxy.requests[0].target == "http://models.test/v1/chat/completions"


async def test_https_goes_through_a_tunnel(no_proxies: pytest.MonkeyPatch) -> None:
    async with answering(http(b"", "403 Forbidden")) as proxy:
        no_proxies.setenv("https_proxy", proxy.origin)
        with pytest.raises(ConnectionFailedError) as caught:
            await OpenAIModel("m", api_base="https://models.test/v1", api_key="sk-1").agenerate(TASK)
    assert (proxy.requests[0].method, proxy.requests[0].target) == ("CONNECT", "models.test:443")
    assert "sk-1" not in f"{proxy.requests[0].headers} {caught.value}"


def test_certificates_may_be_named_by_the_environment_or_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path))
    own = OpenAIModel("m", api_base="https://a.test", api_key="k").endpoint().ssl
    assert isinstance(own, ssl.SSLContext)
    assert OpenAIModel("m", api_base="http://a.test", api_key="k").endpoint().ssl is True
    given = OpenAIModel("m", api_base="https://a.test", client_kwargs={"ssl": False}).endpoint()
    assert given.ssl is False


# --- Against a provider with faults ------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("429", "429"),
        ("500", "500"),
        ("503", "503"),
        ("reset", "connection"),
        ("bad_json", "broken JSON"),
        ("truncate", "broke"),
    ],
)
async def test_each_fault_is_an_error_and_the_next_call_works(fault: str, words: str) -> None:
    async with SimulatedProvider(faults=[fault, None, fault, None], retry_after=2) as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        with pytest.raises(ProviderError, match=words) as caught:
            await model.agenerate(TASK)
        assert caught.value.retry_after == (2 if fault in ("429", "503") else None)
        assert (await model.agenerate(TASK)).content
        with pytest.raises(ProviderError):
            [delta async for delta in model.agenerate_stream(TASK)]
        assert [delta async for delta in model.agenerate_stream(TASK)]


async def test_a_stall_ends_at_the_time_limit() -> None:
    async with SimulatedProvider(faults=["stall", "stall"]) as provider:
        model = OpenAIModel("a", api_base=provider.base_url, timeout=0.1)
        with pytest.raises(ConnectionFailedError, match="within"):
            await model.agenerate(TASK)
        with pytest.raises(ConnectionFailedError):
            [delta async for delta in model.agenerate_stream(TASK)]


async def test_a_thousand_calls_at_once_lose_nothing() -> None:
    async with SimulatedProvider(latency=0.2, policy=lambda asked: asked.messages[-1]["content"]) as provider:
        model = OpenAIModel("a", api_base=provider.base_url)
        texts = [f"call {number}" for number in range(1000)]
        replies = await asyncio.gather(
            *(model.agenerate([message(MessageRole.USER, text)]) for text in texts)
        )
    assert [reply.content for reply in replies] == texts
