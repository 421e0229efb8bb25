"""The functions that the rewrite calls.

Attribute access and operations that depend on the object at run time.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from manyhands.executors.local import datalibs, policy
from manyhands.executors.local.classes import shown_class, shown_classes
from manyhands.executors.local.formatting import bound_format, bound_format_map, check_spec, has_wide_number
from manyhands.executors.local.owned import (
    Denied,
    deny,
    is_host_module,
    is_own,
    is_own_class,
    is_own_function,
    mro_of,
    own_dict,
    plain_name,
)
from manyhands.executors.local.policy import words
from manyhands.executors.local.switch import current_strand

Getter = Callable[[Any, str], Any]

_FRAMEY = (types.FrameType, types.CodeType, types.TracebackType)
_SUSPENDED = (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)
_CALLABLES = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)


# --- reading -----------------------------------------------------------------------------------


def read(obj: Any, name: str) -> Any:
    """``obj.name`` for names that are not free."""
    special = _SPECIAL.get(name)
    if special is not None:
        return special(obj, name)
    if name in policy.INNER_NAMES:
        if isinstance(obj, _FRAMEY + _SUSPENDED + (types.FunctionType, types.MethodType)):
            raise deny(name)
        return getattr(obj, name)
    if "$" in name:
        raise deny(name)
    if not name.startswith("_"):
        return _read_public(obj, name)
    if policy.is_dunder(name):
        return _read_dunder(obj, name)
    if name in policy.DOCUMENTED_PRIVATE or is_own(obj) or is_own_function(obj) or _is_super_of_own(obj):
        return getattr(obj, name)
    raise _private(obj, name)


def _read_public(obj: Any, name: str) -> Any:
    """A name that may lead to a module of the host: an object that a tool returned may hold one."""
    value = getattr(obj, name)
    for found in (obj, value):
        if is_host_module(found):
            raise Denied(f"Forbidden access to module '{found.__name__}': import it, where that is allowed.")
    return value


def _private(obj: Any, name: str) -> AttributeError:
    """A private name of an object that the code has not made.

    Forbidden when it is there, missing otherwise.
    """
    try:
        object.__getattribute__(obj, name)
    except AttributeError:
        return AttributeError(f"'{type(obj).__name__}' object has no attribute '{name}'")
    except Exception:
        return deny(name)
    return deny(name)


def _is_super_of_own(obj: Any) -> bool:
    return type(obj) is super and is_own(_super_self(obj))


_super_self = super.__dict__["__self__"].__get__


def _read_dunder(obj: Any, name: str) -> Any:
    if name in policy.FREE_DUNDERS:
        return getattr(obj, name)
    if is_own(obj) and name not in _NEVER and not _is_inherited_from_host(obj, name):
        return getattr(obj, name)
    raise deny(name)


#: Not even on the code's own classes: what the interpreter keeps behind these names is not the code's.
_NEVER = words(
    """
        __subclasses__ __globals__ __code__ __closure__ __builtins__ __self__ __func__ __reduce__
        __reduce_ex__ __getstate__ __setstate__ __dictoffset__ __basicsize__ __itemsize__ __flags__
        __weakrefoffset__ __text_signature__ __loader__ __spec__ __import__ __file__ __path__
        __traceback__ __objclass__ __abstractmethods__ __weakref__
        __subclasshook__ __prepare__ __wrapped__
        """
)


def _is_inherited_from_host(obj: Any, name: str) -> bool:
    """True when ``name`` is not something that the code's own classes or objects define."""
    classes = [*mro_of(type(obj)), *(mro_of(obj) if issubclass(type(obj), type) else ())]
    if any(name in own_dict(cls) for cls in classes if policy.OWN_MARK in own_dict(cls)):
        return False
    try:
        return name not in object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return True


def _read_dict(obj: Any, name: str) -> Any:
    if is_own_function(obj):
        return obj.__dict__
    if not is_own(obj):
        raise deny(name)
    if isinstance(obj, type):
        return {key: value for key, value in own_dict(obj).items() if _is_showable(key)}
    return Attributes(object.__getattribute__(obj, "__dict__"))


