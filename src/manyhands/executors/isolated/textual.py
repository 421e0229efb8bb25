"""Frames over streams that carry text only: the guest's bytes come as lines of base64.

Some clouds read what a program prints as text, and put a replacement where bytes are no characters. So the
guest runs below a small program of our own there, which turns its output into lines; its input needs none
of it. What arrives is not trusted: a line that is none ends the guest.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIECE = 48 * 1024
#: Longest line that is read: what one piece takes as base64, with some room.
MAX_LINE = 2 * _PIECE

# Runs the command in its arguments, and writes each piece of its output as a line.
_LINES = f"""
import base64,os,subprocess,sys
guest=subprocess.Popen(sys.argv[1:],stdout=subprocess.PIPE)
while True:
    piece=os.read(guest.stdout.fileno(),{_PIECE})
    if not piece:
        break
    line=memoryview(base64.b64encode(piece)+b"\\n")
    while line:
        line=line[os.write(1,line):]
status=guest.wait()
sys.exit(status if status>=0 else 128-status)
"""


def in_lines(command: Sequence[str]) -> list[str]:
    """Return a command that runs ``command`` and writes its output as lines of base64.

    Args:
        command: The command of the guest, with the interpreter in front.
    """
    return [command[0], "-I", "-u", "-c", _LINES, *command]


class Lines:
    """Makes bytes of lines of base64, however the text is cut into pieces."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> bytes:
        """Return the bytes of the lines that are whole with ``text``.

        Raises:
            ValueError: A line is too long, or no base64.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > MAX_LINE or any(len(line) > MAX_LINE for line in lines):
            raise ValueError("a line is too long")
        try:
            return b"".join(base64.b64decode(line, validate=True) for line in lines)
        except binascii.Error as error:
            raise ValueError(str(error)) from None
