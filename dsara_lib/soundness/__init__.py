"""Whether a network's robustness numbers can be believed: probes, a board of checks, and broken defences to try it on."""

from __future__ import annotations

from .board import board, from_rows, inspect, load, marked, remark, save, to_rows, worst
from .broken import BROKEN
from .checks import CHECKS, VERDICTS, Check, Evidence, check
from .probes import MEASURES, probe

__all__ = [
    "BROKEN",
    "CHECKS",
    "MEASURES",
    "VERDICTS",
    "Check",
    "Evidence",
    "board",
    "check",
    "from_rows",
    "inspect",
    "load",
    "marked",
    "probe",
    "remark",
    "save",
    "to_rows",
    "worst",
]
