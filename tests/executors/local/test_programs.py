"""Whole programs of the kinds that agents write: each defines a function and checks it."""

# ruff: noqa: E501 - programs stand here as the executor gets them
from __future__ import annotations

import pytest

from manyhands.executors.local import LocalPythonExecutor

_TEXT = r'''
def close_pair(numbers, threshold):
    return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[i + 1:])
assert close_pair([1.0, 2.8, 3.0, 4.0], 0.3) and not close_pair([1.0, 2.0, 3.0], 0.5)
---
def groups(text):
    out, depth, cur = [], 0, []
    for ch in text.replace(" ", ""):
        depth += {"(": 1, ")": -1}[ch]
        cur.append(ch)
        if depth == 0:
            out.append("".join(cur)); cur = []
    return out
assert groups("( ) (( )) (( )( ))") == ["()", "(())", "(()())"]
---
def is_balanced(s, pairs={")": "(", "]": "[", "}": "{"}):
    stack = []
    for c in s:
        if c in pairs.values(): stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]): return False
    return not stack
assert is_balanced("{[()]}") and not is_balanced("{[(])}")
---
def collatz(n):
    steps = [n]
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps.append(n)
    return steps
assert len(collatz(27)) == 112
---
from collections import Counter
def anagrams(words):
    seen = {}
    for w in words: seen.setdefault(tuple(sorted(Counter(w).items())), []).append(w)
    return sorted(map(sorted, seen.values()))
assert anagrams(["eat", "tea", "tan", "ate", "nat"]) == [["ate", "eat", "tea"], ["nat", "tan"]]
---
def lcs(a, b):
    table = [[""] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = table[i-1][j-1] + x if x == y else max(table[i-1][j], table[i][j-1], key=len)
    return table[-1][-1]
assert lcs("ABCBDAB", "BDCABA") in ("BCBA", "BDAB", "BCAB")
---
import heapq
def dijkstra(graph, start):
    dist, heap = {start: 0}, [(0, start)]
    while heap:
        d, node = heapq.heappop(heap)
        if d > dist[node]: continue
        for nxt, w in graph.get(node, {}).items():
            if (nd := d + w) < dist.get(nxt, float("inf")):
                dist[nxt] = nd
                heapq.heappush(heap, (nd, nxt))
    return dist
assert dijkstra({"a": {"b": 7, "c": 3}, "c": {"b": 1, "d": 8}, "b": {"d": 2}}, "a") == {"a": 0, "b": 4, "c": 3, "d": 6}
---
def permutations(xs):
    if not xs: yield []
    for i, x in enumerate(xs):
        for rest in permutations(xs[:i] + xs[i + 1:]):
            yield [x, *rest]
assert len(list(permutations([1, 2, 3, 4]))) == 24
---
def n_queens(n):
    def place(row, cols, d1, d2):
        if row == n: return 1
        return sum(place(row + 1, cols | {c}, d1 | {row - c}, d2 | {row + c})
                   for c in range(n) if c not in cols and row - c not in d1 and row + c not in d2)
    return place(0, frozenset(), frozenset(), frozenset())
assert n_queens(6) == 4
---
from functools import lru_cache
@lru_cache(maxsize=None)
def ways(amount, coins=(1, 5, 10, 25)):
    if amount == 0: return 1
    if amount < 0 or not coins: return 0
    return ways(amount - coins[-1], coins) + ways(amount, coins[:-1])
assert ways(100) == 242
---
def roman(n):
    out = ""
    for value, sign in [(1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")]:
        count, n = divmod(n, value)
        out += sign * count
    return out
assert roman(1994) == "MCMXCIV"
---
def matmul(a, b):
    return [[sum(x * y for x, y in zip(row, col)) for col in zip(*b)] for row in a]
def matpow(m, k):
    result = [[int(i == j) for j in range(len(m))] for i in range(len(m))]
    while k:
        if k & 1: result = matmul(result, m)
        m = matmul(m, m); k >>= 1
    return result
assert matpow([[1, 1], [1, 0]], 90)[0][1] == 2880067194370816120
---
class Matrix:
    def __init__(self, rows): self.rows = [list(r) for r in rows]
    def __matmul__(self, other): return Matrix([[sum(a * b for a, b in zip(r, c)) for c in zip(*other.rows)] for r in self.rows])
    def __eq__(self, other): return self.rows == other.rows
    @classmethod
    def identity(cls, n): return cls([[int(i == j) for j in range(n)] for i in range(n)])
    @property
    def T(self): return Matrix(zip(*self.rows))
m = Matrix([[1, 2], [3, 4]])
assert m @ Matrix.identity(2) == m and m.T.T == m and m.T.rows == [[1, 3], [2, 4]]
---
class LRU:
    def __init__(self, size):
        from collections import OrderedDict
        self._size, self._data = size, OrderedDict()
    def get(self, k):
        if k not in self._data: return -1
        self._data.move_to_end(k)
        return self._data[k]
    def put(self, k, v):
        self._data[k] = v
        self._data.move_to_end(k)
        if len(self._data) > self._size: self._data.popitem(last=False)
c = LRU(2); c.put(1, 1); c.put(2, 2); c.get(1); c.put(3, 3)
assert (c.get(1), c.get(2), c.get(3)) == (1, -1, 3)
---
class Node:
    __slots__ = ("value", "next")
    def __init__(self, value, next=None): self.value, self.next = value, next
class LinkedList:
    def __init__(self, items=()):
        self.head = None
        for x in items: self.head = Node(x, self.head)
    def __iter__(self):
        node = self.head
        while node:
            yield node.value
            node = node.next
    def reverse(self):
        prev, node = None, self.head
        while node: node.next, prev, node = prev, node, node.next
        self.head = prev
        return self
assert list(LinkedList([1, 2, 3])) == [3, 2, 1] and list(LinkedList([1, 2, 3]).reverse()) == [1, 2, 3]
---
class Tree:
    def __init__(self, value, left=None, right=None): self.value, self.left, self.right = value, left, right
    def insert(self, v):
        side = "left" if v < self.value else "right"
        child = getattr(self, side)
        if child: child.insert(v)
        else: setattr(self, side, Tree(v))
        return self
    def __iter__(self):
        if self.left: yield from self.left
        yield self.value
        if self.right: yield from self.right
    def depth(self): return 1 + max((t.depth() for t in (self.left, self.right) if t), default=0)
t = Tree(5)
for v in [3, 8, 1, 4, 9]: t.insert(v)
assert list(t) == [1, 3, 4, 5, 8, 9] and t.depth() == 3
---
class Trie:
    def __init__(self): self.kids, self.end = {}, False
    def add(self, w):
        node = self
        for c in w: node = node.kids.setdefault(c, Trie())
        node.end = True
    def find(self, prefix):
        node = self
        for c in prefix:
            if c not in node.kids: return []
            node = node.kids[c]
        out = []
        def walk(n, word):
            if n.end: out.append(word)
            for c, k in sorted(n.kids.items()): walk(k, word + c)
        walk(node, prefix)
        return out
t = Trie()
for w in ("car", "cart", "cat", "dog"): t.add(w)
assert t.find("ca") == ["car", "cart", "cat"]
---
class Account:
    def __init__(self, owner, balance=0): self.owner, self.__balance = owner, balance
    @property
    def balance(self): return self.__balance
    def withdraw(self, n):
        if n > self.__balance: raise ValueError(f"insufficient funds: {self.__balance} < {n}")
        self.__balance -= n
    def __repr__(self): return f"Account({self.owner!r}, {self.__balance})"
a = Account("ann", 50); a.withdraw(20)
try: a.withdraw(100)
except ValueError as e: msg = str(e)
assert a.balance == 30 and msg == "insufficient funds: 30 < 100" and repr(a) == "Account('ann', 30)"
---
from abc import ABC, abstractmethod
class Shape(ABC):
    @abstractmethod
    def area(self): ...
    def __lt__(self, o): return self.area() < o.area()
class Square(Shape):
    def __init__(self, s): self.s = s
    def area(self): return self.s ** 2
class Circle(Shape):
    def __init__(self, r): self.r = r
    def area(self): return 3.14159 * self.r ** 2
assert [type(s).__name__ for s in sorted([Circle(1), Square(1), Square(2)])] == ["Square", "Circle", "Square"]
---
from dataclasses import dataclass, field
@dataclass
class Item:
    name: str
    price: float
    qty: int = 1
    @property
    def total(self): return self.price * self.qty
@dataclass
class Cart:
    items: list[Item] = field(default_factory=list)
    def add(self, *a, **k): self.items.append(Item(*a, **k)); return self
    def total(self): return round(sum(i.total for i in self.items), 2)
assert Cart().add("a", 1.5, qty=2).add("b", 2.25).total() == 5.25
---
import json, re
def parse_log(text):
    rx = re.compile(r"(?P<ip>\d+\.\d+\.\d+\.\d+) - \[(?P<day>[^\]]+)\] \"(?P<verb>\w+) (?P<path>\S+)\" (?P<code>\d+)")
    return [m.groupdict() for line in text.splitlines() if (m := rx.match(line))]
rows = parse_log('10.0.0.1 - [1 Jan] "GET /a" 200\nbad line\n10.0.0.2 - [2 Jan] "POST /b" 404')
assert [r["code"] for r in rows] == ["200", "404"] and json.loads(json.dumps(rows))[0]["ip"] == "10.0.0.1"
---
import csv, io
rows = list(csv.DictReader(io.StringIO("name,age\nann,30\nbob,25\n")))
out = io.StringIO()
w = csv.writer(out); w.writerow(["n", "a"]); w.writerows([r["name"], int(r["age"]) + 1] for r in rows)
assert out.getvalue().split() == ["n,a", "ann,31", "bob,26"]
---
from datetime import date, timedelta
def business_days(start, n):
    d = start
    while n:
        d += timedelta(days=1)
        if d.weekday() < 5: n -= 1
    return d
assert business_days(date(2024, 3, 1), 5) == date(2024, 3, 8)
---
def tokenize(s):
    i = 0
    while i < len(s):
        if s[i].isspace(): i += 1; continue
        if s[i].isdigit():
            j = i
            while j < len(s) and (s[j].isdigit() or s[j] == "."): j += 1
            yield float(s[i:j]); i = j
        else:
            yield s[i]; i += 1
def evaluate(text):
    tokens = [*tokenize(text), None]; pos = 0
    def peek(): return tokens[pos]
    def take():
        nonlocal pos
        pos += 1
        return tokens[pos - 1]
    def factor():
        t = take()
        if t == "(":
            v = expr(); take(); return v
        return -factor() if t == "-" else t
    def term():
        v = factor()
        while peek() in ("*", "/"): v = v * factor() if take() == "*" else v / factor()
        return v
    def expr():
        v = term()
        while peek() in ("+", "-"): v = v + term() if take() == "+" else v - term()
        return v
    return expr()
assert evaluate("2 * (3 + 4) - -6 / 3") == 16
---
def sudoku(board):
    def options(r, c):
        used = {*board[r], *(row[c] for row in board), *(board[r // 2 * 2 + i][c // 2 * 2 + j] for i in range(2) for j in range(2))}
        return [n for n in range(1, 5) if n not in used]
    for r in range(4):
        for c in range(4):
            if not board[r][c]:
                for n in options(r, c):
                    board[r][c] = n
                    if sudoku(board): return True
                    board[r][c] = 0
                return False
    return True
b = [[1, 0, 0, 0], [0, 0, 3, 0], [0, 1, 0, 0], [0, 0, 0, 2]]
assert sudoku(b) and all(sorted(row) == [1, 2, 3, 4] for row in b)
---
def life(cells):
    from collections import Counter
    counts = Counter((x + dx, y + dy) for x, y in cells for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)
    return {c for c, n in counts.items() if n == 3 or (n == 2 and c in cells)}
g = {(1, 0), (1, 1), (1, 2)}
assert life(g) == {(0, 1), (1, 1), (2, 1)} and life(life(g)) == g
---
import math
def primes():
    found = []
    n = 2
    while True:
        if all(n % p for p in found if p <= math.isqrt(n)):
            found.append(n)
            yield n
        n += 1
from itertools import islice, takewhile
assert list(islice(primes(), 8)) == [2, 3, 5, 7, 11, 13, 17, 19] and sum(takewhile(lambda p: p < 100, primes())) == 1060
---
def caesar(text, k):
    return "".join(chr((ord(c) - (base := ord("A") if c.isupper() else ord("a")) + k) % 26 + base) if c.isalpha() else c for c in text)
assert caesar(caesar("Hello, World!", 3), -3) == "Hello, World!" and caesar("xyz", 3) == "abc"
---
def rle(s):
    from itertools import groupby
    return "".join(f"{len(list(g))}{k}" for k, g in groupby(s))
import re
assert rle("aaabcc") == "3a1b2c" and re.sub(r"(\d+)(\w)", lambda m: m[2] * int(m[1]), rle("aaabcc")) == "aaabcc"
---
def retry(times):
    def deco(fn):
        from functools import wraps
        @wraps(fn)
        def wrapper(*a, **k):
            for i in range(times):
                try: return fn(*a, **k)
                except ValueError as e: last = e
            raise RuntimeError(f"gave up after {times}") from last
        wrapper.times = times
        return wrapper
    return deco
calls = []
@retry(3)
def flaky(n):
    "doc"
    calls.append(n)
    if len(calls) < n: raise ValueError
    return "ok"
assert flaky(3) == "ok" and flaky.__name__ == "flaky" and flaky.times == 3
---
class Event:
    def __init__(self): self._subs = []
    def __iadd__(self, fn): self._subs.append(fn); return self
    def __call__(self, *a): return [fn(*a) for fn in self._subs]
e = Event(); log = []
e += log.append
e += lambda x: x * 2
assert e(4) == [None, 8] and log == [4]
---
class Vending:
    def __init__(self): self.state, self.coins = "idle", 0
    def feed(self, *coins):
        for c in coins:
            match (self.state, c):
                case ("idle" | "paying", int(n)) if n > 0: self.state, self.coins = "paying", self.coins + n
                case ("paying", "select") if self.coins >= 50: self.state = "done"
                case (_, "cancel"): self.state, self.coins = "idle", 0
                case other: raise ValueError(f"bad {other}")
        return self.state
assert Vending().feed(20, 30, "select") == "done" and Vending().feed(5, "cancel") == "idle"
---
def median(xs):
    xs = sorted(xs); n = len(xs)
    return xs[n // 2] if n % 2 else (xs[n // 2 - 1] + xs[n // 2]) / 2
import statistics
data = [3, 1, 4, 1, 5, 9, 2, 6]
assert median(data) == statistics.median(data) == 3.5 and round(statistics.stdev(data), 3) == 2.748
---
def quicksort(xs):
    if len(xs) <= 1: return xs
    pivot, *rest = xs
    return [*quicksort([x for x in rest if x < pivot]), pivot, *quicksort([x for x in rest if x >= pivot])]
import random
random.seed(0); xs = [random.randint(0, 99) for _ in range(200)]
assert quicksort(xs) == sorted(xs)
---
def mergesort(xs, key=lambda x: x):
    if len(xs) < 2: return list(xs)
    mid = len(xs) // 2
    a, b, out = mergesort(xs[:mid], key), mergesort(xs[mid:], key), []
    while a and b: out.append((a if key(a[0]) <= key(b[0]) else b).pop(0))
    return out + a + b
assert mergesort(["bb", "a", "ccc"], key=len) == ["a", "bb", "ccc"]
---
def edit_distance(a, b):
    prev = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        cur = [i]
        for j, y in enumerate(b, 1):
            cur.append(min(prev[j] + 1, cur[-1] + 1, prev[j - 1] + (x != y)))
        prev = cur
    return prev[-1]
assert edit_distance("kitten", "sitting") == 3
---
def topological(graph):
    order, mark = [], {}
    def visit(n):
        if mark.get(n) == 1: raise ValueError(f"cycle at {n}")
        if mark.get(n) is None:
            mark[n] = 1
            for m in graph.get(n, []): visit(m)
            mark[n] = 2
            order.append(n)
    for n in graph: visit(n)
    return order[::-1]
assert topological({"shirt": ["tie"], "tie": ["jacket"], "trousers": ["jacket"]}).index("jacket") == 3
try: topological({1: [2], 2: [1]})
except ValueError as e: assert "cycle" in str(e)
---
def flatten(x):
    for item in x:
        if isinstance(item, (list, tuple)): yield from flatten(item)
        else: yield item
assert list(flatten([1, [2, (3, [4])], 5])) == [1, 2, 3, 4, 5]
---
async def fetch(n):
    import asyncio
    await asyncio.sleep(0.001 * (5 - n))
    return n * n
async def main():
    import asyncio
    sem = asyncio.Semaphore(2)
    async def one(n):
        async with sem: return await fetch(n)
    return await asyncio.gather(*(one(n) for n in range(5)))
import asyncio
assert asyncio.run(main()) == [0, 1, 4, 9, 16]
---
import asyncio
async def producer(q):
    for i in range(5):
        await q.put(i); await asyncio.sleep(0)
    await q.put(None)
async def consumer(q):
    out = []
    while (x := await q.get()) is not None: out.append(x)
    return out
async def main():
    q = asyncio.Queue(maxsize=2)
    _, got = await asyncio.gather(producer(q), consumer(q))
    return got
assert asyncio.run(main()) == [0, 1, 2, 3, 4]
---
from typing import Generic, TypeVar, Iterator
T = TypeVar("T")
class Stack(Generic[T]):
    def __init__(self) -> None: self.items: list[T] = []
    def push(self, x: T) -> None: self.items.append(x)
    def __iter__(self) -> Iterator[T]: return reversed(self.items)
s: Stack[int] = Stack(); s.push(1); s.push(2)
assert list(s) == [2, 1]
---
from enum import Enum, Flag, auto
class Op(Enum):
    ADD = ("+", lambda a, b: a + b)
    MUL = ("*", lambda a, b: a * b)
    def __init__(self, sign, fn): self.sign, self.fn = sign, fn
    def __call__(self, a, b): return self.fn(a, b)
    @classmethod
    def of(cls, sign): return next(o for o in cls if o.sign == sign)
class Perm(Flag):
    R = auto(); W = auto()
assert Op.of("*")(3, 4) == 12 and Perm.R | Perm.W == Perm(3) and Perm.R in (Perm.R | Perm.W)
---
from contextlib import contextmanager
log = []
@contextmanager
def section(name):
    log.append(f"<{name}>")
    try: yield log
    except KeyError: log.append("caught")
    finally: log.append(f"</{name}>")
with section("a"), section("b"): raise KeyError
assert log == ["<a>", "<b>", "caught", "</b>", "</a>"]
---
class Typed:
    def __init__(self, kind): self.kind = kind
    def __set_name__(self, owner, name): self.name = "_" + name
    def __get__(self, obj, owner=None): return self if obj is None else getattr(obj, self.name)
    def __set__(self, obj, v):
        if not isinstance(v, self.kind): raise TypeError(f"{self.name[1:]} must be {self.kind.__name__}")
        setattr(obj, self.name, v)
class Person:
    name, age = Typed(str), Typed(int)
    def __init__(self, name, age): self.name, self.age = name, age
p = Person("ann", 3)
try: p.age = "x"
except TypeError as e: msg = str(e)
assert p.age == 3 and msg == "age must be int"
---
class Registry(type):
    known = {}
    def __new__(mcs, name, bases, ns):
        cls = super().__new__(mcs, name, bases, ns)
        if bases: mcs.known[name.lower()] = cls
        return cls
class Plugin(metaclass=Registry): pass
class Csv(Plugin):
    def go(self): return "csv"
assert Registry.known["csv"]().go() == "csv" and list(Registry.known) == ["csv"]
---
from fractions import Fraction
from decimal import Decimal, ROUND_HALF_UP
assert sum(Fraction(1, n) for n in range(1, 5)) == Fraction(25, 12)
assert Decimal("2.675").quantize(Decimal("0.01"), rounding=ROUND_HALF_UP) == Decimal("2.68")
---
text = """the quick brown fox jumps over the lazy dog the end"""
from collections import Counter, defaultdict
top = Counter(text.split()).most_common(1)
index = defaultdict(set)
for i, w in enumerate(text.split()): index[w[0]].add(i)
table = "\n".join(f"{w:<6}|{n:>3}" for w, n in sorted(Counter(map(len, text.split())).items()))
assert top == [("the", 3)] and index["t"] == {0, 6, 9} and table.splitlines()[0] == "     3|  6".replace("     3", f"{3:<6}")
---
def knapsack(items, cap):
    best = [0] * (cap + 1)
    for w, v in items:
        for c in range(cap, w - 1, -1): best[c] = max(best[c], best[c - w] + v)
    return best[cap]
assert knapsack([(1, 1), (3, 4), (4, 5), (5, 7)], 7) == 9
---
def pascal(n):
    row = [1]
    for _ in range(n):
        yield row
        row = [a + b for a, b in zip([0, *row], [*row, 0])]
assert list(pascal(5))[-1] == [1, 4, 6, 4, 1]
---
def spiral(m): return [*m[0], *spiral([*zip(*m[1:])][::-1])] if m else []
assert spiral([[1, 2, 3], [4, 5, 6], [7, 8, 9]]) == [1, 2, 3, 6, 9, 8, 7, 4, 5]
---
def to_base(n, b, digits="0123456789abcdef"):
    return (to_base(n // b, b) if n >= b else "") + digits[n % b]
assert to_base(255, 16) == "ff" and to_base(10, 2) == "1010" and int(to_base(12345, 7), 7) == 12345
---
import operator
ops = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": operator.pow}
def rpn(s):
    st = []
    for t in s.split():
        if t in ops: b, a = st.pop(), st.pop(); st.append(ops[t](a, b))
        else: st.append(float(t))
    return st.pop()
assert rpn("3 4 2 * 1 5 - / +") == 1.0 and rpn("2 10 ^") == 1024
---
class Poly:
    def __init__(self, *c): self.c = c
    def __call__(self, x):
        r = 0
        for a in self.c: r = r * x + a
        return r
    def __add__(self, o):
        from itertools import zip_longest
        return Poly(*[a + b for a, b in zip_longest(self.c[::-1], o.c[::-1], fillvalue=0)][::-1])
    def __str__(self): return " + ".join(f"{a}x^{i}" for i, a in zip(range(len(self.c) - 1, -1, -1), self.c) if a)
assert (Poly(1, 0, 2) + Poly(3, 4))(2) == 16 and str(Poly(1, 0, 2)) == "1x^2 + 2x^0"
'''

PROGRAMS = [program.strip("\n") for program in _TEXT.split("\n---\n")]


@pytest.mark.parametrize("source", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_runs_right(source: str) -> None:
    """Its own assertions hold, once at top level and once inside a function."""
    executor = LocalPythonExecutor(["csv", "io"], timeout_seconds=20)
    executor(source)
    inside = "def program():\n" + "\n".join("    " + line for line in source.split("\n")) + "\nprogram()"
    if "import *" not in source and '"""' not in source and "nonlocal" not in source:
        executor.spawn()(inside)
