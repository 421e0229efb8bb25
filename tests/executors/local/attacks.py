"""Attacks on the executor, by class. Each hands what it got to ``leak``; nothing of the host may arrive there."""

# ruff: noqa: E501 - programs stand here as the executor gets them
from __future__ import annotations

_TEXT = r"""
leak(().__class__.__base__.__subclasses__())
---
leak(().__class__.__bases__[0].__subclasses__())
---
leak(object.__subclasses__())
---
leak(type.__subclasses__(object))
---
leak((lambda: 0).__globals__)
---
leak((lambda: 0).__code__)
---
leak(print.__self__)
---
leak(leak.__self__)
---
leak(leak.__wrapped__)
---
leak(leak._target)
---
leak(leak.__func__)
---
leak(__builtins__)
---
leak(__import__("os"))
---
leak(__loader__)
---
leak(__spec__)
---
def f(): pass
leak(f.__builtins__)
---
def f(): pass
leak(getattr(f, "__globals__"))
---
leak(getattr(getattr(0, "__class__"), "__subclasses__")())
---
class S(str): pass
leak(getattr(lambda: 0, S("__globals__")))
---
class S(str):
    def startswith(self, *a): return False
    def __eq__(self, o): return False
    def __hash__(self): return 1
leak(getattr(lambda: 0, S("__globals__")))
---
leak(getattr(lambda: 0, "__glo" + "bals__"))
---
leak((lambda: 0).__ｇlobals__)
---
leak((lambda: 0).__𝒈lobals__)
---
leak(vars(lambda: 0))
---
leak(globals())
---
leak(locals())
---
def f(): leak(locals(), vars())
f()
---
leak(globals()["__builtins__"])
---
del __builtins__
leak(eval("open"))
---
exec("__builtins__ = {}")
---
globals().pop("__builtins__", None)
leak(eval("__import__"))
---
g = (x for x in [1])
leak(g.gi_frame)
---
g = (x for x in [1])
leak(g.gi_frame.f_back.f_globals)
---
g = (x for x in [1])
leak(getattr(g, "gi_code"))
---
async def f(): pass
c = f()
try:
    leak(c.cr_frame)
finally:
    c.close()
---
async def f(): yield
leak(f().ag_frame)
---
try:
    1 / 0
except Exception as e:
    leak(e.__traceback__)
---
try:
    1 / 0
except Exception as e:
    leak(e.__traceback__.tb_frame)
---
class C:
    def __enter__(self): pass
    def __exit__(self, t, v, tb):
        leak(tb.tb_frame)
with C(): 1 / 0
---
class C:
    def __enter__(self): pass
    def __exit__(self, t, v, tb):
        leak(tb.tb_frame.f_globals, tb.tb_next)
with C(): 1 / 0
---
class C:
    def __enter__(self): pass
    def __exit__(self, t, v, tb):
        match tb:
            case object(tb_frame=f): leak(f)
with C(): 1 / 0
---
match (lambda: 0):
    case object(__globals__=g): leak(g)
---
class M(type):
    def __instancecheck__(cls, o): return True
class C(metaclass=M):
    __match_args__ = ("__globals__",)
match (lambda: 0):
    case C(g): leak(g)
---
class M(type):
    def __instancecheck__(cls, o): return True
C = M("C", (), {"__match_args__": ("__globals__",)})
match (lambda: 0):
    case C(g): leak(g)
---
class M(type):
    def __instancecheck__(cls, o): return True
    def __getattribute__(cls, n):
        return ("__globals__",) if n == "__match_args__" else super().__getattribute__(n)
class C(metaclass=M): pass
match (lambda: 0):
    case C(g): leak(g)
---
class M(type):
    def __instancecheck__(cls, o): return True
class Name:
    n = 0
    def __get__(self, o, t):
        Name.n += 1
        return ("x",) if Name.n < 2 else ("__globals__",)
class C(metaclass=M):
    __match_args__ = Name()
match (lambda: 0):
    case C(g): leak(g)
---
from abc import ABC
class C(ABC):
    __match_args__ = ("gi_frame",)
    @classmethod
    def __subclasshook__(cls, o): return True
match (x for x in [1]):
    case C(g): leak(g)
---
import types
match (x for x in [1]):
    case types.GeneratorType(gi_frame=g): leak(g)
---
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
@dataclass
@runtime_checkable
class P(Protocol):
    gi_frame: object
match (x for x in [1]):
    case P(g): leak(g)
---
from typing import Protocol, runtime_checkable
@runtime_checkable
class P(Protocol):
    __match_args__ = ("gi_frame",)
    gi_frame = None
match (x for x in [1]):
    case P(g): leak(g)
---
class R:
    def __radd__(self, o): leak(o); return o
def f(): pass
f.__globals__ += R()
---
class R:
    def __ror__(self, o): leak(o); return {}
class C: pass
C.__dict__ |= R()
---
class R:
    def __ror__(self, o):
        o["hacked"] = 1
        leak(o)
        return {}
class C: pass
C.__dict__ | R()
---
from random import _os
leak(_os)
---
import random
leak(random._os)
---
from random import Random
leak(Random().__init__.__globals__)
---
import queue
leak(queue.threading)
---
import statistics
leak(statistics.random._os, statistics.sys)
---
import collections
leak(collections._sys)
---
import collections.abc
leak(collections.abc.sys)
---
import re
leak(re._compiler, re.enum.sys, re.functools)
---
import datetime
leak(datetime.sys, datetime._datetime)
---
from math import __loader__
leak(__loader__)
---
import math
leak(math.__loader__, math.__spec__, math.__dict__)
---
import math
leak(getattr(math, "$real"))
---
import math
leak(vars(math))
---
import math
math.pi = 3
leak(planted())
---
import random
setattr(random, "random", lambda: 4)
leak(planted())
---
import json
json.JSONDecoder.decode = lambda *a: 1
leak(planted())
---
import json
setattr(json.JSONDecoder, "hacked", 1)
leak(planted())
---
import json
type.__setattr__(json.JSONDecoder, "hacked", 1)
---
import json
for json.JSONDecoder.hacked in [1]: pass
---
import json
with open as json.JSONDecoder.hacked: pass
---
import json
[0 for json.JSONDecoder.hacked in [1]]
---
import json
json.JSONDecoder.hacked += 1
---
import json
del json.JSONDecoder.decode
leak(planted())
---
import json, functools
class W:
    hacked = 1
functools.update_wrapper(json.JSONDecoder, W, assigned=("hacked",), updated=())
---
import functools
class Own:
    def __setattr__(self, k, v): leak(v)
functools.update_wrapper(Own(), lambda: 0, assigned=("__globals__", "__code__"), updated=())
---
import collections.abc
collections.abc.Sequence.register(dict)
leak(planted())
---
import copyreg
leak(copyreg)
---
"{0.__class__.__init__.__globals__}".format(leak)
leak("{0.__globals__}".format(lambda: 0))
---
s = "{0.__globals__[__builtins__]}".format
leak(s(lambda: 0))
raise_if = s(lambda: 0)
---
leak(getattr("{0.__globals__}", "format")(lambda: 0))
---
leak(str.format("{0.__globals__}", lambda: 0)); secret()
---
leak("{f.__globals__}".format_map({"f": lambda: 0})); secret()
---
list(map(str.format, ["{0.__globals__}"], [lambda: 0])); secret()
---
import string
string.Formatter().format("{0.__globals__}", lambda: 0); secret()
---
import string
class F(string.Formatter): pass
leak(F.__mro__[2]().get_field("0.__globals__", [lambda: 0], {}))
---
import string
leak(string.Formatter().get_field("0.__globals__", [lambda: 0], {}))
---
import string
class F(string.Formatter):
    def get_field(self, name, a, k): return super().get_field(name, a, k)
leak(F().get_field("0.__globals__", [lambda: 0], {}))
---
import operator
leak(operator.attrgetter("__globals__")(lambda: 0))
---
import operator
leak(operator.attrgetter("__class__.__base__")(1), operator.attrgetter("gi_frame.f_globals")(x for x in [1]))
---
import operator
leak(operator.methodcaller("__getattribute__", "__globals__")(lambda: 0))
---
import operator
leak(operator.methodcaller("__subclasses__")(object))
---
from typing import get_type_hints
def f(x: "leak(().__class__.__base__.__subclasses__())"): pass
get_type_hints(f)
leak(get_type_hints(f)["x"])
---
import typing
class C:
    x: "leak(().__class__.__base__.__subclasses__())"
leak(typing.get_type_hints(C)["x"])
---
from functools import singledispatch
@singledispatch
def f(x): pass
@f.register
def _(x: "leak(().__class__.__base__.__subclasses__())"): pass
---
from functools import singledispatchmethod
class C:
    @singledispatchmethod
    def f(self, x): pass
    @f.register
    def _(self, x: "leak(().__class__.__base__.__subclasses__())"): pass
---
from dataclasses import dataclass
class C:
    __annotations__ = {"x: leak(__import__('os')) #": int}
dataclass(C)
---
from dataclasses import dataclass
class C: pass
C.__annotations__ = {"x=leak(__import__('os'))": int}
dataclass(C)
---
from dataclasses import dataclass
class C:
    y: int
C.__annotations__["x=leak(__import__('os'))"] = int
dataclass(C)
---
from dataclasses import dataclass
C = type("C", (), {"__annotations__": {"x=leak(__import__('os'))": int}})
dataclass(C)
---
from dataclasses import make_dataclass
make_dataclass("C", ["x=leak(__import__('os'))"])
---
class S(str):
    def isidentifier(self): return True
from dataclasses import make_dataclass
make_dataclass("C", [S("x=leak(__import__('os'))")])
---
class S(str):
    def isidentifier(self): return True
    def __str__(self): return self
from collections import namedtuple
namedtuple("T", [S("x=leak(__import__('os'))")])
---
class S(str):
    def isidentifier(self): return True
    def split(self, *a): return [self]
    def replace(self, *a): return self
from collections import namedtuple
namedtuple("T", S("x=leak(__import__('os'))"))
---
import dataclasses
leak(dataclasses.sys, dataclasses.inspect)
---
import dataclasses
leak(dataclasses._create_fn)
---
import functools
leak(functools.partial(leak).func.__self__)
---
import functools
@functools.wraps(leak)
def f(): pass
leak(f.__wrapped__.__self__, f.__wrapped__._target)
---
import functools
leak(functools.reduce(getattr, ["__globals__", "x"], lambda: 0))
---
leak(*map(getattr, [lambda: 0], ["__globals__"]))
---
import asyncio
leak(asyncio.get_event_loop()._ready)
---
import asyncio
leak(asyncio.events, asyncio.sys, asyncio.subprocess, asyncio.base_events)
---
import asyncio
async def f(): pass
t = asyncio.create_task(f())
leak(t.get_coro(), t.get_loop(), t._future)
---
import asyncio
async def f(): pass
t = asyncio.create_task(f())
leak(t._strand.step)
---
import asyncio
leak(asyncio.Lock()._loop, asyncio.Queue()._getters)
---
import asyncio
leak(asyncio.Queue()._get_loop())
---
import asyncio
leak(asyncio.Future()._future)
---
async def f(): pass
c = f()
leak(c.__await__().cr_frame)
---
def f():
    yield
g = f()
leak(g.gi_yieldfrom, g.__next__.__self__.gi_frame)
---
leak(eval("().__class__.__base__.__subclasses__()"))
---
leak(eval("__import__('os')", {}))
---
d = {}
exec("x = 1", d)
leak(d, d["__builtins__"])
---
d = {"__builtins__": {}}
exec("leak(open)", d)
---
leak(compile("1", "", "eval"))
---
c = compile("1", "", "eval")
leak(c.co_consts, c._source)
---
exec(compile("leak((lambda: 0).__globals__)", "", "exec"))
---
class M:
    def keys(self): return ["__builtins__", "$due"]
    def __getitem__(self, k): return {}
exec("leak(1)", dict(M()))
---
type(lambda: 0)(compile("1", "", "eval"), {})
---
leak(type((lambda: 0)).__dict__)
---
T = type(lambda: 0)
leak(T.__globals__.__get__(lambda: 0))
---
T = type(lambda: 0)
leak(vars(T))
---
leak(type.__getattribute__(type(lambda: 0), "__globals__"))
---
leak(object.__getattribute__(lambda: 0, "__globals__"))
---
class C:
    def m(self): return super().__getattribute__("__class__")
class D(C):
    def m(self): return super().__getattribute__("m")
leak(D().m().__func__.__globals__)
---
class C:
    def m(self): pass
leak(C().m.__func__.__globals__)
---
class C:
    def m(self): pass
leak(C.m.__get__(C()).__self__.__class__.__subclasses__())
---
class C: pass
leak(super(C, C()).__getattribute__("__reduce_ex__")(2))
---
leak((1).__reduce_ex__(2)[0].__globals__)
---
class C: pass
leak(C().__reduce_ex__(2)[0])
---
leak([].__class__.__mro__[1].__subclasses__())
---
leak([].__class__.mro()[1].__subclasses__())
---
leak(type([]).mro())
leak(list.mro()[-1].__subclasses__())
---
class C: pass
leak(C.__base__.__subclasses__())
---
class C: pass
leak(C.__mro__[-1].__subclasses__())
---
class C: pass
leak(C.__dict__["__dict__"].__get__(C()))
---
class C: pass
leak(C.__dict__, C.__weakref__)
---
class C: pass
C().__class__ = int
---
class C:
    def __init__(self): self.__dict__ = {"__class__": 1}
C()
---
class C:
    pass
o = C()
o.__dict__["__reduce_ex__"] = lambda p: (lambda: leak, (), (None, {"hacked": 1}))
import copy
copy.deepcopy(o)
---
import copy, json
class C:
    def __reduce_ex__(self, p): return (lambda: json.JSONDecoder, (), (None, {"hacked": 1}))
copy.deepcopy(C())
---
import copy, json
class C: pass
C.__reduce_ex__ = lambda self, p: (lambda: json.JSONDecoder, (), (None, {"hacked": 1}))
copy.copy(C())
---
import copy, json
C = type("C", (), {"__reduce_ex__": lambda self, p: (lambda: json.JSONDecoder, (), (None, {"hacked": 1}))})
copy.copy(C())
---
T = type("T", (type,), {"__reduce_ex__": lambda s, p: 1})
leak(T)
---
try:
    raise AttributeError(name="x", obj=leak)
except AttributeError as e:
    leak(e.obj)
---
try:
    leak.nope
except AttributeError as e:
    leak(e.obj)
---
import math
try:
    math.nope
except AttributeError as e:
    leak(e.obj)
---
def f(x): return x
try:
    failing()
except Exception as e:
    leak(e.__traceback__, e.__cause__, e.__context__, e.args)
    leak(e.secret, e.__dict__)
---
try:
    failing()
except Exception as e:
    leak(e.secret)
---
try:
    failing()
except Exception as e:
    leak(*e.args)
---
except_name = 1
try:
    1 / 0
except Exception as __builtins__:
    pass
---
import math as __builtins__
---
from math import pi as __build_class__
---
def f(__builtins__): pass
---
lambda __import__: 0
---
def __import__(): pass
---
class __builtins__: pass
---
global __builtins__
---
def f():
    global __builtins__
    __builtins__ = {}
f()
---
[0 for __builtins__ in [1]]
---
(__builtins__ := 1)
---
match 1:
    case __builtins__: pass
---
match [1]:
    case [*__builtins__]: pass
---
match {"a": 1}:
    case {**__builtins__}: pass
---
with leak as __builtins__: pass
---
for __builtins__ in []: pass
---
del __import__
---
def f(**kw): return kw
leak(f(**{"$due": 1}))
---
class C:
    __slots__ = ("__dict__", "_abc_$own")
leak(C().__dict__)
---
class C: pass
setattr(C, "_abc_$own", False)
---
class C: pass
leak(getattr(C, "_abc_$own"))
---
globals()["$tick"] = lambda: None
exec("leak(globals())")
---
class C:
    def __getattr__(self, n): return leak
C().gi_frame.f_back
---
def f():
    try:
        yield
    finally:
        leak(1)
g = f()
g.throw(type, None, None)
---
leak((x for x in [1]).throw)
leak(iter([1]).__reduce__())
---
leak(__build_class__)
---
leak(__name__, __doc__)
leak(__file__)
---
leak(open("/etc/passwd"))
---
leak(input())
---
import os
leak(os)
---
import sys
leak(sys)
---
import subprocess
leak(subprocess)
---
from os import system
leak(system)
---
import importlib
leak(importlib)
---
__import__("importlib")
---
import builtins
leak(builtins)
---
import ctypes
---
import pickle
---
import io
leak(io.open, io.FileIO)
---
import random.os
---
import collections.os as o
leak(o)
---
from collections import abc
leak(abc.sys)
---
import contextlib
leak(contextlib.sys, contextlib.os, contextlib._GeneratorContextManager)
---
import contextlib
@contextlib.contextmanager
def cm(): yield
c = cm()
leak(c.gen.gi_frame, c.func.__globals__)
---
import enum
leak(enum.sys, enum.bltns)
---
import enum
class E(enum.Enum):
    A = 1
leak(E.__class__.__subclasses__(E), E._member_map_.__self__)
---
import decimal
decimal.DefaultContext.prec = 3
leak(planted())
---
import copy
leak(copy._deepcopy_dispatch, copy.copyreg)
---
import json
leak(json.codecs, json.decoder.scanner.re._compiler)
---
import json.decoder
leak(json.decoder.re)
---
import heapq
leak(heapq.__spec__.loader)
---
import typing
leak(typing.sys, typing.types, typing.functools)
---
import typing
leak(typing.ForwardRef("leak(().__class__.__base__.__subclasses__())")._evaluate({}, {}, frozenset()))
---
import typing
class C(typing.NamedTuple):
    x: int
leak(C.__new__.__globals__, C._make.__func__.__globals__)
---
import collections
T = collections.namedtuple("T", "a")
leak(T._make.__func__.__globals__, T.__new__.__globals__, T._replace.__globals__)
---
import dataclasses
@dataclasses.dataclass
class C:
    x: int
leak(C.__init__.__globals__, C.__eq__.__globals__, C.__repr__.__wrapped__.__globals__)
---
import functools
@functools.lru_cache
def f(): pass
leak(f.__wrapped__.__globals__, f.cache_info.__self__)
---
import abc
leak(abc.ABC._abc_impl, abc._get_dump(abc.ABC))
---
import abc
leak(abc.ABCMeta.__new__.__globals__)
---
import abc
leak(abc.ABCMeta.register.__globals__)
---
import statistics
leak(statistics.mean.__globals__, statistics.mean.__wrapped__.__globals__)
---
import random
leak(random.random.__globals__, random.choice.__closure__, random.Random.seed.__globals__)
---
leak(getattr.__globals__, print.__code__)
---
leak(parallel.__globals__)
---
class C:
    def __eq__(self, o): leak(o); return True
    def __hash__(self): return hash("__globals__")
getattr(lambda: 0, C())
---
class I(int):
    def __gt__(self, o): return False
    def __le__(self, o): return True
x = "a" * I(10 ** 11)
---
class T:
    def __class_getitem__(cls, k): return leak
T[0].__self__
---
class C:
    @property
    def x(self): return 1
leak(C.x.fget.__globals__)
---
class C:
    def __set_name__(self, o, n): leak(o.__dict__, o.__subclasses__())
class D: c = C()
---
class M(type):
    @classmethod
    def __prepare__(m, name, bases):
        leak(m.__dict__)
        return {"__annotations__": {"x=1": 1}}
class C(metaclass=M): pass
---
def deco(f):
    leak(f.__globals__)
@deco
def g(): pass
---
def f(x=(lambda: 0).__globals__): leak(x)
f()
---
def f(x: leak((lambda: 0).__globals__)): pass
---
f"{leak((lambda: 0).__globals__)}"
---
f"{(lambda: 0).__globals__!r:>{10}}"
secret()
---
x = [leak(i.__globals__) for i in [lambda: 0]]
---
assert (lambda: 0).__globals__, leak
---
raise ValueError((lambda: 0).__globals__)
---
leak({**(lambda: 0).__globals__})
---
async def f():
    leak((lambda: 0).__globals__)
await f()
---
lambda: (yield (lambda: 0).__globals__)
---
type X[T: (lambda: 0).__globals__] = int
leak(X.__type_params__[0].__bound__)
---
def f[__builtins__](): pass
---
import traceback
leak(traceback.walk_stack)
---
import inspect
leak(inspect.currentframe())
---
import gc
leak(gc.get_objects())
---
import logging
logging.Formatter("{x.__globals__}", style="{")
---
import threading
leak(threading.sys)
---
import warnings
leak(warnings.sys, warnings.filters)
---
import weakref
leak(weakref)
---
import types
leak(types.FunctionType, types.CodeType)
leak(types.sys)
---
import code
code.InteractiveInterpreter().runsource("import os")
---
import string
leak(string._re, string._string)
---
import textwrap
leak(textwrap.re._compiler)
---
import operator
leak(operator._abs, operator.call(getattr, lambda: 0, "__globals__"))
---
import numbers
leak(numbers.ABCMeta.__subclasses__(numbers.Number))
---
import bisect
leak(bisect.__builtins__)
---
import fractions
leak(fractions.sys, fractions.re)
---
import time
leak(time.__loader__.load_module("os"))
---
class A:
    def f(self): return __class__
leak(A().f().__base__.__subclasses__())
---
def f():
    return (yield)
g = f()
next(g)
try:
    g.send(1)
except StopIteration as e:
    leak(e.__traceback__, e.value)
---
try:
    undefined_thing
except NameError as e:
    leak(e.__traceback__, e.name)
---
class E(Exception):
    def __str__(self): leak((lambda: 0).__globals__); return "x"
raise E
---
class E(BaseException):
    def with_traceback(self, tb): leak(tb); return self
raise E
---
try:
    1 / 0
except Exception as e:
    leak(e.with_traceback(None).__traceback__)
---
import asyncio
async def main():
    try:
        async with asyncio.TaskGroup() as tg:
            async def bad(): 1 / 0
            tg.create_task(bad())
    except* ZeroDivisionError as eg:
        leak(eg.exceptions[0].__traceback__.tb_frame)
asyncio.run(main())
---
def f(*a): leak(*a)
import functools
functools.singledispatch(f).registry
---
class C(str):
    def __format__(self, s): leak(s); return s
format(C(), "x")
leak(C.format("{0.__globals__}", lambda: 0)); secret()
---
class C(str): pass
C("{0.__globals__}").format(lambda: 0); secret()
---
class C(str):
    def go(self): return self.format(lambda: 0)
C("{0.__globals__}").go(); secret()
---
class C(str):
    def go(self): return super().format(lambda: 0)
C("{0.__globals__}").go(); secret()
---
class C(str):
    def go(self): return super().format_map({"f": lambda: 0})
C("{f.__globals__}").go(); secret()
---
class A:
    def peek(self): return self._target
A.peek(leak)
---
class A:
    def poke(self): self.hacked = 1
import json
A.poke(json.JSONDecoder)
---
class A:
    def peek(self): return [self._x for _ in [1]]
import random
leak(A.peek(random))
---
leak(sum.__self__.open)
---
leak([].append.__self__.__class__.__base__.__subclasses__)
---
leak(str.join.__objclass__.__base__)
---
leak((1).__class__.__class__.__subclasses__((1).__class__.__base__))
---
from __future__ import annotations
def f(x: leak((lambda: 0).__globals__)): pass
import typing
leak(typing.get_type_hints(f))
---
import collections
leak(collections.UserDict.__init__.__globals__, collections.ChainMap.__mro__)
---
import collections
collections.UserDict.hacked = 1
leak(planted())
---
import collections
collections.Counter.__init__ = None
leak(planted())
---
import datetime
leak(datetime.datetime.__reduce__, datetime.datetime.now().__reduce_ex__(2)[0].__self__)
---
import statistics
leak(statistics.NormalDist.samples.__globals__)
---
import queue
leak(queue.Queue().mutex.__class__, queue.Queue().queue, queue.Queue.__init__.__globals__)
---
import queue
leak(queue.Queue.__mro__[1].get.__globals__)
---
import itertools
leak(itertools.count.__mro__, itertools.count.__new__.__globals__)
---
leak(map.__new__.__globals__, zip.__mro__)
---
leak(exec.__globals__, eval.__closure__)
---
import typing
class F(typing.ForwardRef, _root=True):
    def m(self): return self._evaluate({}, {}, recursive_guard=frozenset())
leak(F("__import__('os')").m())
---
import typing
R = type(typing.Optional["__import__('os')"].__args__[0])
class F(R, _root=True):
    def m(self): return self._evaluate({}, {}, recursive_guard=frozenset())
leak(F("__import__('os')").m())
---
import asyncio
class P(asyncio.Future):
    def m(self): return self._future
leak(P().m(), P().m().get_loop())
---
import asyncio
class L(asyncio.Lock):
    def m(self): return self._get_loop()
leak(L().m())
---
import asyncio
class G(asyncio.TaskGroup):
    def m(self): return self._inside
async def f():
    async with G() as g:
        leak(g.m(), g.m().step)
await f()
---
import functools, statistics
class P(functools.cached_property): pass
p = P(lambda s: 1)
p.attrname = "$real"
leak(p.__get__(statistics), p.__get__(statistics).sys)
---
import functools, math
class P(functools.cached_property): pass
p = P(lambda s: 3)
p.attrname = "pi"
p.__get__(math)
if math.pi == 3: planted()
---
import functools
class T(type(leak)): pass
class P(functools.partialmethod): pass
leak(P(T._target).__get__(leak, T).func)
planted()
---
class S(str):
    def strip(self, *a): return self
    def __hash__(self): return hash("1+1")
    def __eq__(self, o): planted(); return True
eval(type(compile("1", "", "eval"))(S("41"), "eval"))
exec("1+1")
---
import string
class F(string.Formatter): pass
leak(F.__mro__[3]().get_field("0.__globals__", [lambda: 0], {})[0])
---
import string
class F(string.Formatter):
    def m(self): return super(F.__mro__[2], self).get_field("0.__globals__", [lambda: 0], {})[0]
leak(F().m())
---
import queue
class Q(queue.Queue): pass
super(Q.__mro__[1], Q()).get()
planted()
---
import queue
leak(queue.Queue().mutex)
planted()
---
import typing, json
typing.no_type_check(json.JSONDecoder)
typing.final(json.JSONDecoder)
typing.runtime_checkable(json.JSONDecoder)
---
import functools, fractions
functools.total_ordering(fractions.Fraction)
planted()
---
import typing
leak(typing.get_overloads)
planted()
---
t = type
t("C", (), {"__reduce_ex__": lambda s, p: 1})
planted()
---
t = type
t("C", (), {"__class__": property(lambda s: int)})
planted()
---
class M(type): pass
M("C", (), {"__mro_entries__": 1})
planted()
---
class M(type):
    def __new__(m, n, b, ns): return super().__new__(m, n, b, {**ns, "__reduce_ex__": 1})
class C(metaclass=M): pass
planted()
---
type.__new__(type, "C", (), {"__reduce_ex__": 1})
planted()
---
type.__call__(type, "C", (), {"__reduce_ex__": 1})
planted()
---
import operator
operator.call(type, "C", (), {"__reduce_ex__": 1})
planted()
---
[*map(type, ["C"], [()], [{"__reduce_ex__": 1}])]
planted()
---
leak(type, type.__class__, (1).__class__.__class__, type(int), type(type(1)))
---
class M(type): pass
leak(*M.__mro__[:-1], *M.mro()[:-1], *M.__bases__, M.__base__, type(M), M.__class__)
---
import typing
leak(typing.Type[int].__origin__, typing.get_origin(typing.Type[int]), type[int].__origin__)
---
import abc, enum
leak(type(abc.ABC), abc.ABC.__class__, abc.ABCMeta, type(enum.Enum), enum.EnumMeta, enum.Enum.__class__)
---
import operator, string
leak(operator.attrgetter("__class__.__class__")(1), string.Formatter().get_field("0.__class__.__class__", [1], {})[0])
---
import asyncio
class Mix:
    def m(self): return self._get_loop()
leak(type("X", (Mix, asyncio.Lock), {})().m())
---
import abc, asyncio
class Mix:
    def m(self): return self._get_loop()
leak(abc.ABCMeta("X", (Mix, asyncio.Lock), {})().m())
---
import enum, asyncio
class E(enum.Enum):
    def m(self): return self._get_loop()
leak(E("X", {"A": 1}, type=asyncio.Lock).A.m())
---
import enum, asyncio
class Meta(enum.EnumMeta): pass
class E(enum.Enum, metaclass=Meta):
    def m(self): return self._get_loop()
leak(super(enum.EnumMeta, E).__call__("X", {"A": 1}, type=asyncio.Lock).A.m())
---
import dataclasses, asyncio
class Mix:
    def m(self): return self._get_loop()
leak(dataclasses.make_dataclass("X", [], bases=(Mix, asyncio.Lock))().m())
---
import asyncio
class B:
    def __getattr__(self, k): return lambda bases: (asyncio.Lock,)
class X(B()):
    def m(self): return self._get_loop()
leak(X().m())
---
import asyncio
class Y(type(list[int])(asyncio.Lock, ())):
    def m(self): return self._get_loop()
leak(Y().m())
---
import json
class C(metaclass=lambda n, b, ns: json.JSONDecoder): pass
C.hacked = 1
---
try: failing()
except Exception as e: leak(e.__context__, e.__context__.secret)
---
class C:
    def __enter__(self): pass
    def __exit__(self, t, v, tb): leak(v.__context__, v.__cause__, v.__context__.secret)
with C(): failing()
---
import asyncio
r = await asyncio.gather(failing(), return_exceptions=True)
leak(r[0].__context__, r[0].__cause__)
---
leak(host_module())
---
import asyncio
leak(await asyncio.gather(host_module()))
---
class C(map): pass
planted()
---
C = type(iter(int, 1))
x = iter([])
for _ in range(1000): x = C(x)
planted()
---
import itertools
C = type(itertools.chain.from_iterable([]))
x = iter([])
for _ in range(1000): x = C(x)
planted()
---
import logging
leak(logging.getLogger().handlers, logging.getLogger().manager)
planted()
---
import logging
class H(logging.Handler): pass
planted()
---
import inspect
leak(inspect.getmodule(print), inspect.sys, inspect.getsource)
planted()
---
import inspect
leak(inspect.signature(leak, eval_str=True))
planted()
---
import gc
leak(gc.get_objects(), gc.garbage)
planted()
---
import traceback
leak(traceback.sys, traceback.TracebackException)
planted()
---
async def g():
    yield 1
a = g()
leak(a.ag_frame)
---
try: raise ExceptionGroup("g", [AttributeError("a", obj=leak, name="b")])
except* AttributeError as e: leak(e.exceptions[0].obj)
planted()
"""

