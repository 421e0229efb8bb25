"""The engine's side: where it is found, what it says when it is not, and that nothing of ours stays in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from manyhands.errors import CallerError
from manyhands.executors.isolated.docker_address import find_engine
from manyhands.executors.isolated.docker_engine import EngineError, engine_at
from manyhands.executors.isolated.docker_owner import LABEL, is_gone, owner, reap
from tests.executors.isolated.engine import IMAGE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.executors.isolated.engine import LocalEngine

ME = owner()
ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line.upper()); sys.stdout.flush()"


def options(script: str, **more: Any) -> dict[str, Any]:
    """What makes a container that runs ``script``."""
    return {
        "Image": IMAGE,
        "Entrypoint": ["python3", "-u", "-c", script],
        "OpenStdin": True,
        "StdinOnce": True,
        "Labels": {LABEL: ME},
        "HostConfig": {"NetworkMode": "none", "AutoRemove": True, "LogConfig": {"Type": "none"}},
        **more,
    }


def containers(engine: LocalEngine) -> list[str]:
    """Names of all containers in the engine."""
    return [
        entry["Names"][0].lstrip("/") for entry in json.loads(engine.ask("GET", "/containers/json?all=1"))
    ]


# --- Where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("/run/x.sock", "unix:///run/x.sock"),
        ("tcp://10.0.0.1:2375", "tcp://10.0.0.1:2375"),
        ("tcp://10.0.0.1", "tcp://10.0.0.1:2375"),
        ("https://10.0.0.1", "tcp://10.0.0.1:2376"),
        ("tcp://[::1]:99", "tcp://[::1]:99"),
    ],
)
def test_an_address_is_taken_from_the_argument_or_the_environment(host: str, shown: str) -> None:
    assert str(find_engine(host, {})) == shown
    assert find_engine(None, {"DOCKER_HOST": host}) == find_engine(host, {})


@pytest.mark.parametrize(
    "host", ["ssh://me@there", "npipe:////./pipe/docker", "docker", "tcp://", "tcp://x:y"]
)
def test_an_address_that_cannot_be_used_is_refused(host: str) -> None:
    with pytest.raises(CallerError, match="no address of a container engine"):
        find_engine(host, {})


def test_without_an_address_the_first_socket_that_is_there_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        found = find_engine(None, {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)})
    ordinary = "/var/run/docker.sock"
    assert found.path == (ordinary if os.path.exists(ordinary) else str(tmp_path / "docker.sock"))


async def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    engine = await engine_at(find_engine("tcp://127.0.0.1:1", environment))
    with pytest.raises(CallerError, match="DOCKER_CERT_PATH"):
        await engine.open()


# --- When it is not there ------------------------------------------------------------------------


@pytest.fixture
async def pretender(tmp_path: Path) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """A server on a socket that answers what the test says."""
    answer: dict[str, Any] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        if answer.get("drop"):
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=answer.get("status", 200), text="?", headers=answer.get("headers"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "s")).start()
    yield f"unix://{tmp_path}/s", answer
    await runner.cleanup()


async def test_no_engine_says_how_to_get_one(tmp_path: Path) -> None:
    engine = await engine_at(find_engine(f"unix://{tmp_path}/none.sock"))
    with pytest.raises(EngineError, match=r"Start it .* or install Docker or Podman; DOCKER_HOST") as caught:
        await engine.ask("GET", "/info")
    assert caught.value.ends_run


async def test_an_engine_that_is_too_old_says_so(pretender: tuple[str, dict[str, Any]]) -> None:
    host, answer = pretender
    answer["headers"] = {"API-Version": "1.24"}
    with pytest.raises(EngineError, match=r"1\.24 .* 1\.41 is needed"):
        await (await engine_at(find_engine(host))).open()


async def test_what_is_no_engine_is_called_so(pretender: tuple[str, dict[str, Any]]) -> None:
    host, answer = pretender
    engine = await engine_at(find_engine(host))
    with pytest.raises(EngineError, match="is no container engine"):
        await engine.open()
    answer["headers"] = {"API-Version": "1.41"}
    with pytest.raises(EngineError, match="is no container engine"):
        await engine.ask("GET", "/info")


async def test_a_connection_that_breaks_is_told(pretender: tuple[str, dict[str, Any]]) -> None:
    host, answer = pretender
    answer["drop"] = True
    with pytest.raises(EngineError, match=f"engine at {host} failed"):
        await (await engine_at(find_engine(host))).open()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_one_may_not_use_says_which_group(tmp_path: Path) -> None:
    script = f"""
        import aiohttp, asyncio, concurrent.futures.thread, encodings.idna, os, socket
        from manyhands.executors.isolated.docker_address import find_engine
        from manyhands.executors.isolated.docker_engine import EngineError, engine_at
        listener = socket.socket(socket.AF_UNIX)
        listener.bind({str(tmp_path / "s")!r})
        os.chmod({str(tmp_path / "s")!r}, 0o600)
        os.setuid(65534)
        async def main():
            try:
                await (await engine_at(find_engine({f"unix://{tmp_path}/s"!r}))).open()
            except EngineError as error:
                print(error)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "You may not use the container engine" in done.stdout
    assert "usermod -aG docker" in done.stdout


