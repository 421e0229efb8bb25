"""Images for containers: one that is named, or one that is built, once for all who ask."""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import tarfile
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from manyhands.errors import CallerError
from manyhands.executors.isolated.docker_engine import EngineError

if TYPE_CHECKING:
    from manyhands.executors.isolated.docker_engine import Engine

_PACKAGE = re.compile(r"[A-Za-z0-9][^\s'\"\\]*( ?@ ?\S+)?")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_INSTALL = ("-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check")
_COMPILE = (
    "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), quiet=2, workers=0)"
)


def default_image() -> str:
    """Return the image with the Python that runs here, as Docker's library has it."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


@dataclass(frozen=True)
class Image:
    """What image containers are made of.

    Attributes:
        name: The image itself, or what an image with ``packages`` is built from.
        packages: What pip installs into it, as pip understands them.
        dockerfile: The text of a Dockerfile to build instead.
        compiled: Whether to keep its standard library compiled. The official images do not, and compiling
            what a guest imports takes longer than starting a container.
        python: The interpreter in it.
    """

    name: str
    packages: tuple[str, ...] = ()
    dockerfile: str = ""
    compiled: bool = False
    python: str = "python3"

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip():
            raise CallerError(
                f"image must be the name of an image, such as {default_image()!r}, not {self.name!r}."
            )
        for package in self.packages:
            if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
                raise CallerError(f"packages takes what pip installs, such as 'numpy>=2', not {package!r}.")

    @property
    def recipe(self) -> str:
        """The Dockerfile, empty where nothing has to be built."""
        if self.dockerfile or not (self.packages or self.compiled):
            return self.dockerfile
        lines = [f"FROM {self.name}", "USER 0"]
        if self.packages:
            lines.append(_run(self.python, *_INSTALL, *self.packages))
        if self.compiled:
            lines.append(_run(self.python, "-c", _COMPILE))
        return "\n".join(lines) + "\n"

    @property
    def tag(self) -> str:
        """Its name in the engine; one that is built is named after what it is built from."""
        if not self.recipe:
            return self.name
        return "manyhands/built:" + hashlib.sha256(self.recipe.encode()).hexdigest()[:24]

    async def ready(self, engine: Engine) -> Found:
        """Return the image as the engine has it then: pulled or built where it has to be.

        Raises:
            EngineError: It cannot be had.
        """
        found: Found = await engine.once(f"image {self.tag}", lambda: self._fetch(engine))
        return found

    def forget(self, engine: Engine) -> None:
        """Look for the image anew next time: somebody has removed it."""
        engine.forget(f"image {self.tag}")

    async def _fetch(self, engine: Engine) -> Found:
        found = await _look(engine, self.tag)
        if found is None:
            if not self.dockerfile and await _look(engine, self.name) is None:
                await _pull(engine, self.name)
            if self.recipe:
                await _build(engine, self.tag, self.recipe)
            found = await _look(engine, self.tag)
        if found is None:
            raise EngineError(f"The image {self.tag!r} is gone as soon as it was there.")
        return found


@dataclass(frozen=True)
class Found:
    """An image in the engine.

    Attributes:
        name: What the engine knows it by.
        volumes: Folders that it wants on the host's disk.
    """

    name: str
    volumes: tuple[str, ...]


def _run(*command: str) -> str:
    return f"RUN {json.dumps(command)}"


async def _look(engine: Engine, name: str) -> Found | None:
    about = await engine.ask("GET", f"/images/{quote(name, safe='/:@')}/json", accept=(404,))
    return None if about is None else Found(name, tuple((about.get("Config") or {}).get("Volumes") or ()))


async def _pull(engine: Engine, name: str) -> None:
    # Without a tag the engine would pull all that there are.
    last = name.rsplit("/", 1)[-1]
    wanted = name if ":" in last or "@" in last else f"{name}:latest"
    try:
        async for _ in engine.follow("POST", "/images/create", fromImage=wanted):
            pass
    except EngineError as error:
        raise EngineError(
            f"The image {name!r} is not in the container engine and could not be pulled: "
            f"{_sentence(error)} Check its name and the network, pull it yourself (docker pull "
            f"{name}), or name another one with image=.",
            status=error.status,
        ) from error


async def _build(engine: Engine, tag: str, recipe: str) -> None:
    said: deque[str] = deque(maxlen=30)
    labels = json.dumps({"manyhands.built": "1"})
    try:
        async for line in engine.follow(
            "POST", "/build", _context(recipe), t=tag, rm="1", forcerm="1", labels=labels
        ):
            said.append(str(line.get("stream", "")))
    except EngineError as error:
        shown = _COLOURS.sub("", "".join(said)).strip()
        raise EngineError(
            f"The image could not be built: {_sentence(error)}\n{shown}".strip(), status=error.status
        ) from error


def _sentence(error: EngineError) -> str:
    return f"{error.message.rstrip('.')}."


def _context(recipe: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe.encode())
        tar.addfile(entry, io.BytesIO(recipe.encode()))
    return made.getvalue()