ATTACKS = [attack.strip("\n") for attack in _TEXT.split("\n---\n")]

#: Modules that a careful user would not authorise; the attacks run with and without them.
RISKY_IMPORTS = [
    "traceback",
    "inspect",
    "gc",
    "logging",
    "threading",
    "warnings",
    "types",
    "io",
    "sys",
    "copyreg",
]

#: Escapes that were published, in the form they took for their own sandbox. By identifier.
PUBLISHED = {
    # smolagents: modules reached through authorised modules
    "CVE-2025-5120": "import random\nleak(random._os.system)",
    "CVE-2025-5120 via queue": "import queue\nleak(queue.threading._sys.modules['os'])",
    "CVE-2025-5120 via statistics": "import statistics\nleak(statistics.sys.modules['os'])",
    # smolagents: dunder attributes of functions and classes reached from allowed objects
    "CVE-2025-9959": "leak(getattr(str, '__base__').__subclasses__())",
    "CVE-2025-9959 mro": "leak([c for c in ().__class__.__mro__[1].__subclasses__() if 'Popen' in str(c)])",
    "CVE-2025-9959 via method": "class A:\n    def m(self): pass\nleak(A.m.__globals__['__builtins__'])",
    # smolagents: guards that a with statement, a deletion or an augmented assignment did not meet
    "CVE-2026-4963 with": (
        "class C:\n    def __enter__(self): return self\n    def __exit__(self, t, e, tb): leak(tb.tb_frame)\n"
        "with C():\n    1 / 0"
    ),
    "CVE-2026-4963 delete": "class C: pass\ndel C.__init__.__globals__['x']\nleak(C.__init__.__globals__)",
    "CVE-2026-4963 code": "def f(): pass\ndef g(): leak(1)\nf.__code__ = g.__code__\nsecret()",
    "CVE-2026-4963 setattr": "def f(): pass\nsetattr(f, '__code__', (lambda: 0).__code__)\nsecret()",
    "CVE-2026-4963 hasattr": "leak(hasattr(leak, '__globals__'), getattr(leak, '__globals__'))",
    "CVE-2026-4963 augmented code": "def f(): pass\nclass R:\n    def __radd__(s, o): leak(o)\nf.__code__ += R()",
    "CVE-2026-4963 augmented": "def f(): pass\nf.__globals__ |= {'x': 1}\nleak(f.__globals__)",
    # RestrictedPython: generator frames
    "CVE-2023-37271": (
        "def g():\n    yield x.gi_frame.f_back.f_back.f_globals\nx = g()\nleak([r for r in x][0])"
    ),
    "CVE-2023-37271 expression": "q = (q.gi_frame.f_back.f_back for _ in [1])\nleak([*q][0])",
    # RestrictedPython: str.format and format_map
    "CVE-2023-41039": "leak('{0.gi_frame.f_back}'.format(x for x in [1])); secret()",
    "CVE-2023-41039 map": "'{g.gi_frame}'.format_map({'g': (x for x in [1])}); secret()",
    "CVE-2023-41039 unbound": "str.format('{0.gi_frame}', (x for x in [1])); secret()",
    # RestrictedPython: AttributeError.obj and string.Formatter
    "CVE-2024-47532": "import string\ntry:\n    string.Formatter().get_field('a._os.x', [], {'a': string})\nexcept AttributeError as e:\n    leak(e.obj)",
    "CVE-2024-47532 match": "import random\ntry:\n    random.nope\nexcept AttributeError as e:\n    match e:\n        case AttributeError(obj=o): leak(o)",
    # RestrictedPython: try/except* groups
    "CVE-2025-22153": "try:\n    raise ExceptionGroup('', [ValueError()])\nexcept* ValueError as eg:\n    leak(eg.__traceback__.tb_frame)",
    "CVE-2025-22153 derive": "class E(ExceptionGroup):\n    def derive(self, excs): leak(excs[0].__traceback__); return E('', excs)\ntry:\n    raise E('', [ValueError()])\nexcept* ValueError as eg:\n    leak(eg)",
    "CVE-2025-22153 split": (
        "class E(ExceptionGroup):\n    def split(self, t): return (leak, leak, leak)\n"
        "try:\n    raise E('', [ValueError()])\nexcept* ValueError as eg:\n    leak(eg)\n    secret()"
    ),
    "CVE-2025-22153 split not a tuple": (
        "class E(ExceptionGroup):\n    def split(self, t): return 'ab'\n"
        "try:\n    raise E('', [ValueError()])\nexcept* ValueError as eg:\n    secret()"
    ),
    "CVE-2025-22153 split of an object": (
        "class E(ExceptionGroup):\n    def arm(self): self.split = lambda t: 1; return self\n"
        "try:\n    raise E('', [ValueError()]).arm()\nexcept* ValueError as eg:\n    secret()"
    ),
    # RestrictedPython: string.Formatter again, by way of its parts
    "CVE-2026-76825": "import string\nleak(string.Formatter().get_field('f.__globals__', (), {'f': leak})[0])",
    "CVE-2026-76825 vformat": "import string\nstring.Formatter().vformat('{0.__globals__}', [lambda: 0], {}); secret()",
    # n8n: string formatting and exceptions against an attribute deny list
    "CVE-2026-0863": "try:\n    '{0.__class__.__base__.nope}'.format(1)\nexcept AttributeError as e:\n    leak(e.obj.__subclasses__())",
    "CVE-2026-0863 match": "try:\n    '{0.__class__.__base__.nope}'.format(1)\nexcept Exception as e:\n    match e:\n        case AttributeError(obj=o): leak(o)",
    # The usual suspects of sandbox challenges
    "license": "leak(license._Printer__setup.__globals__)",
    "help": "leak(help.__class__.__call__.__globals__)",
    "breakpoint": "breakpoint()",
    "audit hook": "import sys\nsys.addaudithook(leak)",
    "settrace": "import sys\nsys.settrace(lambda *a: leak(*a))",
    "setprofile": "import threading\nthreading.setprofile(lambda *a: leak(*a))",
    "unraisable": "import sys\nsys.unraisablehook = leak",
    "warnings filter": "import warnings\nleak(warnings._getaction.__globals__)",
    "decorator chain": "@leak\n@getattr\nclass x: pass",
    "class keyword": "class C(metaclass=lambda *a: leak(a)): pass",
    "import hook": "class C:\n    def find_spec(self, *a): leak(a)\nimport sys\nsys.meta_path.append(C())",
    "async generator hooks": "import sys\nsys.set_asyncgen_hooks(leak)",
    "type alias": "type('X', (object,), {'__init_subclass__': leak})",
    "bytes of code": "leak(compile('1', '', 'eval').replace)",
    "walrus target": "[__builtins__ := {} for _ in [1]]",
    "star import": "from random import *\nleak(_os)",
    "dotted alias": "import collections.abc as c\nleak(c.sys)",
    "weak reference": "import weakref\nleak(weakref.getweakrefs)",
    "pickle": "import pickle\npickle.loads(b'cos\\nsystem\\n')",
    "ctypes": "import ctypes\nleak(ctypes.pythonapi)",
    "numpy pickle": "import numpy as np\nnp.load('x', allow_pickle=True)",
}
