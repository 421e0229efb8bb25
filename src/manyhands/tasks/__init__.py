"""Tasks: what one is, and how many of them are read from a file without holding them all."""

from __future__ import annotations

from manyhands.tasks.files import BadLine as BadLine
from manyhands.tasks.files import read_tasks as read_tasks
from manyhands.tasks.task import Task as Task
