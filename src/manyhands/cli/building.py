"""From the words of a command to a model, tools and an agent."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhands.errors import CallerError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from manyhands.agents import MultiStepAgent
    from manyhands.models.base import Model

SIMULATED = "simulated"


@contextmanager
def opened_model(args: argparse.Namespace) -> Iterator[Model]:
    """Make the model that the options ask for; a simulated one comes with its provider.

    Args:
        args: The options of the command.

    Raises:
        CallerError: No model is named, or it cannot be made so.
    """
    from manyhands.models.openai import OpenAIModel
    from manyhands.models.presets import model_of

    name = args.model or os.environ.get("MANYHANDS_MODEL")
    extra = {} if args.temperature is None else {"temperature": args.temperature}
    if not name:
        raise CallerError(
            "Which model? Give --model NAME, or --model simulated to try it without a key "
            "(or put a name into the environment variable MANYHANDS_MODEL)."
        )
    if name != SIMULATED or args.api_base:
        given = {"api_base": args.api_base, "api_key": args.api_key}
        yield model_of(name, **{key: value for key, value in given.items() if value is not None}, **extra)
        return
    from manyhands.testing.simulated import SimulatedProvider

    with _usage_errors(), SimulatedProvider(latency=args.latency) as provider:
        yield OpenAIModel(SIMULATED, api_base=provider.base_url, api_key=SIMULATED, **extra)


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Let a ValueError about a setting be the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise CallerError(str(error)) from error


def build_agent(args: argparse.Namespace, model: Model, **options: Any) -> MultiStepAgent:
    """Make the agent that the options ask for.

    Args:
        args: The options of the command.
        model: Its model.
        **options: Further parameters of the agent.
    """
    from manyhands.agents import CodeAgent, ToolCallingAgent

    imports = _words(args.imports)
    if args.agent == "code":
        options["additional_authorized_imports"] = imports
    elif imports:
        raise CallerError(
            "--imports is for agents that write code; an agent that calls tools imports nothing."
        )
    kind = CodeAgent if args.agent == "code" else ToolCallingAgent
    return kind(
        load_tools(args.tools),
        model,
        instructions=args.instructions,
        max_steps=args.max_steps,
        planning_interval=args.planning_interval,
        **options,
    )


def _words(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]


# --- Tools -------------------------------------------------------------------------------------


def load_tools(text: str) -> list[Any]:
    """Return the tools that ``--tools`` names.

    Args:
        text: Parts with commas between them. ``path/to/file.py`` means all tools in that file,
            ``package.module:name`` one tool, function or list of tools; anything else is the name of a
            registered tool.

    Raises:
        CallerError: A file or a module cannot be imported, or holds no tools.
    """
    found: list[Any] = []
    for word in _words(text):
        if word.endswith(".py"):
            found += _tools_in_file(Path(word))
        elif ":" in word:
            found += load_objects(word)
        else:
            found.append(word)
    return found


def _tools_in_file(path: Path) -> list[Any]:
    from manyhands.tools.base import Tool

    if not path.is_file():
        raise CallerError(f"There is no file {path} to take tools from.")
    module = _imported(path)
    tools = {id(value): value for value in vars(module).values() if isinstance(value, Tool)}
    if not tools:
        raise CallerError(f"{path} holds no tools: put @tool before the functions that are meant.")
    return list(tools.values())


def _imported(path: Path) -> Any:
    """Import a file under its own name, as Python does when it runs one: its neighbours can be imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise CallerError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules.setdefault(path.stem, module)
    with _import_errors(str(path)):
        spec.loader.exec_module(module)
    return module


def load_objects(word: str) -> list[Any]:
    """Return what ``package.module:name`` or ``path/to/file.py:name`` names; the items, if it is a list.

    Args:
        word: The name.

    Raises:
        CallerError: There is no such thing, or its module cannot be imported.
    """
    module_name, colon, name = word.rpartition(":")
    if not colon:
        raise CallerError(f"{word!r} names nothing: write package.module:name, or path/to/file.py:name.")
    if module_name.endswith(".py"):
        if not Path(module_name).is_file():
            raise CallerError(f"There is no file {module_name}.")
        module = _imported(Path(module_name))
    else:
        module = _module(module_name)
    if not hasattr(module, name):
        raise CallerError(f"There is no {name!r} in the module {module_name}.")
    value = getattr(module, name)
    return list(value) if isinstance(value, list | tuple) else [value]


def _module(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with _import_errors(name):
        return importlib.import_module(name)


@contextmanager
def _import_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise CallerError(f"{what} cannot be imported: {type(error).__name__}: {error}") from error
