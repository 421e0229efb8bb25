"""Programs that must behave as in CPython: value, prints and exception. Separated by lines of dashes."""

# ruff: noqa: E501 - programs stand here as the executor gets them
from __future__ import annotations

_TEXT = r'''
def f(*args, **kw):
    return args, sorted(kw.items())
f(1, 2, *[3], a=1, **{"b": 2})
---
a = [1, 2]; b = [3]
[*a, *b, *range(2)]
---
for i in range(3):
    pass
else:
    print("else ran")
i
---
while True:
    break
else:
    print("no")
"done"
---
def f():
    for i in range(5):
        try:
            if i == 1:
                continue
            if i == 3:
                break
            print(i)
        finally:
            print("fin", i)
    return i
f()
---
def f():
    try:
        return 1
    finally:
        print("cleanup")
f()
---
def f():
    try:
        return 1
    finally:
        return 2
f()
---
def deco(fn):
    def inner(*a):
        return fn(*a) + 1
    return inner
@deco
def g(x):
    return x * 2
g(4)
---
class P:
    def __init__(self, x):
        self._x = x
    @property
    def x(self):
        return self._x
    @x.setter
    def x(self, v):
        self._x = v * 2
    @x.deleter
    def x(self):
        print("deleted")
p = P(3)
p.x = 5
v = p.x
del p.x
v
---
def f(a, b): return a + b
f(1)
---
def f(): pass
f()
---
x = "é"
f"{x!r} {x!a} {x:>5} {3.14159:.2f} {10:#x} {1e6:,.1f} {x=}"
---
print("a", "b", sep="-", end="!\n")
print(1, 2, sep="")
print()
print("x", end="")
---
[a, b] = [1, 2]
(c, (d, *e)) = (1, (2, 3, 4))
a, b, c, d, e
---
mispelt
---
zzz += 1
---
class A:
    def method(self): return 1
try:
    method
except NameError as e:
    print(e)
---
if (n := 5) > 3:
    print(n)
[y := 1, y ** 2]
---
def f(x):
    match x:
        case 0: return "zero"
        case int(n) if n < 0: return f"neg {n}"
        case [a, *rest]: return f"list {a} {rest}"
        case {"k": v, **kw}: return f"dict {v} {kw}"
        case str() as s: return "str " + s
        case None | True: return "nt"
        case _: return "other"
[f(v) for v in (0, -2, [1, 2, 3], {"k": 1, "z": 2}, "q", None, 3.5)]
---
class Point:
    __match_args__ = ("x", "y")
    def __init__(self, x, y): self.x, self.y = x, y
def where(p):
    match p:
        case Point(0, 0): return "origin"
        case Point(x=0, y=y): return f"y={y}"
        case Point(x, y): return f"{x},{y}"
[where(Point(0, 0)), where(Point(0, 2)), where(Point(3, 4))]
---
def gen(n):
    for i in range(n):
        got = yield i
        if got: print("got", got)
    return "ret"
g = gen(3)
print(next(g), g.send("hello"), list(g))
def outer():
    r = yield from gen(2)
    print(r)
list(outer())
---
def counter():
    n = 0
    def inc():
        nonlocal n
        n += 1
        return n
    return inc
c = counter()
c(); c()
---
total = 0
def add(k):
    global total
    total += k
add(3); add(4)
total
---
fs = [lambda x, k=k: x * k for k in range(3)]
[f(10) for f in fs]
---
def f(a, /, b, *, c=3): return a, b, c
print(f(1, 2), f(1, b=2, c=4))
f(a=1, b=2)
---
d = {"a": 1}
{**d, "b": 2, **{"c": 3}}
---
first, *middle, last = range(5)
first, middle, last
---
[[i * j for j in range(3)] for i in range(3)]
---
list((i, j) for i in range(2) for j in "ab" if i or j == "b")
---
try:
    try:
        1 / 0
    except ZeroDivisionError:
        raise
except ZeroDivisionError as e:
    print("re", e)
---
try:
    raise ValueError("v") from KeyError("k")
except ValueError as e:
    print(type(e.__cause__).__name__, e.__suppress_context__)
---
import collections.abc
isinstance([], collections.abc.Sequence)
---
class CM:
    def __init__(self, n): self.n = n
    def __enter__(self):
        print("in", self.n); return (self.n, self.n + 1)
    def __exit__(self, t, v, tb):
        print("out", self.n, t.__name__ if t else None)
        return self.n == 1
with CM(1) as (a, b), CM(2) as c:
    print(a, b, c)
    raise ValueError("x")
print("after")
---
class M:
    def __init__(self, v): self.v = v
    def __matmul__(self, o): return M(self.v * o.v)
    def __imatmul__(self, o):
        self.v += o.v
        return self
    def __repr__(self): return f"M({self.v})"
m = M(2) @ M(3)
m @= M(1)
m
---
b = bytes([65, 66]); ba = bytearray(b"xy"); ba[0] = 90
b, ba, b.decode(), memoryview if False else 0
---
try:
    undefined
except NameError:
    print("caught")
---
import asyncio
async def f(x):
    await asyncio.sleep(0)
    return x * 2
async def main():
    print(await f(1))
    return await asyncio.gather(*[f(i) for i in range(3)])
asyncio.run(main())
---
import asyncio
async def agen():
    for i in range(3):
        await asyncio.sleep(0)
        yield i
class ACM:
    async def __aenter__(self): print("enter"); return 7
    async def __aexit__(self, *a): print("exit"); return False
async def main():
    out = [x async for x in agen()]
    async with ACM() as v:
        out.append(v)
    async for x in agen():
        out.append(x)
    return out
asyncio.run(main())
---
import asyncio
async def worker(name, q, out):
    while True:
        item = await q.get()
        out.append((name, item))
        q.task_done()
async def main():
    q = asyncio.Queue(); out = []
    for i in range(4): q.put_nowait(i)
    ts = [asyncio.create_task(worker(n, q, out)) for n in "ab"]
    await q.join()
    for t in ts: t.cancel()
    r = await asyncio.gather(*ts, return_exceptions=True)
    return sorted(i for _, i in out), [type(x).__name__ for x in r]
asyncio.run(main())
---
import asyncio
async def slow(): await asyncio.sleep(5)
async def main():
    try:
        await asyncio.wait_for(slow(), 0.01)
    except asyncio.TimeoutError:
        print("timeout")
    try:
        async with asyncio.timeout(0.01):
            await slow()
    except TimeoutError:
        print("timeout 2")
asyncio.run(main())
---
import asyncio
async def bad(): raise ValueError("bad")
async def main():
    try:
        async with asyncio.TaskGroup() as tg:
            tg.create_task(bad())
            tg.create_task(asyncio.sleep(5))
    except* ValueError as eg:
        print(len(eg.exceptions), eg.exceptions[0])
asyncio.run(main())
---
import asyncio
lock = asyncio.Lock(); ev = asyncio.Event(); log = []
async def a():
    async with lock:
        log.append("a1"); await asyncio.sleep(0.001); log.append("a2")
    ev.set()
async def b():
    await ev.wait()
    async with lock: log.append("b")
async def main(): await asyncio.gather(b(), a())
asyncio.run(main())
log
---
x = [1, 2, 3]
del x[0]
y = 5
del y
x, "y" in globals()
---
assert 1 + 1 == 2, "fine"
assert 1 == 2, "broken"
---
try:
    assert False
except AssertionError as e:
    print(repr(e))
---
eval("1 + 2"), eval("a + 1", {"a": 4})
---
exec("q = 5\nprint(q)")
q
---
def f():
    z = 3
    return eval("z + 1")
f()
---
code = compile("40 + 2", "<s>", "eval")
eval(code)
---
from dataclasses import dataclass, field, asdict, replace
@dataclass(order=True)
class Item:
    name: str
    price: float = 1.0
    tags: list = field(default_factory=list)
    def total(self, n: int = 2) -> float:
        return self.price * n
i = Item("a", 2.5)
print(i, i == Item("a", 2.5), i < Item("b"), i.total())
asdict(replace(i, name="z"))
---
from dataclasses import dataclass
@dataclass(frozen=True)
class F:
    x: int
f = F(1)
try:
    f.x = 2
except Exception as e:
    print(type(e).__name__, e)
hash(f) == hash(F(1))
---
from enum import Enum, auto, IntEnum, Flag
class Color(Enum):
    RED = auto()
    GREEN = auto()
    def nice(self): return self.name.title()
class N(IntEnum):
    ONE = 1
print(Color.RED, Color.RED.nice(), Color["GREEN"].value, list(Color), N.ONE + 1, Color(1) is Color.RED)
---
from typing import NamedTuple, Optional, List, Dict, Union, Any
class P(NamedTuple):
    x: int
    y: int = 2
    def s(self): return self.x + self.y
p = P(1)
print(p, p.s(), p._asdict(), p._replace(x=5), P._fields)
def f(a: Optional[int] = None, *b: List[int], c: Union[int, str] = 1) -> Dict[str, Any]: return {"a": a}
f(3)
---
from collections import namedtuple, defaultdict, Counter, deque, OrderedDict, ChainMap
T = namedtuple("T", "a b c", defaults=[9])
t = T(1, 2)
d = defaultdict(list); d["k"].append(1)
dq = deque([1, 2, 3], maxlen=2); dq.appendleft(0)
print(t, t.c, dict(d), Counter("hello").most_common(2), dq, OrderedDict(a=1), ChainMap({"a": 1})["a"])
---
import itertools
print(list(itertools.chain([1], [2, 3])), list(itertools.islice(itertools.count(5, 2), 3)),
      list(itertools.product("ab", repeat=2)), list(itertools.permutations([1, 2, 3], 2))[:3],
      [(k, list(g)) for k, g in itertools.groupby("aabbb")], list(itertools.accumulate([1, 2, 3])),
      list(itertools.zip_longest([1], [2, 3])), list(itertools.chain.from_iterable(["ab", "c"])))
next(itertools.cycle("xy"))
---
from functools import reduce, partial, lru_cache, wraps, cached_property, singledispatch, total_ordering, cmp_to_key
@lru_cache(maxsize=None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def deco(f):
    @wraps(f)
    def w(*a, **k):
        "wrapped"
        return f(*a, **k)
    return w
@deco
def g(x):
    "doc of g"
    return x
@singledispatch
def kind(x): return "other"
@kind.register(int)
def _(x): return "int"
@kind.register
def _(x: str): return "str"
class C:
    @cached_property
    def v(self):
        print("computed"); return 1
c = C(); c.v; c.v
print(fib(50), g.__name__, g.__doc__, kind(1), kind("a"), kind([]), reduce(lambda a, b: a * b, [1, 2, 3, 4]), partial(pow, 2)(5))
sorted([3, 1, 2], key=cmp_to_key(lambda a, b: b - a))
---
class Base:
    registry = []
    def __init_subclass__(cls, **kw):
        super().__init_subclass__(**kw)
        Base.registry.append(cls.__name__)
    def hello(self): return "base"
class A(Base):
    def hello(self): return "A>" + super().hello()
class B(Base):
    def hello(self): return "B>" + super().hello()
class C(A, B): pass
print(Base.registry, C().hello(), [k.__name__ for k in C.__mro__], C.__name__, C().__class__.__name__)
---
class Meta(type):
    def __new__(m, name, bases, ns, **kw):
        cls = super().__new__(m, name, bases, ns)
        cls.tag = name.lower()
        return cls
    def __call__(cls, *a):
        print("making", cls.__name__)
        return super().__call__(*a)
class K(metaclass=Meta):
    def __init__(self, v): self.v = v
K(3).v, K.tag, type(K).__name__, isinstance(K, type)
---
class V:
    __slots__ = ("a", "b")
    def __init__(self): self.a = 1
v = V()
try:
    v.c = 3
except AttributeError as e:
    print("no c")
v.a
---
class Vec:
    def __init__(self, *c): self.c = c
    def __add__(self, o): return Vec(*[a + b for a, b in zip(self.c, o.c)])
    def __radd__(self, o): return self
    def __mul__(self, k): return Vec(*[a * k for a in self.c])
    __rmul__ = __mul__
    def __eq__(self, o): return self.c == o.c
    def __hash__(self): return hash(self.c)
    def __len__(self): return len(self.c)
    def __getitem__(self, i): return self.c[i]
    def __iter__(self): return iter(self.c)
    def __contains__(self, x): return x in self.c
    def __bool__(self): return any(self.c)
    def __neg__(self): return Vec(*[-a for a in self.c])
    def __repr__(self): return "Vec" + repr(self.c)
    def __call__(self, x): return x
    def __lt__(self, o): return self.c < o.c
    def __format__(self, spec): return "F" + spec
    def __abs__(self): return 9
    def __int__(self): return 7
    def __index__(self): return 1
    def __divmod__(self, o): return 1, 2
    def __pow__(self, o): return "pow"
    def __lshift__(self, o): return "shift"
a, b = Vec(1, 2), Vec(3, 4)
print(a + b, sum([a, b]), 3 * a, a * 2, a == Vec(1, 2), len(a), a[1], list(a), 2 in a, bool(Vec(0)), -a, a(5),
      sorted([b, a]), f"{a:x}", abs(a), int(a), [10, 20][a], divmod(a, 1), a ** 9, a << 99999999, {a: 1}[Vec(1, 2)])
---
class D:
    def __getattr__(self, n): return "dyn " + n
    def __setattr__(self, n, v):
        print("set", n)
        object.__setattr__(self, n, v)
    def __delattr__(self, n):
        print("del", n)
        super().__delattr__(n)
d = D(); d.x = 1; del d.x
d.foo, getattr(d, "bar"), hasattr(d, "q")
---
class Desc:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, obj, owner=None):
        return self if obj is None else obj.__dict__.get(self.name, 0)
    def __set__(self, obj, v): obj.__dict__[self.name] = v + 1
class H:
    a = Desc()
h = H(); h.a = 4
h.a, h.__dict__, vars(h)
---
class S:
    count = 0
    @classmethod
    def make(cls): cls.count += 1; return cls()
    @staticmethod
    def st(a): return a * 2
S.make(); S.make()
S.count, S.st(3)
---
class T:
    def __init__(self): self.__secret = 1
    def get(self): return self.__secret
t = T()
t.get(), t._T__secret
---
class G:
    def __getattribute__(self, name):
        if name == "magic": return 42
        return super().__getattribute__(name)
    def __init__(self): self._v = 3
    def v(self): return self._v
g = G()
g.magic, g.v()
---
class Sing:
    _inst = None
    def __new__(cls, *a):
        if cls._inst is None:
            cls._inst = super().__new__(cls)
        return cls._inst
Sing() is Sing()
---
class L(list):
    def total(self): return sum(self)
class DD(dict):
    def __missing__(self, k): return k * 2
class E(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code
print(L([1, 2]).total(), DD()["ab"])
try:
    raise E(5)
except E as e:
    print(e, e.code, e.args, type(e).__name__)
---
try:
    raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
except* ValueError as eg:
    print("v", eg.exceptions)
except* TypeError as eg:
    print("t", eg.exceptions)
---
def f():
    try:
        yield 1
        yield 2
    except GeneratorExit:
        print("closing")
        raise
    finally:
        print("fin")
g = f(); next(g); g.close()
---
def f():
    while True:
        try:
            x = yield
            print("x", x)
        except ValueError:
            print("ve")
g = f(); next(g); g.send(1); g.throw(ValueError)
---
try:
    raise KeyError("k")
except (KeyError, ValueError) as e:
    print(repr(e), str(e))
else:
    print("else")
finally:
    print("finally")
---
try:
    int("x")
except ValueError as e:
    print(e)
else:
    print("no")
try:
    pass
except Exception:
    pass
else:
    print("else")
---
"{:>5}|{:<5}|{:^5}|{:05d}|{!r}|{a[0]}|{b.real}".format(1, 2, 3, 4, "x", a=[7], b=3)
---
"%s %d %5.2f %r %x" % ("a", 3, 2.5, "q", 255)
---
"{x}-{y}".format_map({"x": 1, "y": 2}), "{0:{1}}".format(3, 5)
---
import math, statistics
print(math.pi, math.sqrt(16), math.factorial(5), math.gcd(12, 18), math.comb(5, 2), statistics.mean([1, 2, 3]), math.prod([2, 3]))
---
import re
m = re.match(r"(\w+)@(\w+)\.com", "joe@mail.com")
print(m.groups(), re.sub(r"\d+", lambda k: str(int(k.group()) * 2), "a1b22"), re.findall(r"[a-z]+", "ab 12 cd"), re.compile("x").pattern)
---
import datetime, time
d = datetime.date(2024, 2, 28) + datetime.timedelta(days=2)
print(d, d.strftime("%Y/%m"), datetime.datetime(2020, 1, 1).isoformat())
---
import json
print(json.dumps({"a": [1, None, True]}, indent=1), json.loads('{"x": 1.5}'))
try:
    json.loads("{")
except json.JSONDecodeError as e:
    print(e)
---
import random
random.seed(5)
a = random.random(); random.seed(5)
r = random.Random(3)
a == random.random(), r.randint(1, 10), random.choice([4])
---
from decimal import Decimal, getcontext
from fractions import Fraction
print(Decimal("0.1") + Decimal("0.2"), Fraction(1, 3) + Fraction(1, 6))
---
import string, textwrap, operator, copy, heapq, bisect
print(string.ascii_lowercase[:3], textwrap.fill("a b c d", 3), operator.itemgetter(1)([1, 2]), operator.attrgetter("real")(3), copy.deepcopy({"a": [1]}), heapq.nsmallest(2, [3, 1, 2]), bisect.bisect([1, 3], 2), operator.methodcaller("upper")("x"))
string.Formatter().format("{0} {a:>4}", 1, a=2)
---
from contextlib import contextmanager, suppress, ExitStack
@contextmanager
def cm(x):
    print("in"); 
    try:
        yield x
    finally:
        print("out")
with cm(3) as v, suppress(ZeroDivisionError):
    print(v); 1 / 0
with ExitStack() as st:
    st.enter_context(cm(1))
    st.callback(print, "cb")
---
import queue
q = queue.Queue(); q.put(1); q.put(2)
q.get(), q.qsize(), q.empty()
---
print(type(1).__name__, type([]) is list, isinstance(True, int), issubclass(bool, int), callable(len), id(1) == id(1), type(int) is type)
---
print(*map(lambda x: x + 1, [1, 2]), *filter(None, [0, 1]), *zip("ab", [1, 2]), *enumerate("x", 1), *reversed([1, 2]))
isinstance(map(str, []), map), next(iter([5])), list(iter(iter([1, 2]).__next__, 2))
---
print(sorted("bca", reverse=True), min(3, 1), max([1, 5], key=lambda x: -x), sum([1, 2], 10), any([0, 1]), all([]), abs(-2), round(2.567, 1), divmod(7, 2), pow(2, 10), pow(3, 4, 5), hex(255), bin(5), oct(8), chr(97), ord("a"), list(range(5, 0, -2)), slice(1, 2), hash("a") == hash("a"), repr("q"), ascii("é"), format(3.14159, ".2f"), bool(""), complex(1, 2), frozenset([1]))
---
2 ** 10, 2 ** 0.5, (-8) ** 3, 1 << 5, 7 // 2, -7 % 3, 7 / 2, ~5, 5 & 3, 5 | 3, 5 ^ 3, 1 < 2 < 3, not True, None is None
---
x = 2
x **= 5
x <<= 2
x *= 3
s = "ab"
s *= 3
l = [0] * 3
l *= 2
x, s, l, "-" * 10, [None] * 2, 3 * "x"
---
d = {"k": 2}
d["k"] **= 3
d["k"] <<= 1
class O: v = 3
o = O(); o.v **= 2; o.v *= 2
d, o.v
---
{k: v for k, v in zip("abc", range(3)) if v}, {x % 2 for x in range(4)}
---
x = 10
y = [x for x in range(3)]
x, y
---
def f(n):
    return f(n - 1) if n else "bottom"
f(500)
---
def f(): return f()
try:
    f()
except RecursionError as e:
    print("recursion")
---
[1, 2, 3][10]
---
{"a": 1}["b"]
---
int("abc")
---
None.foo
---
"a" + 1
---
raise ValueError("mine")
---
class MyErr(Exception): pass
raise MyErr("own")
---
def outer():
    def inner():
        return [][1]
    return inner()
outer()
---
for i in range(3):
    for j in range(3):
        if j == 1: break
    else:
        print("never")
    print(i, j)
---
global_var = 1
def f():
    print(global_var)
    local = 2
    return sorted(locals())
f()
---
a = b = c = []
a.append(1)
b, a is c
---
x = 5 if False else 6
(lambda *a, k=2, **kw: (a, k, kw))(1, 2, z=3), x
---
def f(a, b=[]):
    b.append(a)
    return b
f(1); f(2)
---
def f(x): f.calls = getattr(f, "calls", 0) + 1; return f.calls
f(1); f(1)
f.__name__, f.calls
---
def annotated(x: int, y: "str" = "a") -> list[int]: return [x]
annotated.__annotations__["x"], annotated.__defaults__, annotated(1)
---
x: int = 5
y: "forward"
x
---
from __future__ import annotations
def f(x: NotDefined) -> Nope: return x
f(3)
---
import math as m, itertools as it
from math import sqrt as s, pi
m.floor(2.5), s(4), round(pi, 2)
---
from math import *
floor(3.7), sin(0)
---
"abc".upper().center(9, "*"), "x,y".split(","), "a-b".partition("-"), " x ".strip(), "abc"[::-1], "abc".find("c"), "7".zfill(3), "x".ljust(3) + "|"
---
1_000_000, 0xff, 0b11, 1e3, 1j * 1j, "a" "b", b"x" + b"y", r"\n", """multi
line"""
---
lst = [3, 1, 2]
lst.sort(key=lambda v: -v); lst.insert(0, 9); lst.extend([7, 8]); lst.remove(1); p = lst.pop(); lst.reverse()
lst, p, lst[1:3], lst[-1]
---
m = [[1, 2], [3, 4]]
list(zip(*m)), [r[0] for r in m], sum(map(sum, m))
---
import asyncio
async def f(): return 3
x = await f()
x + 1
---
import asyncio
async def agen():
    for i in range(2): yield i
out = []
async for v in agen(): out.append(v)
out
---
class It:
    def __init__(self): self.i = 0
    def __iter__(self): return self
    def __next__(self):
        self.i += 1
        if self.i > 3: raise StopIteration
        return self.i
list(It()), [x for x in It()], sum(It())
---
class Stack:
    def __init__(self): self._items = []
    def push(self, x): self._items.append(x)
    def pop(self): return self._items.pop()
    @property
    def size(self): return len(self._items)
    def __len__(self): return len(self._items)
s = Stack(); s.push(1); s.push(2); s._items.append(3)
s.pop(), s.size, len(s), s._items
---
class Node:
    def __init__(self, obj, f_value): self.obj = obj; self.f_value = f_value; self.gi_frame = 1; self.format = "fmt"; self.register = []
n = Node(1, 2)
n.obj += 1
n.obj, n.f_value, n.gi_frame, n.format, n.register
---
from abc import ABC, abstractmethod
class Shape(ABC):
    @abstractmethod
    def area(self): ...
    @property
    @abstractmethod
    def name(self): ...
class Sq(Shape):
    name = "sq"
    def __init__(self, s): self.s = s
    def area(self): return self.s ** 2
try:
    Shape()
except TypeError as e:
    print("abstract")
Sq(3).area()
---
def kw(**k): return k
kw(**{"a b": 1}), kw(x=1, **{"y": 2})
---
def f():
    x = 1
    class C:
        y = x
        z = [i for i in range(3)]
        def m(self): return x
    return C.y, C().m(), C.z
f()
---
import io
s = io.StringIO()
print("hello", file=s)
s.getvalue()
---
n = 0
while n < 10:
    n += 1
    if n % 2: continue
    if n > 6: break
n
---
print([i for i in range(10) if i % 2 if i > 3], [(a, b) for a in range(3) for b in range(a)])
---
def dfs(g, s, seen=None):
    seen = seen or set()
    seen.add(s)
    for t in g[s]:
        if t not in seen: dfs(g, t, seen)
    return seen
sorted(dfs({1: [2, 3], 2: [4], 3: [], 4: [1]}, 1))
---
try:
    raise SystemExit(3)
except BaseException as e:
    print(type(e).__name__, e.code)
---
x = type("Dyn", (), {"a": 1, "hi": lambda self: self.a})
x().hi(), x.__name__
---
class A:
    x = 1
a = A()
setattr(a, "y", 2); setattr(A, "z", 3)
delattr(a, "y")
getattr(a, "z"), getattr(a, "nope", "dflt"), hasattr(a, "y"), [n for n in dir(a) if not n.startswith("__")]
---
print("%(a)s and %(b)03d" % {"a": 1, "b": 2}, "{:,}".format(1234567), f"{'nested ' + f'{1+1}'}", f"{3:{5}}", f"{2.5:.{1}f}")
---
print("a\tb\\n", 'it''s', "\u00e9", len("日本"))
---
try:
    eval("1 +")
except SyntaxError as e:
    print("syntax")
---
import unicodedata, stat
unicodedata.name("a"), stat.S_ISDIR(0o040000)
---
def gen():
    yield from (i * i for i in range(4))
a, b, *c = gen()
a, b, c, dict(enumerate(gen()))
---
x = 1
def f():
    print(x)
    x = 2
f()
---
def f(): yield 1
f()[0]
---
class A: pass
A().nope
---
len(5)
---
(1).foo = 3
---
[].append(1, 2)
---
class C:
    def __repr__(self): return "C!"
    def __str__(self): return "c"
print(C(), [C()], f"{C()} {C()!r}", str(C()))
---
a = [1, 2, 3]
a[0], a[-1] = a[-1], a[0]
a[1:2] = [8, 9]
a += (5,)
a
---
import copy
class N:
    def __init__(self, v): self.v = v
n = N([1]); m = copy.deepcopy(n); m.v.append(2)
n.v, m.v, copy.copy(n).v is n.v
---
class Ctx:
    def __enter__(self): return self
    def __exit__(self, t, v, tb): return isinstance(v, KeyError)
with Ctx():
    raise KeyError(1)
print("swallowed")
with Ctx() as c:
    raise ValueError("not swallowed")
---
print(not [], 1 and 2, 0 or "x", [] is None)
print(1 if [] else 2, bool([0]), 3 in {3: 1}, "b" not in "abc")
---
def compose(*fs):
    def run(x):
        for f in reversed(fs): x = f(x)
        return x
    return run
compose(str, lambda x: x + 1, abs)(-4)
---
def primes(n):
    sieve = [True] * (n + 1); sieve[:2] = [False, False]
    for i in range(2, int(n ** 0.5) + 1):
        if sieve[i]:
            sieve[i * i::i] = [False] * len(sieve[i * i::i])
    return [i for i, p in enumerate(sieve) if p]
primes(30)
---
type(NotImplemented).__name__, Ellipsis, ..., __name__
---
sum(x for x in range(101)), max((v, k) for k, v in {"a": 1, "b": 3}.items())
---
for x, (y, z) in [(1, (2, 3)), (4, (5, 6))]:
    print(x + y + z)
for d["k"] in range(3) if (d := {}) is not None else []: pass
d
---
import types
ns = types.SimpleNamespace(a=1); ns.b = 2
ns.a + ns.b
---
a = 1
def f(a=a):
    def g(): return a
    a += 1
    return g()
f(), a
---
try:
    x = 1
    raise RuntimeError("a")
except RuntimeError:
    try:
        raise ValueError("b")
    except ValueError as e:
        print(repr(e.__context__))
---
class C:
    def __del__(self): print("bye")
c = C()
del c
print("end")
---
class W(str):
    def shout(self): return self.upper() + "!"
W("a").shout(), W("x") + "y", isinstance(W(), str)
'''

#: Modules that the programs use beside the base modules.
IMPORTS = ["io", "types"]

PROGRAMS = [program.strip("\n") for program in _TEXT.split("\n---\n")]
