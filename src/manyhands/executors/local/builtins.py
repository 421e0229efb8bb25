"""The builtins of the agent's code.

Those that are harmless as they are, and bounded or guarded twins of the others.
"""

from __future__ import annotations

import builtins
import importlib
from typing import TYPE_CHECKING, Any

from manyhands.executors.local import aio, classes, guards, iterators, owned, policy
from manyhands.executors.local.formatting import check_spec
from manyhands.executors.local.policy import words
from manyhands.executors.local.rewrite import DUE
from manyhands.executors.local.switch import Stop, alive, current_step, tick

if TYPE_CHECKING:
    from collections.abc import Mapping

_AS_THEY_ARE = words(
    """
    abs aiter all anext any ascii bin bool bytearray bytes callable chr classmethod complex dict
    divmod float frozenset hash hex id int isinstance issubclass len list max min next object oct
    ord property range repr reversed round set slice sorted staticmethod str sum super tuple
    True False None NotImplemented Ellipsis
    """
)

_EXCEPTIONS = [
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not name.startswith("_")
]


def _print(
    *args: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
) -> None:
    for name, value in (("sep", sep), ("end", end)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be None or a string, not {type(value).__name__}")
    step = current_step()
    text = (" " if sep is None else sep).join([_text(arg) for arg in args]) + ("\n" if end is None else end)
    (step.output if file is None else file).write(text)


def _text(value: Any) -> str:
    return value if type(value) is str else str(value)


def _getattr(obj: Any, name: str, *default: Any) -> Any:
    if len(default) > 1:
        raise TypeError(f"getattr expected at most 3 arguments, got {2 + len(default)}")
    try:
        return guards.get(obj, owned.plain_name(name))
    except owned.Denied:
        raise
    except AttributeError:
        if default:
            return default[0]
        raise


def _hasattr(obj: Any, name: str) -> bool:
    try:
        guards.get(obj, owned.plain_name(name))
    except AttributeError:
        return False
    return True


def _setattr(obj: Any, name: str, value: Any) -> None:
    guards.write(obj, owned.plain_name(name), value)


def _delattr(obj: Any, name: str) -> None:
    guards.remove(obj, owned.plain_name(name))


def _vars(obj: Any) -> Any:
    try:
        return guards.read(obj, "__dict__")
    except owned.Denied:
        raise TypeError("vars() argument must have __dict__ attribute") from None


def _dir(obj: Any) -> list[str]:
    return [name for name in dir(obj) if "$" not in name]


def _format(value: Any, spec: str = "") -> str:
    return format(value, check_spec(spec))


def _names(found: Mapping[str, Any], kind: str) -> Any:
    """``locals()``, ``vars()`` and ``dir()`` without arguments."""
    shown = _visible(found)
    return sorted(shown) if kind == "dir" else shown


def _globals() -> dict[str, Any]:
    return _visible(current_step().namespace)


def _visible(names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in names.items() if "$" not in name and name != "__builtins__"}


def _matchable(find: Any) -> Any:
    """The class in a pattern with positional parts, once it is sure what those will read."""
    try:
        cls = find()
    except (NameError, AttributeError):
        return None  # the pattern raises when, and only when, it is reached
    if not isinstance(cls, type):
        return cls
    for base in type.__dict__["__mro__"].__get__(type(cls)):
        if owned.is_own_class(base) and {"__getattribute__", "__getattr__", "__match_args__"} & set(
            vars(base)
        ):
            raise owned.Denied(
                "A class whose metaclass answers for its attributes cannot be used in a pattern."
            )
    names: Any = ()
    for base in type.__dict__["__mro__"].__get__(cls):
        if "__match_args__" in vars(base):
            names = vars(base)["__match_args__"]
            break
    if type(names) is not tuple:
        raise TypeError(f"{cls.__name__}.__match_args__ must be a tuple (got {type(names).__name__})")
    for name in names:
        if type(name) is not str or name.startswith("_") or name in policy.INNER_NAMES:
            raise owned.Denied(f"Forbidden access to attribute in a pattern: {str(name)[:80]}")
    return cls


def _check_group(group: BaseExceptionGroup[Any]) -> None:
    """Refuse an exception group that answers for its own parts."""
    for base in type.__dict__["__mro__"].__get__(type(group)):
        if owned.is_own_class(base) and {"split", "__getattribute__", "__getattr__"} & set(vars(base)):
            raise owned.Denied("An exception group whose class defines 'split' cannot be used with except*.")
    if "split" in object.__getattribute__(group, "__dict__"):
        raise owned.Denied("An exception group that carries 'split' cannot be used with except*.")


class _Compiled:
    """What ``compile`` gives: a snippet that has been checked."""

    __slots__ = ("_mode", "_source")
    __manyhands_frozen__ = True

    def __init__(self, source: str, mode: str) -> None:
        self._source = str.__str__(source)
        self._mode = "eval" if mode == "eval" else "exec"


def _compile(source: Any, filename: str = "<string>", mode: str = "exec", *_: Any, **__: Any) -> _Compiled:
    if mode not in ("exec", "eval", "single"):
        raise ValueError("compile() mode must be 'exec', 'eval' or 'single'")
    text = _source(source)
    current_step().session.compile(text, "eval" if mode == "eval" else "exec")
    return _Compiled(text, "eval" if mode == "eval" else "exec")


def _source(source: Any) -> str:
    if type(source) is _Compiled:
        return source._source
    if isinstance(source, (bytes, bytearray)):
        return bytes(source).decode()
    if not isinstance(source, str):
        raise TypeError("eval() arg 1 must be a string, bytes or code object")
    return str.__str__(source)


def _eval(source: Any, globals: Any = None, locals: Any = None, /) -> Any:
    mode = source._mode if type(source) is _Compiled else "eval"
    return current_step().session.execute(_source(source).strip(" \t"), mode, globals, locals)


def _exec(source: Any, globals: Any = None, locals: Any = None, /) -> None:
    current_step().session.execute(_source(source), "exec", globals, locals)


def _import(name: str, whole: bool) -> Any:
    return current_step().session.modules.load(name, whole=whole)


def _import_from(module: str, name: str) -> Any:
    return current_step().session.modules.member(module, name)


def _import_star(module: str) -> None:
    step = current_step()
    step.session.bind_star(step.session.modules.public(module))


def _dunder_import(
    name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> Any:
    step = current_step()
    if type(globals) is dict and globals.get("__builtins__") is step.namespace["__builtins__"]:
        # A function of C, called by the code, imports something for itself: it takes it from sys.modules
        # afterwards.
        # The code cannot come here, it has no way to get at its real namespace.
        importlib.import_module(name)
        return None
    return step.session.modules.load(owned.plain_name(name), whole=bool(fromlist))


class _Open:
    """``open`` is known, and refused with a reason."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError(
            "Forbidden function: open. The code has no access to files; use a tool for that."
        )


def _input(prompt: str = "") -> str:
    raise PermissionError("Forbidden function: input. Nobody sits at this program; use a tool to ask.")


def _exit(code: Any = None) -> None:
    raise SystemExit(code)


def base_builtins() -> dict[str, Any]:
    """Everything that the code finds without importing, but for tools."""
    found: dict[str, Any] = {
        name: getattr(builtins, name) for name in _AS_THEY_ARE if hasattr(builtins, name)
    }
    found.update({name: getattr(builtins, name) for name in _EXCEPTIONS})
    found.update(guards.guards())
    found.update({name: getattr(iterators, name) for name in ("map", "filter", "zip", "enumerate", "iter")})
    found.update(_TWINS)
    found.update(aio.builtin_functions())
    found[policy.OWN_MARK] = True
    return found


_TWINS: dict[str, Any] = {
    "print": _print,
    "getattr": _getattr,
    "hasattr": _hasattr,
    "setattr": _setattr,
    "delattr": _delattr,
    "vars": _vars,
    "dir": _dir,
    "format": _format,
    "globals": _globals,
    "pow": guards.power_with,
    "eval": _eval,
    "exec": _exec,
    "compile": _compile,
    "open": _Open(),
    "input": _input,
    "exit": _exit,
    "quit": _exit,
    "__build_class__": classes.build_class,
    "type": classes.Type,
    "$super": classes.guarded_super,
    "$typeof": classes.typeof,
    "__import__": _dunder_import,
    DUE: True,  # where a namespace was emptied, its code is outside
    "$groups": BaseExceptionGroup,
    "$checkgroup": _check_group,
    "$Stop": Stop,
    "$mark": staticmethod(True),  # type: ignore[arg-type]  # a descriptor, which an enum does not take for a member
    "$tick": tick,
    "$alive": alive,
    "$lim": iterators.limited,
    "$items": iterators.collected,
    "$locals": builtins.locals,
    "$names": _names,
    "$matchable": _matchable,
    "$import": _import,
    "$importfrom": _import_from,
    "$importstar": _import_star,
}

for _name, _value in list(_TWINS.items()):
    if _name.isidentifier() and hasattr(_value, "__qualname__") and _value is not classes.Type:
        _value.__qualname__ = _value.__name__ = _name
