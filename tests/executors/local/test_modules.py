"""Imports: what may be imported, and that no run changes what others see."""

from __future__ import annotations

import asyncio
import decimal
import io
import math
import random
import time
import warnings
from typing import Any

import pytest

from manyhands.errors import InterpreterError
from manyhands.executors.local import BASE_BUILTIN_MODULES, LocalPythonExecutor


def run(source: str, imports: list[str] | None = None) -> Any:
    """The value of a snippet."""
    return LocalPythonExecutor(imports or [])(source).output


@pytest.mark.parametrize("name", BASE_BUILTIN_MODULES)
def test_base_modules(name: str) -> None:
    """They can be imported without asking."""
    assert run(f"import {name}\n{name}.__name__") == name


ALLOWED = {
    "xml": ["import xml"],
    "xml.etree.ElementTree": [
        "import xml.etree.ElementTree",
        "import xml.etree.ElementTree as ET\nET.fromstring('<a/>').tag",
        "from xml.etree import ElementTree",
        "from xml.etree.ElementTree import fromstring",
    ],
    "xml.*": ["import xml.etree.ElementTree", "import xml.dom"],
    "*": ["import os, sys, subprocess", "from urllib.parse import quote\nquote('a b')"],
    "os": ["import os\nos.path.join('a', 'b')", "from os import getcwd"],
    "html": ["from html import escape\nescape('<')"],
}


@pytest.mark.parametrize(("entry", "source"), [(e, s) for e, ss in ALLOWED.items() for s in ss])
def test_authorised_imports(entry: str, source: str) -> None:
    """``pkg``, ``pkg.sub``, ``pkg.*`` and ``*``."""
    run(source, [entry])


DENIED = {
    "xml": ["import xml.etree.ElementTree", "from xml.dom import minidom"],
    "xml.etree.ElementTree": ["import xml.dom", "import xml.sax.handler"],
    "html": ["import html.parser", "import http"],
    "json.tool": ["import os"],
}


@pytest.mark.parametrize(("entry", "source"), [(e, s) for e, ss in DENIED.items() for s in ss])
def test_unauthorised_imports(entry: str, source: str) -> None:
    """The error lists what is allowed."""
    with pytest.raises(InterpreterError, match="is not allowed. Authorized imports are: .*'math'"):
        run(source, [entry])


def test_a_module_that_is_not_installed() -> None:
    """Told at construction."""
    with pytest.raises(InterpreterError, match="no_such_module_here"):
        LocalPythonExecutor(["no_such_module_here"])


def test_a_missing_member() -> None:
    """The error is Python's."""
    with pytest.raises(InterpreterError, match="ImportError: cannot import name 'nope' from 'math'"):
        run("from math import nope")
    with pytest.raises(InterpreterError, match="AttributeError: module 'math' has no attribute 'nope'"):
        run("import math\nmath.nope")


CHANGES = [
    "import math\nmath.pi = 3",
    "import math\ndel math.pi",
    "import math\nsetattr(math, 'pi', 3)",
    "import json\njson.dumps = 1",
    "import collections\ncollections.OrderedDict.pop = 1",
    "import random\nrandom.Random.random = 1",
    "import datetime\ndatetime.x = 1",
    "import json\njson.JSONEncoder.item_separator = ';'",
    "import math\nmath.sqrt.x = 1",
    "import json\njson.dumps.x = 1",
    "import asyncio\nasyncio.sleep = 1",
    "import decimal\ndecimal.DefaultContext.prec = 2",
    "print.x = 1",
]


@pytest.mark.parametrize("source", CHANGES)
def test_a_shared_module_cannot_be_changed(source: str) -> None:
    """Nor its functions and classes."""
    with pytest.raises(InterpreterError):
        run(source)


def test_random_numbers_belong_to_a_run() -> None:
    """Seeding in one run touches no other, nor the host; the state lives from step to step."""
    host = random.Random(1).random()
    random.seed(1)
    one, two = LocalPythonExecutor(), LocalPythonExecutor()
    one("import random\nrandom.seed(7)")
    first = two("import random\nrandom.seed(7)\nrandom.random()").output
    two("random.seed(99)")
    assert one("random.random()").output == first
    assert random.random() == host


def test_decimal_contexts_belong_to_a_run() -> None:
    """The precision set in one step holds in the next, and nowhere else."""
    before = decimal.getcontext().prec
    executor = LocalPythonExecutor()
    executor("import decimal\ndecimal.getcontext().prec = 5")
    assert str(executor("decimal.Decimal(1) / 3").output) == "0.33333"
    assert decimal.getcontext().prec == before
    assert LocalPythonExecutor()("import decimal\ndecimal.getcontext().prec").output == 28


def test_containers_of_modules_are_copies() -> None:
    """Changing a list of a module changes the run's own."""
    run("import string, keyword\nkeyword.kwlist.append('x')", ["keyword"])
    import keyword

    assert "x" not in keyword.kwlist


