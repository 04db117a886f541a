"""What other processes of this library are given: where it lies, and how long they have to end."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS_TO_STOP = 120.0  # for the step under way and its commit


def python_path() -> str:
    """PYTHONPATH with which a process finds this library wherever it is started."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
