"""What the agent's code may name, read, write and define.

Everything here is data and pure questions about names. The rewrite asks them once, when the code is compiled;
the guards ask them again while it runs, about names that only turn up then (``getattr(x, name)``).
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass


def words(text: str) -> frozenset[str]:
    """The words of ``text``: a readable way to write a long list of names."""
    return frozenset(text.split())


#: Marks classes that the agent's code made. The dollar sign cannot be written in Python source; protocols
#: leave
#: out what begins with ``_abc_``.
OWN_MARK = "_abc_$own"

#: The bound on results that one C call would build at once: characters, items, bytes.
MAX_ITEMS = 50_000_000
#: The bound on integers: 2**MAX_BITS takes a multiplication some tens of milliseconds.
MAX_BITS = 2_000_000
MAX_FORMAT_WIDTH = 1_000_000
MAX_SOURCE = 1_000_000

#: Double-underscore names that lead nowhere on any object: operators, protocols, plain texts.
PLAIN_DUNDERS = words(
    """
        __init__ __name__ __qualname__ __doc__ __class__ __module__ __call__ __len__ __length_hint__
        __iter__ __next__ __reversed__ __contains__ __getitem__ __setitem__ __delitem__ __missing__
        __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __hash__ __bool__ __str__ __repr__ __bytes__
        __int__ __float__ __complex__ __index__ __round__ __trunc__ __floor__ __ceil__ __abs__
        __neg__ __pos__ __invert__ __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__
        __rmul__ __imul__ __truediv__ __rtruediv__ __itruediv__ __floordiv__ __rfloordiv__
        __ifloordiv__ __mod__ __rmod__ __imod__ __divmod__ __rdivmod__ __pow__ __rpow__ __ipow__
        __matmul__ __rmatmul__ __imatmul__ __and__ __rand__ __iand__ __or__ __ror__ __ior__ __xor__
        __rxor__ __ixor__ __lshift__ __rlshift__ __ilshift__ __rshift__ __rrshift__ __irshift__
        __enter__ __exit__ __aenter__ __aexit__ __aiter__ __anext__ __await__ __post_init__ __copy__
        __deepcopy__ __init_subclass__ __set_name__ __class_getitem__ __fspath__ __sizeof__
        __notes__ __cause__ __suppress_context__ __members__ __version__ __format__ __slots__
        __dataclass_params__ __isabstractmethod__ __array__ __origin__ __args__
        __value__ __metadata__ __match_args__ __all__ __author__
        """
)

#: Those of them whose C form does work that has to be bounded, or that reach further: the guard looks at the
#: object.
_GUARDED_PLAIN = frozenset(
    {
        "__mul__",
        "__rmul__",
        "__imul__",
        "__pow__",
        "__rpow__",
        "__ipow__",
        "__lshift__",
        "__rlshift__",
        "__ilshift__",
        "__format__",
        "__cause__",
        "__module__",
        "__class__",
        "__origin__",
        "__args__",
    }
)

#: Read without a guard. Everything else with a leading underscore is asked at run time.
FREE_DUNDERS = PLAIN_DUNDERS - _GUARDED_PLAIN

#: Names without underscore that lead to frames, code and other inner parts of CPython objects.
INNER_NAMES = words(
    """
        gi_frame gi_code gi_yieldfrom gi_running gi_suspended cr_frame cr_code cr_await cr_origin
        cr_running cr_suspended ag_frame ag_code ag_await ag_running ag_suspended tb_frame tb_next
        tb_lasti tb_lineno f_back f_builtins f_code f_globals f_lasti f_lineno f_locals f_trace
        f_trace_lines f_trace_opcodes f_generator co_code co_consts co_names co_varnames
        co_freevars co_cellvars co_filename co_name co_qualname co_positions co_lines co_flags
        co_argcount co_firstlineno co_linetable co_exceptiontable co_nlocals co_stacksize
        func_globals func_code func_closure func_defaults
        """
)

#: Names whose meaning depends on what they are read from; their guard answers with a bounded twin for str,
#: int, ...
BOUNDED_NAMES = words(
    """
        format format_map mro obj zfill ljust rjust center expandtabs to_bytes register
        with_traceback translate
        """
)

#: Methods of numpy and pandas that reach files, or evaluate texts.
DATALIB_NAMES = words(
    """
    tofile dump to_pickle to_hdf to_sql to_parquet to_feather to_stata to_excel to_orc to_gbq to_clipboard
    to_csv to_json to_html to_latex to_xml to_markdown to_string query eval apply agg aggregate transform
    pipe applymap
    """
)

#: Modules that lead to the process, and what would be called on them: an object of the host may hold one.
MODULE_NAMES = words(
    """
    os sys posix nt subprocess multiprocessing pty shutil importlib builtins ctypes gc inspect marshal pickle
    runpy code codeop signal socket ssl http urllib threading asyncio concurrent io mmap pathlib tempfile
    sqlite3 platform resource site sysconfig pkgutil zipimport faulthandler tracemalloc webbrowser cffi
    system popen Popen check_output check_call getoutput import_module reload rmtree environ modules
    execv execve execvp execvpe execl execle execlp spawnl spawnv spawnve fork forkpty startfile
    """
)

#: Attribute reads that go through the guard although they carry no underscore.
GUARDED_NAMES = INNER_NAMES | BOUNDED_NAMES | DATALIB_NAMES | MODULE_NAMES

#: Those of them that are kept by the interpreter: no class body may define them.
_KEPT = words("__class__ __notes__ __cause__ __suppress_context__ __value__ __dataclass_params__")

#: Double-underscore methods that a class body may define.
DEFINABLE = (PLAIN_DUNDERS - _KEPT) | words(
    """
        __new__ __del__ __subclasshook__ __getattr__ __getattribute__ __setattr__ __delattr__ __dir__ __get__
        __set__
        __delete__ __prepare__ __instancecheck__ __subclasscheck__ __array_ufunc__ __array_priority__
        __replace__
        """
)

#: Names with double underscores that may be used as variables.
DUNDER_VARIABLES = frozenset(
    {"__name__", "__class__", "__debug__", "__doc__", "__version__", "__author__", "__all__"}
)

#: On a metaclass these would let a pattern or ``isinstance`` read attributes of foreign objects.
FORBIDDEN_ON_METACLASS = words(
    """
        __getattribute__ __getattr__ __instancecheck__ __subclasscheck__ __match_args__ __prepare__
        __subclasshook__
        """
)

#: Private names of named tuples, enums and ctypes-free data classes that are public by their documentation.
DOCUMENTED_PRIVATE = frozenset(
    {"_asdict", "_replace", "_fields", "_make", "_field_defaults", "_value_", "_name_", "_missing_", "_"}
)

#: Callables that consume a whole iterable in one C call: their arguments are watched.
CONSUMERS = words(
    """
        list tuple set frozenset dict sum min max any all sorted bytes bytearray deque Counter
        reduce fsum prod OrderedDict mean median mode stdev variance fmean
        """
)
#: Those of them that keep nothing.
REDUCERS = words(
    """
        sum min max any all reduce fsum prod mean median mode stdev variance fmean deque
        """
)
CONSUMER_METHODS = words(
    """
        extend update join fromkeys extendleft union intersection difference symmetric_difference
        difference_update intersection_update symmetric_difference_update issubset issuperset
        isdisjoint writelines
        """
)


def is_dunder(name: str) -> bool:
    """True for ``__x__``."""
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def mangle(name: str, owner: str | None) -> str:
    """The name that CPython stores for ``__x`` written inside class ``owner``."""
    if owner is None or not name.startswith("__") or name.endswith("__") or "." in name:
        return name
    stripped = owner.lstrip("_")
    return f"_{stripped}{name}" if stripped else name


def attribute_is_free(name: str) -> bool:
    """True when reading ``name`` needs no look at the object."""
    if name.startswith("_"):
        return name in FREE_DUNDERS
    return name not in GUARDED_NAMES


def name_problem(name: str) -> str | None:
    """Why a variable may not be called ``name``; None when it may."""
    if "$" in name:
        return f"The name '{name}' is reserved."
    if is_dunder(name) and name not in DUNDER_VARIABLES:
        return f"Forbidden access to dunder name: {name}"
    return None


def field_problem(name: object) -> str | None:
    """Why a field of a class may not be called ``name``; None when it may."""
    if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
        return f"A field name has to be a plain identifier, not {str(name)[:60]!r}"
    if name in INNER_NAMES or (is_dunder(name) and name not in DUNDER_VARIABLES):
        return f"Forbidden access to field name: {name}"
    return None


@dataclass(frozen=True, slots=True)
class ImportPolicy:
    """Which modules the code may import: ``pkg``, ``pkg.sub``, ``pkg.*`` and ``*``."""

    authorized: frozenset[str]

    def allows(self, name: str) -> bool:
        """True when ``import name`` is authorised."""
        if "*" in self.authorized or name in self.authorized:
            return True
        parts = name.split(".")
        return any(".".join(parts[:i]) + ".*" in self.authorized for i in range(1, len(parts) + 1))

    def allows_part_of(self, name: str) -> bool:
        """True when ``name`` is a package of which something deeper is authorised."""
        return self.allows(name) or any(entry.startswith(name + ".") for entry in self.authorized)
