"""Names that are imported when they are first used.

A package lists what it exports once, as ordinary imports under ``if TYPE_CHECKING:``. Type checkers
read them there; at run time the same lines are read here and served on demand.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: Its name.
        file: Its ``__file__``, where the imports stand.
    """
    sources = _listed(ast.parse(Path(file).read_text(encoding="utf-8")))
    names = sorted(sources)

    def get(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = sources[name]
        value = getattr(importlib.import_module(module), original)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: [*names, "__version__"], names


def _listed(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return where each name comes from: module, and name there."""
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: (node.module or "", alias.name)
        for block in guarded
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