def test_warning_filters_stay() -> None:
    """``warnings.filterwarnings('ignore')`` works and changes nothing."""
    before = list(warnings.filters)
    run(
        "import warnings\nwarnings.filterwarnings('ignore')\nwith warnings.catch_warnings(): "
        "warnings.warn('x')",
        ["warnings"],
    )
    assert warnings.filters == before


def test_stdout_of_the_process_stays() -> None:
    """Redirecting prints is the run's own affair."""
    import sys

    before = sys.stdout
    source = (
        "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): print('x')\n"
        "b.getvalue()"
    )
    assert run(source, ["io"]) == "x\n"
    result = LocalPythonExecutor(["sys"])("import sys\nsys.stdout.write('w')\nprint('e', file=sys.stderr)")
    assert result.logs == "we\n"
    assert sys.stdout is before


def test_modules_behind_modules_are_hidden() -> None:
    """Unless they are authorised themselves."""
    with pytest.raises(InterpreterError, match="has no attribute|Forbidden"):
        run("import statistics\nstatistics.sys")
    assert run("import statistics\nstatistics.mean([1, 3])") == 2
    assert run("import math\n'pi' in dir(math), hasattr(math, '__loader__')") == (True, False)


def test_a_second_import_costs_microseconds() -> None:
    """Views are kept."""
    executor = LocalPythonExecutor(["xml.*"])
    executor("import xml.dom.minidom")
    start = time.perf_counter()
    executor("for i in range(1000):\n    import xml.dom.minidom")
    assert (time.perf_counter() - start) / 1000 < 0.0001


async def test_time_sleep_does_not_hold_the_loop() -> None:
    """It waits on the loop, side by side with others."""
    base = LocalPythonExecutor()
    start = time.perf_counter()
    await asyncio.gather(*[base.spawn().acall("import time\ntime.sleep(0.1)") for _ in range(10)])
    assert time.perf_counter() - start < 0.4


def test_math_is_whole() -> None:
    """The bounded twins give what the originals give."""
    source = (
        "import math\nmath.factorial(10), math.comb(10, 3), math.perm(5, 2), math.prod([1,"
        " 2, 3]), math.fsum([.1] * 10)"
    )
    assert run(source) == (math.factorial(10), 120, 20, 6, 1.0)


def test_numpy() -> None:
    """Computing works; files, pickles and shared random numbers do not."""
    np = pytest.importorskip("numpy")
    state = np.random.get_state()[1].tolist()
    source = (
        "import numpy as np\na = np.arange(6).reshape(2, 3)\na[0, 1] = 9\n(a @ "
        "a.T).tolist(), float(np.linalg.norm([3, 4]))"
    )
    assert run(source, ["numpy"]) == ([[85, 46], [46, 50]], 5.0)
    assert run(
        "import numpy as np\nnp.random.seed(1)\na = np.random.rand()\nnp.random.seed(1)\n"
        "a == np.random.rand()",
        ["numpy"],
    )
    assert np.random.get_state()[1].tolist() == state
    for bad in (
        "np.load('x')",
        "np.save('x', 1)",
        "np.array([1]).tofile('x')",
        "np.fromfile('x')",
        "np.ctypeslib",
        "np.lib",
        "np.testing",
        "np.array([1]).dump('x')",
        "np.memmap('x')",
        "np.pi.__array_interface__",
        "np.sys",
        "np.os",
    ):
        with pytest.raises(InterpreterError):
            run(f"import numpy as np\n{bad}", ["numpy"])


def test_pandas() -> None:
    """The same."""
    pd = pytest.importorskip("pandas")
    pd.read_csv(io.StringIO("a\n1"))  # its first call reads files about the machine
    head = "import pandas as pd\nimport io\ndf = pd.DataFrame({'a': [1, 2, 3], 'b': list('xyx')})\n"
    good = (
        "df.groupby('b')['a'].sum().to_dict()",
        "df.query('a > 1').shape",
        "df.apply(lambda r: r['a'] * 2, axis=1).tolist()",
        "df['c'] = df.a * 2; df.to_csv(index=False)",
        "df.agg({'a': 'sum'}).tolist()",
        "pd.read_csv(io.StringIO('a\\n1')).shape",
        "df.columns = ['p', 'q']; list(df.columns)",
        "df.describe().shape",
        "df.to_dict('records')",
    )
    for source in good:
        run(head + source, ["pandas", "io"])
    for bad in (
        "pd.read_pickle('x')",
        "df.to_pickle('x')",
        "df.to_csv('/tmp/x.csv')",
        "pd.read_csv('/etc/passwd')",
        "df.query('@pd.__class__')",
        "df.eval('@df.__class__')",
        "pd.eval('1')",
        "df.apply('to_pickle', path='x')",
        "pd.io",
        "df.agg('to_csv')",
        "pd.read_html('http://x')",
        "df._mgr",
        "df.style.__init__.__globals__",
    ):
        with pytest.raises(InterpreterError):
            run(head + bad, ["pandas", "io"])
