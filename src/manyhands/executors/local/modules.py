"""Modules as the code sees them: views with the public members, without the modules behind, unchangeable."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from manyhands._bridge import call_in_thread
from manyhands.errors import InterpreterError
from manyhands.executors.local import classes, datalibs, guards, owned
from manyhands.executors.local.curated import CURATED, HIDDEN, SUBSTITUTES, TOOLBOX
from manyhands.executors.local.policy import ImportPolicy
from manyhands.executors.local.switch import wait_tool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Modules that may always be imported.
BASE_BUILTIN_MODULES = [
    "collections",
    "datetime",
    "itertools",
    "math",
    "queue",
    "random",
    "re",
    "stat",
    "statistics",
    "time",
    "unicodedata",
]

_ATOMS = (str, int, float, complex, bool, bytes, type(None), type, tuple, frozenset)
_COPIED = (dict, list, set, bytearray)


class ModuleView(owned.View):
    """A module whose members are looked up, checked and kept when they are first asked for."""

    def __init__(self, real: types.ModuleType, modules: Modules) -> None:
        super().__init__(real.__name__, real.__doc__)
        fill = object.__getattribute__(self, "__dict__")
        # Beside the view and not in it: whatever reads the dictionary of a view finds members for the code
        # only.
        _behind[self] = (real, modules)
        version = getattr(real, "__version__", None)
        if isinstance(version, str):
            fill["__version__"] = version

    def __getattr__(self, name: str) -> Any:
        real, modules = _behind[self]
        value, keep = modules.find(real, name)
        if keep:
            object.__getattribute__(self, "__dict__")[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise owned.Denied(f"Forbidden to set attribute '{name}' of module '{self.__name__}': it is shared.")

    def __delattr__(self, name: str) -> None:
        raise owned.Denied(
            f"Forbidden to delete attribute '{name}' of module '{self.__name__}': it is shared."
        )

    def __dir__(self) -> list[str]:
        real, modules = _behind[self]
        return modules.names(real)

    def __repr__(self) -> str:
        return f"<module '{self.__name__}'>"


_behind: weakref.WeakKeyDictionary[ModuleView, tuple[types.ModuleType, Modules]] = weakref.WeakKeyDictionary()


class Modules:
    """The views of one configuration.

    Args:
        authorized: What may be imported.
    """

    def __init__(self, authorized: Iterable[str]) -> None:
        self.authorized = sorted(set(authorized))
        self.policy = ImportPolicy(frozenset(self.authorized))
        self._views: dict[str, ModuleView] = {}
        self._lock = threading.Lock()

    def check_installed(self, names: Iterable[str]) -> None:
        """Raise for authorised modules that cannot be found."""
        missing = [name for name in names if name != "*" and not _is_installed(name.removesuffix(".*"))]
        if missing:
            listed = ", ".join(missing)
            raise InterpreterError(
                f"Non-installed authorized modules: {listed}. Install them, or leave them out of "
                "additional_authorized_imports."
            )

    # --- import --------------------------------------------------------------------------------

    def load(self, name: str, *, whole: bool) -> Any:
        """``import name``: the view of the whole name, or of its first part."""
        view = self._load(name)
        if whole or "." not in name:
            return view
        first = name.split(".", 1)[0]
        return self._view(sys.modules[first])

    def _load(self, name: str) -> ModuleView:
        if not self._may_import(name):
            raise InterpreterError(
                f"Import of {name} is not allowed. Authorized imports are: {self.authorized}"
            )
        real = sys.modules.get(name)
        if real is None:
            if name.split(".")[0] in sys.modules or name in TOOLBOX:
                real = importlib.import_module(name)
            else:
                # The first import of a package may take a second; the loop does not wait for it.
                real = wait_tool(call_in_thread(lambda: importlib.import_module(name), label="import"))
        return self._view(real, name)

    def _may_import(self, name: str) -> bool:
        return (
            name in TOOLBOX
            or self.policy.allows(name)
            or any(entry.startswith(name + ".") for entry in self.authorized)
        )

    def member(self, module: str, name: str) -> Any:
        """``from module import name``."""
        if not self._may_import(module):
            raise InterpreterError(
                f"Import of {module} is not allowed. Authorized imports are: {self.authorized}"
            )
        view = self._load(module)
        try:
            return getattr(view, name)
        except AttributeError:
            full = f"{module}.{name}"
            if self._may_import(full) and _is_installed(full):
                return self._load(full)
            raise ImportError(f"cannot import name '{name}' from '{module}'") from None

    def public(self, module: str) -> Mapping[str, Any]:
        """The members for ``from module import *``."""
        view = self._load(module)
        names = self.names(_behind[view][0])
        return {name: getattr(view, name) for name in names if hasattr(view, name)}

    def _view(self, real: types.ModuleType, name: str | None = None) -> ModuleView:
        key = name or real.__name__
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = ModuleView(real, self)
        return view

    def gives_whole(self, name: str) -> bool:
        """True for a module that is authorised by its name, and given as it is."""
        return name not in TOOLBOX and name not in CURATED and name not in BASE_BUILTIN_MODULES and (
            self.policy.allows(name)
        )  # fmt: skip

    def shown(self, value: Any) -> Any:
        """A value of the host for the code: modules become views."""
        if not isinstance(value, types.ModuleType) or isinstance(value, ModuleView):
            return value
        if self._may_import(value.__name__):
            return self._view(value)
        raise owned.Denied(f"Forbidden access to module: {value.__name__}")

    # --- members -------------------------------------------------------------------------------

    def names(self, real: types.ModuleType) -> list[str]:
        """The public names of a module."""
        curated = CURATED.get(real.__name__)
        if curated is not None:
            return sorted(curated(real))
        names = getattr(real, "__all__", None) or dir(real)
        return sorted(name for name in names if not name.startswith("_"))

    def find(self, real: types.ModuleType, name: str) -> tuple[Any, bool]:
        """A member for the code, and whether it is always the same."""
        missing = AttributeError(f"module '{real.__name__}' has no attribute '{name}'")
        if name.startswith("_") or name in HIDDEN.get(real.__name__, ()):
            raise missing if not hasattr(real, name) else owned.deny(name)
        curated = CURATED.get(real.__name__)
        if curated is not None:
            members = curated(real)
            if name in members:
                return self._shown(real, name, members[name])
            value = getattr(real, name, None)
            if isinstance(value, types.ModuleType):
                return self._shown(real, name, value)
            raise missing
        try:
            value = getattr(real, name)
        except AttributeError:
            raise missing from None
        return self._shown(real, name, value)

    def _shown(self, real: types.ModuleType, name: str, value: Any) -> tuple[Any, bool]:
        if isinstance(value, types.ModuleType):
            return self._submodule(real, name, value), True
        if real.__name__.partition(".")[0] in ("numpy", "pandas"):
            value = datalibs.member(real.__name__, name, value)
        if isinstance(value, type):
            value = classes.shown_class(value)
        try:
            value = SUBSTITUTES.get(value, value)
        except TypeError:  # not hashable
            if type(value) in _COPIED:
                return value.copy(), False
        if isinstance(value, ModuleView):
            return value, True
        if not isinstance(value, _ATOMS) and not callable(value):
            guards.share(value)
        return value, True

    def _submodule(self, real: types.ModuleType, name: str, value: types.ModuleType) -> ModuleView:
        """A module inside a module: its own part, or one that may be imported."""
        full = f"{real.__name__}.{name}"
        is_part = value.__name__ == full or sys.modules.get(full) is value
        if self._may_import(value.__name__) or (is_part and self.policy.allows_part_of(real.__name__)):
            return self._view(value)
        raise owned.Denied(f"Forbidden access to module: {value.__name__}")


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