class Attributes(dict[str, Any]):
    """The ``__dict__`` of an object of the code: a dict that takes attribute names only."""

    __slots__ = ("_live",)

    def __init__(self, live: dict[str, Any]) -> None:
        super().__init__(live)
        self._live = live

    def __setitem__(self, key: str, value: Any) -> None:
        if policy.is_dunder(plain_name(key)):
            raise deny(key)
        self._live[key] = value
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._live.pop(key, None)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        self._live.pop(key, None)
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        key, value = super().popitem()
        self._live.pop(key, None)
        return key, value

    def clear(self) -> None:
        super().clear()
        self._live.clear()


def _is_showable(key: str) -> bool:
    return "$" not in key and key not in ("__dict__", "__weakref__", "__annotations__", "__classcell__")


def _read_bases(obj: Any, name: str) -> Any:
    if isinstance(obj, type) and is_own_class(obj):
        found = getattr(obj, name)
        return tuple(shown_classes(found)) if type(found) is tuple else shown_class(found)
    raise deny(name)


def _read_class(obj: Any, name: str) -> Any:
    return shown_class(obj.__class__)


def _read_parts(obj: Any, name: str) -> Any:
    """``__origin__`` and ``__args__`` of type hints."""
    found = getattr(obj, name)
    return tuple(map(shown_class, found)) if type(found) is tuple else shown_class(found)


def _read_mro(obj: Any, name: str) -> Any:
    if not isinstance(obj, type):
        return getattr(obj, name)
    if not is_own_class(obj):
        raise deny(name)
    return lambda: shown_classes(mro_of(obj))


def _read_annotations(obj: Any, name: str) -> Any:
    if is_own(obj) or is_own_function(obj):
        return dict(getattr(obj, name))
    raise deny(name)


def _read_own_function(obj: Any, name: str) -> Any:
    if is_own_function(obj):
        return getattr(obj, name)
    raise deny(name)


def _read_wrapped(obj: Any, name: str) -> Any:
    if is_own_function(obj) or is_own(obj):
        return getattr(obj, name)
    raise deny(name)


def _read_context(obj: Any, name: str) -> Any:
    return getattr(obj, name) if isinstance(obj, BaseException) or is_own(obj) else _raise(deny(name))


def _raise(error: Exception) -> Any:
    raise error


def _read_traceback(obj: Any, name: str) -> Any:
    if isinstance(obj, BaseException):
        return None
    raise deny(name)


def _read_get(obj: Any, name: str) -> Any:
    """A descriptor of the host would look for its values in the dictionary of whatever object it is given."""
    is_plain = type(obj) in (property, staticmethod, classmethod)
    if is_plain or is_own_function(obj) or (is_own(obj) and not _is_inherited_from_host(obj, name)):
        return getattr(obj, name)
    raise deny(name)


def _read_func(obj: Any, name: str) -> Any:
    found = getattr(obj, name)
    if is_own_function(found):
        return found
    raise deny(name)


def _read_self(obj: Any, name: str) -> Any:
    if type(obj) is types.MethodType and is_own_function(obj.__func__):
        return obj.__self__
    raise deny(name)


def _read_new(obj: Any, name: str) -> Any:
    return getattr(obj, name)


def _read_getattribute(obj: Any, name: str) -> Any:
    """``super().__getattribute__(name)``, ``object.__getattribute__(self, name)``."""
    reader = getattr(obj, name)
    if isinstance(obj, type):
        return lambda this, key, /: _checked_read(lambda: reader(this, key), this, key)
    return lambda key, /: _checked_read(lambda: reader(key), obj, key)


def _checked_read(find: Callable[[], Any], obj: Any, key: str) -> Any:
    key = plain_name(key)
    if key == policy.OWN_MARK:
        return find()
    if policy.attribute_is_free(key) or (key.startswith("_") and not policy.is_dunder(key)):
        return find()
    if key == "__dict__":
        return _read_dict(obj, key)
    raise deny(key)


def _read_setattr(obj: Any, name: str) -> Any:
    """``super().__setattr__(name, value)``, ``object.__setattr__(self, name, value)``."""
    writer = getattr(obj, name)
    if isinstance(obj, type):
        return lambda this, key, *value: writer(this, _writable(this, key), *value)
    if type(obj) is super:
        this = _super_self(obj)
        return lambda key, *value: writer(_writable(this, key), *value)
    return lambda key, *value: writer(_writable(obj, key), *value)


