"""numpy and pandas for the code: no files, no pickles, no expressions that reach attributes, random numbers
per run.

Nothing here imports them: the functions get objects that exist because the code has imported the library.
"""

from __future__ import annotations

import os
import unicodedata
from functools import wraps
from typing import TYPE_CHECKING, Any

from manyhands.executors.local.policy import INNER_NAMES, words
from manyhands.executors.local.switch import current_step

if TYPE_CHECKING:
    from collections.abc import Callable

#: Methods that write files whatever their arguments are.
_WRITERS = words(
    """
    tofile dump to_pickle to_hdf to_sql to_parquet to_feather to_stata to_excel to_orc to_gbq to_clipboard
    """
)
#: Methods that write a file when they are given its name, and return text otherwise.
_TEXT_WRITERS = words("to_csv to_json to_html to_latex to_xml to_markdown to_string")
#: Methods that evaluate an expression of the library's own small language.
_EXPRESSIONS = words("query eval")
_FORBIDDEN_BY_NAME = _WRITERS | _TEXT_WRITERS | _EXPRESSIONS


def is_from_datalib(obj: Any) -> bool:
    """True for objects of numpy and pandas, and of classes made from theirs."""
    cls = obj if isinstance(obj, type) else type(obj)
    return any(base.__module__.partition(".")[0] in ("numpy", "pandas") for base in cls.__mro__)


def method(obj: Any, name: str, refuse: Callable[[str], Exception]) -> Any:
    """The method ``name`` of a numpy or pandas object, as the code gets it."""
    found = getattr(obj, name)
    if not callable(found) or not is_from_datalib(obj):
        return found
    if name in _WRITERS:
        raise refuse(f"Forbidden access to method: {name}. The code has no access to files.")
    check = _check_text if name in _EXPRESSIONS else _check_path if name in _TEXT_WRITERS else _check_name

    @wraps(found)
    def call(*args: Any, **kwargs: Any) -> Any:
        for arg in (*args, *kwargs.values()):
            problem = check(arg)
            if problem:
                raise refuse(problem)
        return found(*args, **kwargs)

    return call


def _check_text(text: Any) -> str | None:
    if not isinstance(text, str):
        return None
    plain = unicodedata.normalize("NFKC", str.__str__(text))
    if "__" in plain or any(name in plain for name in INNER_NAMES):
        return "Forbidden access to dunder attribute in an expression."
    return None


def _check_path(value: Any) -> str | None:
    if isinstance(value, os.PathLike) or (isinstance(value, str) and ("/" in value or "." in value)):
        return "Forbidden: the code has no access to files. Leave the name out to get the text."
    return None


def _check_name(value: Any) -> str | None:
    names = (
        value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else [value]
    )
    for name in names:
        if isinstance(name, str) and (name.startswith("_") or str.__str__(name) in _FORBIDDEN_BY_NAME):
            return f"Forbidden access to method: {name}"
    return None


def member(module: str, name: str, value: Any) -> Any:
    """A member of a numpy or pandas module, as the code gets it."""
    if module.startswith("pandas") and name.startswith("read_"):
        return _reading_buffers(value)
    if module == "numpy.random" and not isinstance(value, type):
        own = getattr(value, "__self__", None)
        if type(own).__name__ == "RandomState" or name in ("seed", "get_state", "set_state"):
            return _of_this_run(value.__name__)
    return value


def _reading_buffers(function: Any) -> Any:
    @wraps(function)
    def read(source: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(type(source), "read"):
            raise PermissionError(
                "Forbidden: the code has no access to files. Read them with a tool, and "
                "parse its text with StringIO."
            )
        return function(source, *args, **kwargs)

    return read


def _of_this_run(name: str) -> Any:
    """A function of ``numpy.random`` that works on a state of the run."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(current_step().session.numpy_random, name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call
