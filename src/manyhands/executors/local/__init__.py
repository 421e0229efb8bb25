"""Runs the code of agents in this process: real CPython, checked, rewritten, interruptible."""

from manyhands.executors.local.executor import LocalPythonExecutor, evaluate_python_code
from manyhands.executors.local.modules import BASE_BUILTIN_MODULES

__all__ = ["BASE_BUILTIN_MODULES", "LocalPythonExecutor", "evaluate_python_code"]