def _writable(obj: Any, key: str) -> str:
    check_writable(obj, plain_name(key))
    return key


def _behind(obj: Any) -> Any:
    """The object itself, where ``obj`` is its ``super()``."""
    return _super_self(obj) if type(obj) is super else obj


def _read_format(obj: Any, name: str) -> Any:
    this = _behind(obj)
    if isinstance(this, str) and type(getattr(obj, name)) is not types.MethodType:
        return (bound_format if name == "format" else bound_format_map)(this, get)
    if isinstance(obj, type) and issubclass(obj, str):
        maker = bound_format if name == "format" else bound_format_map
        return lambda template, *args, **kwargs: maker(_as_text(template), get)(*args, **kwargs)
    return getattr(obj, name)


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"descriptor 'format' requires a 'str' object but received '{type(value).__name__}'")
    return value


def _read_dunder_format(obj: Any, name: str) -> Any:
    method = getattr(obj, name)
    if isinstance(obj, type):
        return lambda this, spec="", /: method(this, check_spec(spec))
    return lambda spec="", /: method(check_spec(spec))


def _read_bounded(obj: Any, name: str) -> Any:
    method = getattr(obj, name)
    if isinstance(_behind(obj), (str, bytes, bytearray, int)) or (
        isinstance(obj, type) and not is_own_class(obj)
    ):
        return lambda *args, **kwargs: method(*_bounded(args), **kwargs)
    return method


