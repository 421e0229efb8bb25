"""From the agent's source to a syntax tree that is safe to compile: every node is checked, some are replaced.

Deny by default: a node type without a ``visit_`` method here is refused, so new syntax of a new Python
cannot slip in.
Three things are added. *Checkpoints* (``if $due is not None: $tick()``) at loop heads, in comprehensions and
at function entry let the scheduler take the processor away and end the code. *Guards*
(``$getattr(obj, "_x")``) stand wherever what is read or built depends on the object at run time. *Brakes*
behind every construct that could catch an exception make sure that none can keep the code alive once it has
to stop.

The tree that was parsed is changed in place: making a node costs ten times what setting a field does.
All names added hold a dollar sign: no source can spell them. Names of the module scope are declared
``global``, which lets CPython use its cached lookups at top level, where agents write most of their loops.
"""

from __future__ import annotations

import ast

from manyhands.executors.local.definitions import Definitions
from manyhands.executors.local.rules import ALIVE, DUE, RESULT, TICK, Forbidden
from manyhands.executors.local.statements import Statements
from manyhands.executors.local.tree import located

__all__ = ["DUE", "RESULT", "Forbidden", "Rewriter"]

_BEGINNING = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}


class Rewriter(Statements, Definitions):
    """Checks and rewrites one module.

    Args:
        tools: Names of tools; they cannot be assigned.
        tasks: Variables that only ever hold awaitables for ``gather`` and its like.
    """

    def module(self, tree: ast.Module, *, keep_result: bool) -> ast.Module:
        """Rewrite a whole snippet."""
        body = tree.body
        if keep_result and body:
            body = body[:-1] + self._with_result(body[-1])
        new = self.body(body)
        names = sorted(self.module_names) + [DUE, TICK, ALIVE, RESULT]
        tree.body = [located(ast.Global, _BEGINNING, names=names), *new]
        return tree

    def _with_result(self, last: ast.stmt) -> list[ast.stmt]:
        if isinstance(last, ast.Expr):
            return [self.assign(RESULT, last.value, last)]
        if isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name):
            return [last, self.assign(RESULT, self.load(last.targets[0].id, last), last)]
        return [last]

    def expression(self, tree: ast.Expression) -> ast.Expression:
        """Rewrite the argument of ``eval``."""
        tree.body = self.visit(tree.body)
        return tree


Rewriter.visitors = {
    getattr(ast, name.removeprefix("visit_")): getattr(Rewriter, name)
    for name in dir(Rewriter)
    if name.startswith("visit_") and hasattr(ast, name.removeprefix("visit_"))
}
