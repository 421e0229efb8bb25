"""A real container engine for tests, started by them, and ended with all that belongs to it.

It runs in namespaces of its own (mounts, processes), so that ending one process takes everything along:
shims, containers, mounts. Its image is made of the Python that runs the tests: no registry is asked.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: An image with Python, one without, and one with pip too, which knows the package ``greeting`` only.
IMAGE, NO_PYTHON, WITH_PIP = "manyhands-test/python:1", "manyhands-test/bare:1", "manyhands-test/pip:1"
_VERSION = f"python3.{sys.version_info[1]}"
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "pydoc_data"}
_LEFT_OUT |= {"ensurepip", "distutils"}
_PROGRAMS = ("sh", "cat", "env", "ls", "sleep", "yes")
_NEEDED_COMMANDS = ("dockerd", "unshare", "setpriv", "ldd")


@dataclass
class LocalEngine:
    """A running engine.

    Attributes:
        folder: Everything of it lies in here.
        server: Its process.
        driver: How it stores images.
    """

    folder: Path
    server: subprocess.Popen[bytes]
    driver: str
    _cgroup: str = field(default="")

    @property
    def host(self) -> str:
        """Its address, as ``DOCKER_HOST`` takes it."""
        return f"unix://{self.folder}/d.sock"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        """Send a request without any of the code under test."""
        connection = _SocketConnection(f"{self.folder}/d.sock")
        try:
            connection.request(method, f"/v1.41{path}", body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, content
        return content

    def add_image(self, name: str, content: bytes, *changes: str) -> None:
        """Make an image of a tar file."""
        more = "".join(f"&changes={change}" for change in changes).replace(" ", "%20")
        self.ask("POST", f"/images/create?fromSrc=-&repo={name}{more}", content)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


# --- Starting and ending it ----------------------------------------------------------------------


def why_not() -> str | None:
    """Return why no engine can be started here, ``None`` if one can."""
    if not sys.platform.startswith("linux"):
        return "a container engine can be started on Linux only"
    if os.geteuid() != 0:
        return "a container engine can be started by root only"
    missing = [name for name in _NEEDED_COMMANDS if _command(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def _command(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


@contextlib.contextmanager
def started_engine() -> Iterator[LocalEngine]:
    """Start an engine with the images of the tests.

    Raises:
        RuntimeError: None can be had; the message says why.
    """
    reason = why_not()
    if reason:
        raise RuntimeError(reason)
    folder = Path(tempfile.mkdtemp(prefix="mh-engine-"))
    try:
        engine = _start(folder, "overlay2") or _start(folder, "vfs")
        if engine is None:
            raise RuntimeError("the container engine does not start: " + _last_line(folder / "log"))
        try:
            _add_images(engine)
            yield engine
        finally:
            _end(engine)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, driver: str) -> LocalEngine | None:
    """Start an engine that stores images with ``driver``; ``None`` where it cannot."""
    cgroup = f"/{folder.name}"
    engine = [str(_command("dockerd")), f"--storage-driver={driver}", "--iptables=false", "--bridge=none"]
    engine += [f"--host=unix://{folder}/d.sock", f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    engine += [f"--pidfile={folder}/pid", f"--cgroup-parent={cgroup}", "--shutdown-timeout=1"]
    # It dies with these tests, however they end, and its namespaces with it.
    alone = [str(_command("setpriv")), "--pdeathsig", "KILL", str(_command("unshare"))]
    alone += ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    init = _command("docker-init")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*alone, *([init, "--"] if init else []), *engine],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"},
        )
    started = LocalEngine(folder, server, driver, cgroup)
    if _answers(started):
        return started
    _end(started)
    return None


def _answers(engine: LocalEngine) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and engine.server.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            engine.ask("GET", "/version")
            return True
        time.sleep(0.05)
    return False


def _end(engine: LocalEngine) -> None:
    engine.server.send_signal(signal.SIGKILL)
    engine.server.wait()
    deadline = time.monotonic() + 10
    while _remove_groups(engine._cgroup) and time.monotonic() < deadline:
        time.sleep(0.02)  # what is in them is about to end


def _remove_groups(name: str) -> bool:
    """Remove control groups of that name; return whether there are some left."""
    left = False
    for top in Path("/sys/fs/cgroup").glob(f"**{name}"):
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                left = True
    return left


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it says nothing"


@contextlib.contextmanager
def engine_or_skip() -> Iterator[LocalEngine]:
    """Start an engine; where none can be had the test is skipped, but not where changes are judged."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(started_engine())
        except RuntimeError as error:
            reason = f"no container engine: {error}"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield running


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    """The container engine of all tests."""
    with engine_or_skip() as running:
        yield running


# --- What is in its images -----------------------------------------------------------------------


def _add_images(engine: LocalEngine) -> None:
    engine.add_image(IMAGE, _python_files())
    engine.add_image(NO_PYTHON, tar_of({"etc/motd": b"nothing else\n"}))


def tar_of(files: dict[str, bytes]) -> bytes:
    """Return a tar file of what is to be at which path."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def add_image_with_pip(engine: LocalEngine) -> None:
    """Make the image :data:`WITH_PIP`, whose pip needs no network."""
    import pip

    made = io.BytesIO(_python_files())
    packages = Path(sys.base_prefix) / "lib" / _VERSION / "site-packages"
    with tarfile.open(fileobj=made, mode="a") as tar:
        tar.add(Path(pip.__file__).parent, _inside(packages / "pip"), filter=_kept)
        with tarfile.open(fileobj=io.BytesIO(tar_of(_index()))) as more:
            for entry in more:
                tar.addfile(entry, more.extractfile(entry))
    engine.add_image(WITH_PIP, made.getvalue())


def _index() -> dict[str, bytes]:
    about = "greeting-1.0.dist-info"
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("greeting.py", "def greet(name): return f'Hello, {name}!'\n")
        content.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        content.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        content.writestr(f"{about}/RECORD", "")
    settings = b"[global]\nno-index = true\nfind-links = /wheels\n"
    return {"wheels/greeting-1.0-py3-none-any.whl": wheel.getvalue(), "etc/pip.conf": settings}


@functools.cache
def _python_files() -> bytes:
    """A root filesystem: this Python, its standard library, a shell, a few programs, and their libraries."""
    prefix = Path(sys.base_prefix)
    program = (prefix / "bin" / _VERSION).resolve()
    library = prefix / "lib" / _VERSION
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.add(program, _inside(program))
        tar.add(library, _inside(library), filter=_kept)
        modules = [path for path in (library / "lib-dynload").glob("*.so") if _is_kept(path.name)]
        others = [Path(found) for name in _PROGRAMS if (found := _command(name))]
        for other in others:
            tar.add(other.resolve(), f"bin/{other.name}")
        for needed in sorted({found for path in (program, *modules, *others) for found in _libraries(path)}):
            tar.add(os.path.realpath(needed), needed.lstrip("/"))
        for name in ("python3", "python"):
            link = tarfile.TarInfo(f"usr/local/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, str(program)
            tar.addfile(link)
    return made.getvalue()


def _inside(path: Path) -> str:
    return str(path).lstrip("/")


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return entry if _is_kept(os.path.basename(entry.name)) else None


def _is_kept(name: str) -> bool:
    if name in _LEFT_OUT or name.startswith("config-3") or ".opt-" in name:
        return False
    return not (
        name.endswith((".so", ".a")) and name.startswith(("_test", "_tkinter", "_xx", "xx", "_ctypes_test"))
    )


def _libraries(path: Path) -> list[str]:
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return re.findall(r"(/\S+) \(0x", done.stdout)