def _bounded(args: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(isinstance(arg, int) and arg > policy.MAX_ITEMS for arg in args):
        raise MemoryError(f"Refused: a result of more than {policy.MAX_ITEMS:,} items.")
    return args


def _read_register(obj: Any, name: str) -> Any:
    """``SomeABC.register(cls)`` changes a class that everybody shares, or makes a class of the code claim
    others.
    """
    if isinstance(obj, type) and hasattr(obj, "_abc_impl"):
        if not is_own_class(obj):
            raise deny(name)
        return lambda cls: obj.register(cls) if is_own_class(cls) else _raise(deny(name))  # type: ignore[attr-defined]
    return getattr(obj, name)


def _read_obj(obj: Any, name: str) -> Any:
    if isinstance(obj, BaseException) and not is_own(obj):
        raise deny(name)
    return getattr(obj, name)


def _read_operator(obj: Any, name: str) -> Any:
    """``(2).__pow__``: the same bounds as ``2 ** x``."""
    method = getattr(obj, name)
    this = _behind(obj)
    if type(method) is types.MethodType or not isinstance(this, (int, str, bytes, bytearray, list, tuple)):
        if isinstance(obj, type) and not is_own_class(obj):
            check = _OPERATORS[name]
            return lambda this, other, *rest: method(check(this, other), other, *rest)
        return method
    check = _OPERATORS[name]

    def bounded(other: Any, *rest: Any) -> Any:
        check(this, other)
        return method(other, *rest)

    return bounded


def _read_module_name(obj: Any, name: str) -> Any:
    return getattr(obj, name)


def _read_datalib(obj: Any, name: str) -> Any:
    return datalibs.method(obj, name, Denied)


def _read_with_traceback(obj: Any, name: str) -> Any:
    if isinstance(obj, BaseException):
        return lambda traceback=None: obj
    return getattr(obj, name)


# --- writing -----------------------------------------------------------------------------------

#: Dunder attributes that may be set on own classes and functions.
_WRITABLE_DUNDERS = frozenset({"__doc__", "__name__", "__qualname__", "__wrapped__", "__hash__", "__notes__"})
_FUNCTION_WRITABLE = _WRITABLE_DUNDERS - {"__hash__"}


def check_writable(obj: Any, name: str) -> None:
    """Raise unless the code may set or delete ``obj.name``."""
    cls = type(obj)
    if "$" in name:
        raise deny(name)
    if policy.is_dunder(name) and name not in _WRITABLE_DUNDERS:
        if not (
            is_own(obj) and issubclass(cls, type) and name in policy.DEFINABLE - policy.FORBIDDEN_ON_METACLASS
        ):
            raise deny(name)
        if issubclass(obj, type) or name == "__slots__":
            raise deny(name)
    if is_own_class(cls) or is_own_function(obj):
        return
    if issubclass(cls, type):
        if not is_own_class(obj):
            raise Denied(f"Forbidden to change class '{obj.__name__}': it is shared with other code.")
        return
    if (
        id(obj) in _SHARED
        or getattr(cls, "__manyhands_frozen__", False)
        or isinstance(obj, (types.ModuleType, *_CALLABLES))
    ):
        raise Denied(
            f"Forbidden to set attribute '{name}' of {cls.__name__} '{_name_of(obj)}': it is shared."
        )
    if name.startswith("_"):
        raise deny(name)


def _name_of(obj: Any) -> str:
    name = getattr(obj, "__name__", "")
    return name if type(name) is str else ""


def write(obj: Any, name: str, value: Any) -> None:
    """``setattr`` for the code."""
    check_writable(obj, name)
    setattr(obj, name, value)


def remove(obj: Any, name: str) -> None:
    """``delattr`` for the code."""
    check_writable(obj, name)
    delattr(obj, name)


def get(obj: Any, name: str) -> Any:
    """``getattr`` for the code: any name."""
    return getattr(obj, name) if policy.attribute_is_free(name) and "$" not in name else read(obj, name)


class Slot:
    """An attribute as a place: stands where Python wants something to assign to."""

    __slots__ = ("_name", "_obj")

    def __init__(self, obj: Any, name: str) -> None:
        self._obj = obj
        self._name = name

    @property
    def v(self) -> Any:
        return get(self._obj, self._name)

    @v.setter
    def v(self, value: Any) -> None:
        write(self._obj, self._name, value)

    @v.deleter
    def v(self) -> None:
        remove(self._obj, self._name)


# --- operations --------------------------------------------------------------------------------


def _check_power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        bits = int.bit_length(base)
        if bits > 1 and bits * exponent > policy.MAX_BITS:
            raise OverflowError(f"Refused: a power with more than {policy.MAX_BITS:,} bits.")
    return base


def _check_shift(value: Any, count: Any) -> Any:
    if isinstance(value, int) and isinstance(count, int) and count > policy.MAX_BITS and value:
        raise OverflowError(f"Refused: a number with more than {policy.MAX_BITS:,} bits.")
    return value


def _check_repeat(left: Any, right: Any) -> Any:
    if isinstance(left, int):
        if isinstance(right, int):
            if int.bit_length(left) + int.bit_length(right) > policy.MAX_BITS:
                raise OverflowError(f"Refused: a number with more than {policy.MAX_BITS:,} bits.")
            return left
        thing, count = right, left
    else:
        thing, count = left, right
    repeats = isinstance(count, int) and isinstance(thing, (str, bytes, bytearray, list, tuple))
    if repeats and len(thing) * count > policy.MAX_ITEMS:
        raise MemoryError(f"Refused: a repetition of more than {policy.MAX_ITEMS:,} items.")
    return left


def _check_percent(left: Any, right: Any) -> Any:
    if isinstance(left, (str, bytes)):
        text = str(left)
        if "*" in text:
            parts = right if isinstance(right, tuple) else (right,)
            if any(isinstance(p, int) and abs(p) > policy.MAX_FORMAT_WIDTH for p in parts):
                raise ValueError(f"A format width may not be larger than {policy.MAX_FORMAT_WIDTH:,}.")
        if has_wide_number(text) and "%" in text:
            _check_percent_widths(text)
    return left


def _check_percent_widths(text: str) -> None:
    for part in text.split("%")[1:]:
        spec = part.lstrip("#0- +")
        width = spec[: len(spec) - len(spec.lstrip("0123456789."))]
        if has_wide_number(width):
            raise ValueError(f"A format width may not be larger than {policy.MAX_FORMAT_WIDTH:,}.")


def power(base: Any, exponent: Any) -> Any:
    """``base ** exponent``, bounded."""
    return _check_power(base, exponent) ** exponent


def power_with(base: Any, exponent: Any, modulus: Any = None) -> Any:
    """The builtin ``pow``, bounded."""
    return power(base, exponent) if modulus is None else pow(base, exponent, modulus)


def shift(value: Any, count: Any) -> Any:
    """``value << count``, bounded."""
    return _check_shift(value, count) << count


def multiply(left: Any, right: Any) -> Any:
    """``left * right``, bounded."""
    return _check_repeat(left, right) * right


def modulo(left: Any, right: Any) -> Any:
    """``left % right``, bounded when it formats."""
    return _check_percent(left, right) % right


class Right:
    """The right side of ``target **= value`` where the left side is an attribute or an item."""

    __slots__ = ("_value",)
    __array_ufunc__ = None

    def __init__(self, value: Any) -> None:
        self._value = value

    def __rpow__(self, base: Any) -> Any:
        return power(base, self._value)

    def __rlshift__(self, base: Any) -> Any:
        return shift(base, self._value)

    def __rmul__(self, base: Any) -> Any:
        return multiply(base, self._value)

    def __rmod__(self, base: Any) -> Any:
        return modulo(base, self._value)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "__pow__": _check_power,
    "__ipow__": _check_power,
    "__rpow__": lambda exponent, base: _check_power(base, exponent),
    "__lshift__": _check_shift,
    "__ilshift__": _check_shift,
    "__rlshift__": lambda count, value: _check_shift(value, count),
    "__mul__": _check_repeat,
    "__imul__": _check_repeat,
    "__rmul__": lambda right, left: _check_repeat(left, right),
}

