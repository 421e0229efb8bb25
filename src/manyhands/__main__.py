"""``python -m manyhands``: the command line."""

from __future__ import annotations

import sys

from manyhands.cli import main

sys.exit(main())