# --- Containers ----------------------------------------------------------------------------------


async def test_bytes_go_in_and_come_out(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    attachment = await there.run("mh-echo", options(ECHO))
    await attachment.write(b"hello\n")
    assert await attachment.read() == b"HELLO\n"
    long = b"x" * 1_000_000 + b"\n"
    sending = asyncio.create_task(attachment.write(long))
    received = b""
    while len(received) < len(long):
        received += await attachment.read()
    await sending
    assert received == long.upper()
    await there.remove("mh-echo")
    assert "mh-echo" not in containers(engine)


async def test_an_engine_on_another_computer_is_reached_over_tls(engine: LocalEngine, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    terms = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.pem"))
    terms.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    terms.verify_mode = ssl.CERT_REQUIRED
    async with forwarding(engine.host.removeprefix("unix://"), terms) as port:
        environment = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
        there = await engine_at(find_engine(f"tcp://127.0.0.1:{port}", environment))
        attachment = await there.run("mh-tls", options(ECHO))
        await attachment.write(b"hello\n")
        assert await attachment.read() == b"HELLO\n"
        await there.remove("mh-tls")
        await there.aclose()


def make_certificates(folder: Path) -> None:
    """A certificate for 127.0.0.1 that answers for itself, on both sides."""
    if shutil.which("openssl") is None:
        pytest.skip("not installed: openssl")
    wanted = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=engine -keyout key.pem -out cert.pem"
    alternative = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *wanted.split(), *alternative], cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "cert.pem", folder / "ca.pem")


@contextlib.asynccontextmanager
async def forwarding(path: str, terms: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that leads to a Unix socket."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_unix_connection(path)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=terms)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_reading_may_be_cancelled_at_any_time(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    script = "import sys\nfor i in range(20000): sys.stdout.write(f'{i:05d}')\nsys.stdout.flush()"
    attachment = await there.run("mh-cut", options(script))
    received = b""
    while len(received) < 100_000:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0005):
                received += await attachment.read(limit=777)
    assert received == b"".join(b"%05d" % number for number in range(20000))
    assert await attachment.read() == b""
    await there.remove("mh-cut")


async def test_the_end_of_the_errors_is_kept(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    script = "import sys\nfor i in range(5000): print(f'line {i}', '.' * 80, file=sys.stderr)"
    attachment = await there.run("mh-errors", options(script))
    assert await attachment.read() == b""
    assert attachment.errors.endswith(b"line 4999 " + b"." * 80 + b"\n")
    assert len(attachment.errors) <= 32 * 1024
    await there.remove("mh-errors")


async def test_cancelling_a_start_at_any_moment_leaves_no_container(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    for moment in range(12):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(moment * 0.01):
                await there.run(f"mh-cancel-{moment}", options(ECHO))
                await there.remove(f"mh-cancel-{moment}")
    for moment in range(12):
        await there.remove(f"mh-cancel-{moment}")
    await there.settle()
    assert [name for name in containers(engine) if name.startswith("mh-cancel")] == []


async def test_a_start_that_fails_leaves_no_container(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    with pytest.raises(EngineError):
        await there.run("mh-bad", options(ECHO, Entrypoint=["/nowhere"]))
    await there.settle()
    assert "mh-bad" not in containers(engine)


def test_containers_and_connections_end_with_the_loop(engine: LocalEngine) -> None:
    async def forgetful() -> None:
        there = await engine_at(find_engine(engine.host))
        await there.run("mh-forgotten", options("import time\ntime.sleep(1000)"))

    asyncio.run(forgetful())
    assert "mh-forgotten" not in containers(engine)
    asyncio.run(forgetful())
    assert "mh-forgotten" not in containers(engine)


# --- Owners --------------------------------------------------------------------------------------


def test_an_owner_that_lives_is_not_gone() -> None:
    assert not is_gone(owner())
    place, pid, began = owner().rsplit("/", 2)
    assert is_gone(f"{place}/{pid}/{int(began) - 1}"), "the number is another process's now"
    assert not is_gone(f"elsewhere/{pid}/1"), "processes of other computers cannot be seen"
    assert not is_gone("") and not is_gone("nonsense")


def test_an_owner_that_has_ended_is_gone() -> None:
    script = "from manyhands.executors.isolated.docker_owner import owner; print(owner())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert is_gone(done.stdout.strip())


async def test_only_containers_of_the_dead_are_reaped(engine: LocalEngine) -> None:
    there = await engine_at(find_engine(engine.host))
    place, pid, began = ME.rsplit("/", 2)
    labels = {
        "mh-mine": {LABEL: ME},
        "mh-dead": {LABEL: f"{place}/{pid}/{int(began) - 1}"},
        "mh-foreign": {LABEL: "elsewhere/1/1"},
        "mh-other": {"someone": "else"},
    }
    for name, label in labels.items():
        await there.run(name, options("import time\ntime.sleep(1000)", Labels=label))
    await reap(there)
    await there.settle()
    assert sorted(containers(engine)) == ["mh-foreign", "mh-mine", "mh-other"]
    for name in labels:
        await there.remove(name)