_SPECIAL: MappingProxyType[str, Getter] = MappingProxyType(
    {
        "__class__": _read_class,
        "__origin__": _read_parts,
        "__args__": _read_parts,
        "__dict__": _read_dict,
        "__bases__": _read_bases,
        "__mro__": _read_bases,
        "__base__": _read_bases,
        "__annotations__": _read_annotations,
        "__defaults__": _read_own_function,
        "__kwdefaults__": _read_own_function,
        "__type_params__": _read_own_function,
        "__wrapped__": _read_wrapped,
        "__context__": _read_context,
        "__cause__": _read_context,
        "__traceback__": _read_traceback,
        "__get__": _read_get,
        "__func__": _read_func,
        "__self__": _read_self,
        "__new__": _read_new,
        "__getattribute__": _read_getattribute,
        "__setattr__": _read_setattr,
        "__delattr__": _read_setattr,
        "__format__": _read_dunder_format,
        "__module__": _read_module_name,
        "format": _read_format,
        "format_map": _read_format,
        "mro": _read_mro,
        "obj": _read_obj,
        "register": _read_register,
        "with_traceback": _read_with_traceback,
        **dict.fromkeys(("zfill", "ljust", "rjust", "center", "expandtabs", "to_bytes"), _read_bounded),
        **dict.fromkeys(_OPERATORS, _read_operator),
        **dict.fromkeys(policy.DATALIB_NAMES, _read_datalib),
    }
)


def _in_place(
    check: Callable[[Any, Any], Any], operate: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    return lambda left, right: operate(check(left, right), right)


def faded(obj: Any) -> str:
    """The text of an object whose code has ended: the one it had, if it was shown, or a plain one."""
    return f"<{type(obj).__name__} object>"


_SHARED: dict[int, Any] = {}


def share(obj: Any) -> None:
    """Remember an object of a module: other code of the process has it too, so nobody may change it."""
    _SHARED[id(obj)] = obj


def guards() -> dict[str, Any]:
    """The guards under the names that the rewrite gives them."""
    return {
        "$getattr": read,
        "$slot": Slot,
        "$pow": power,
        "$lshift": shift,
        "$mul": multiply,
        "$mod": modulo,
        "$pow=": _in_place(_check_power, operator.ipow),
        "$lshift=": _in_place(_check_shift, operator.ilshift),
        "$mul=": _in_place(_check_repeat, operator.imul),
        "$mod=": _in_place(_check_percent, operator.imod),
        "$right": Right,
        "$spec": check_spec,
        "$faded": faded,
        "$strand": current_strand,
    }
