"""Runs the code of agents in Monty: a small Python of its own, in workers that nothing waits in."""

from manyhands.executors.monty.executor import MontyExecutor, UnsupportedCodeError
from manyhands.executors.monty.source import MODULES

__all__ = ["MODULES", "MontyExecutor", "UnsupportedCodeError"]
