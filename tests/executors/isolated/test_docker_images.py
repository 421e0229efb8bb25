"""Images: found, pulled, built once, and what is said when they cannot be had."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from manyhands.errors import CallerError
from manyhands.executors.isolated.docker_address import find_engine
from manyhands.executors.isolated.docker_engine import EngineError, engine_at
from manyhands.executors.isolated.docker_images import Image
from tests.executors.isolated.engine import IMAGE, WITH_PIP, add_image_with_pip, tar_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.executors.isolated.engine import LocalEngine


@pytest.fixture
async def registry() -> AsyncIterator[str]:
    """A registry with one image, ``kept``, tagged ``latest``."""
    layer = gzip.compress(tar_of({"etc/motd": b"pulled"}), mtime=0)
    history = {
        "type": "layers",
        "diff_ids": [f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"],
    }
    about = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Volumes": {"/data": {}}},
        "rootfs": history,
    }
    blobs = {
        f"sha256:{hashlib.sha256(blob).hexdigest()}": blob for blob in (json.dumps(about).encode(), layer)
    }
    kinds = ("container.image.v1+json", "image.rootfs.diff.tar.gzip")
    config, content = (
        {"mediaType": f"application/vnd.docker.{kind}", "size": len(blob), "digest": digest}
        for kind, (digest, blob) in zip(kinds, blobs.items(), strict=True)
    )
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [content]}

    async def handle(request: web.Request) -> web.Response:
        path = request.path
        if path == "/v2/kept/manifests/latest" or path.startswith("/v2/kept/manifests/sha256:"):
            return web.Response(body=json.dumps(manifest).encode(), content_type=kind)
        if path.startswith("/v2/kept/blobs/"):
            return web.Response(body=blobs[path.removeprefix("/v2/kept/blobs/")])
        if path == "/v2/":
            return web.json_response({})
        unknown = {"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}
        return web.json_response({"errors": [unknown]}, status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def recipe(statement: str) -> str:
    """A Dockerfile that runs Python."""
    return f"FROM {IMAGE}\nRUN {json.dumps(['python3', '-c', statement])}\n"


async def test_an_image_that_is_there_is_taken(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    assert (await Image(IMAGE).ready(there)).name == IMAGE


async def test_an_image_that_is_not_there_is_pulled(engine: LocalEngine, registry: str) -> None:
    there = await engine_at(find_engine(engine.host))
    found = await asyncio.gather(*(Image(f"{registry}/kept").ready(there) for _ in range(10)))
    assert {one.name for one in found} == {f"{registry}/kept"}
    assert {one.volumes for one in found} == {("/data",)}


async def test_an_image_that_cannot_be_pulled_says_what_to_do(engine: LocalEngine, registry: str) -> None:
    there = await engine_at(find_engine(engine.host))
    name = f"{registry}/no-such:7"
    with pytest.raises(EngineError, match=rf"'{name}' is not in .*manifest unknown.*\(docker pull {name}\)"):
        await Image(name).ready(there)
    with pytest.raises(EngineError, match="invalid reference format"):
        await Image("NO Such?image").ready(there)


@pytest.mark.parametrize("name", ["", " python"])
def test_what_is_no_name_of_an_image_is_refused(name: str) -> None:
    with pytest.raises(CallerError, match="image must be the name of an image"):
        Image(name)


@pytest.mark.parametrize("package", ["", "--index-url=http://x", "a b", "a\nUSER 0", 'a"'])
def test_what_is_no_package_is_refused(package: str) -> None:
    with pytest.raises(CallerError, match="packages takes what pip installs"):
        Image("python:3", (package,))


async def test_packages_are_installed_and_usable(engine: LocalEngine) -> None:
    add_image_with_pip(engine)
    there = await engine_at(find_engine(engine.host))
    found = await Image(WITH_PIP, ("greeting>=1", "greeting[extra]<2")).ready(there)
    script = "import greeting\nprint(greeting.greet('you'))"
    attachment = await there.run(
        "mh-greeting",
        {
            "Image": found.name,
            "Cmd": ["python3", "-c", script],
            "User": "65534",
            "HostConfig": {"NetworkMode": "none"},
        },
    )
    assert await attachment.read() == b"Hello, you!\n"
    await there.remove("mh-greeting")
    with pytest.raises(EngineError, match=r"(?s)could not be built: .*No matching distribution .*no-such"):
        await Image(WITH_PIP, ("no-such",)).ready(there)


async def test_the_standard_library_is_kept_compiled_where_that_is_asked_for(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    plain = Image(IMAGE, dockerfile=recipe("import json, os; os.remove(json.__cached__)"))
    found = await Image((await plain.ready(there)).name, compiled=True).ready(there)
    script = "import json, os\nprint(os.path.exists(json.__cached__))"
    await there.remove("mh-compiled")
    attachment = await there.run("mh-compiled", {"Image": found.name, "Cmd": ["python3", "-c", script]})
    assert await attachment.read() == b"True\n"
    await there.remove("mh-compiled")


async def test_a_hundred_who_ask_at_once_get_one_build(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    image = Image(IMAGE, dockerfile=recipe("import uuid; open('/made', 'w').write(str(uuid.uuid4()))"))
    built = 0

    async def count() -> None:
        nonlocal built
        async for event in there.follow(
            "GET", "/events", since="1", filters='{"type":["image"],"event":["tag"]}'
        ):
            built += event["Actor"]["Attributes"].get("name") == image.tag

    counting = asyncio.create_task(count())
    found = await asyncio.gather(*(image.ready(there) for _ in range(100)))
    assert {one.name for one in found} == {image.tag}
    again = Image(IMAGE, dockerfile=recipe("1"))
    await again.ready(there)  # its event comes after all of the first image's
    counting.cancel()
    await asyncio.wait([counting])
    assert built == 1


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.1])
async def test_one_who_stops_waiting_does_not_stop_the_others(engine: LocalEngine, seconds: float) -> None:
    there = await engine_at(find_engine(engine.host))
    image = Image(IMAGE, dockerfile=recipe(f"'the others', {seconds}"))

    async def impatient() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await image.ready(there)

    _, *found = await asyncio.gather(impatient(), *(image.ready(there) for _ in range(3)))
    assert [one.name for one in found if one] == [image.tag] * 3


async def test_a_build_that_fails_shows_the_end_of_what_it_said(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    image = Image(IMAGE, dockerfile=recipe("print('almost'); 1 / 0"))
    with pytest.raises(EngineError, match=r"(?s)could not be built: .*ZeroDivisionError: division by zero"):
        await image.ready(there)
    with pytest.raises(EngineError, match="unknown instruction: HELLO"):
        await Image(IMAGE, dockerfile="HELLO\n").ready(there)


async def test_folders_that_an_image_wants_on_the_disk_are_known(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    image = Image(IMAGE, dockerfile=f"FROM {IMAGE}\nVOLUME /data\n")
    assert (await image.ready(there)).volumes == ("/data",)
