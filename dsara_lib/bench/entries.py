"""What was measured: a list of objects in one file for each device, and the table beside the targets."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import WorkbookError
from ..runs import read_json, write_json

Entry = dict[str, Any]
KEY = ("name", "batch", "dtype", "what", "value")  # one entry for each; the last two only where something is varied
REQUIRED = ("name", "device", "dtype", "batch", "plain", "fast", "unit", "ratio")
TEXTS = ("name", "device", "dtype", "unit", "what")
NUMBERS = ("batch", "plain", "fast", "ratio", "ratio_min", "ratio_max", "search_minutes_fast")
COUNTED = "meta"  # the device of what is counted, not timed


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked of an entry; `field` is looked at, which is large where it is good, or small if `most`."""

    name: str
    device: str
    least: float
    aim: float
    dtype: str = "float32"
    field: str = "ratio"
    most: bool = False

    def met(self, value: float, bound: float) -> bool:
        """Whether the value is good enough."""
        return value <= bound if self.most else value >= bound


TARGETS = (
    Target(name="search_step", device="cpu", least=3, aim=5),
    Target(name="search_step", device="gpu", least=8, aim=12),
    Target(name="search_step", device="gpu", dtype="bfloat16", least=12, aim=25),
    Target(name="search_step", device="gpu", field="search_minutes_fast", least=45, aim=25, most=True),
    Target(name="search_step", device="gpu", field="search_minutes_fast", dtype="bfloat16", least=28, aim=12, most=True),
    Target(name="retrain_step", device="cpu", least=1.5, aim=2.2),
    Target(name="retrain_step", device="gpu", least=3, aim=6),
    Target(name="pgd20_eval", device="cpu", least=1.8, aim=2.5),
    Target(name="dispatched_operations", device=COUNTED, field="fast", least=80_000, aim=50_000, most=True),
    Target(name="saved_bytes", device=COUNTED, field="fast", least=4e9, aim=2e9, most=True),
)


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", info.read_text(encoding="utf-8")) if info.is_file() else []
    return f"CPU {models[0] if models else platform.processor() or platform.machine()}"


def slug(name: str) -> str:
    """As part of a file's name: 'CPU Intel(R) Xeon(R) Processor @ 2.30GHz' as 'cpu-intel-xeon'."""
    plain = re.sub(r"\((r|tm)\)|@.*|\b(processor|cpu)\b(?!$)", " ", name.lower())
    words = "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\bprocessor\b", " ", plain)))
    return f"cpu-{words}".strip("-") if name.startswith("CPU") else words


def read(path: Path) -> list[Entry]:
    """The entries so far. Raises WorkbookError where the file holds something else."""
    if not path.is_file():
        return []
    entries = read_json(path)
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise WorkbookError(f"{path} is no list of benchmark entries; move it away and start again")
    return entries


def _is_entry(entry: Any) -> bool:
    """Whether it has what every entry has, texts and numbers where they belong."""
    if not isinstance(entry, dict) or not set(REQUIRED) <= set(entry) or ("ratio_min" in entry) != ("ratio_max" in entry):
        return False
    kinds = ((TEXTS, str), (NUMBERS, int | float))
    return all(isinstance(entry[name], kind) for names, kind in kinds for name in names if name in entry)


def put(path: Path, entry: Entry) -> list[Entry]:
    """Write the entry into the file, in the place of the one like it; all entries."""
    assert set(REQUIRED) <= set(entry)
    entries, key = read(path), key_of(entry)
    at = [index for index, other in enumerate(entries) if key_of(other) == key]
    if at:
        entries[at[0]] = entry
    else:
        entries.append(entry)
    write_json(path, entries)
    return entries


def key_of(entry: Entry) -> tuple[Any, ...]:
    """What makes an entry the same measurement as another."""
    return tuple(entry.get(field) for field in KEY)


def targets_of(entry: Entry) -> list[Target]:
    """What is asked of it."""
    name = entry["device"]
    kind = name if name == COUNTED else "cpu" if name.startswith("cpu") else "gpu"
    asked = (entry["name"], kind, entry["dtype"])
    return [target for target in TARGETS if (target.name, target.device, target.dtype) == asked and target.field in entry]


def table(entries: Sequence[Entry], with_targets: bool = True) -> str:
    """Lines of text; what is varied in the sweep is left to the figure."""
    lines = [f"{'':42}{'plain':>10}{'fast':>10}{'ratio':>7}{'(rounds)':>15}   target"]
    for entry in entries:
        if "what" not in entry:
            spread = f"({entry['ratio_min']:.2f}-{entry['ratio_max']:.2f})" if "ratio_min" in entry else ""
            words = f"{entry['name']}, {entry['dtype']}, batch {entry['batch']}"
            values = "".join(f"{shown(entry[side], entry['unit']):>10}" for side in ("plain", "fast"))
            asked = "; ".join(verdict(entry, target) for target in targets_of(entry)) if with_targets else ""
            lines.append(f"{words:42}{values}{entry['ratio']:>7.2f}{spread:>15}   {asked}".rstrip())
    return "\n".join(lines)


def verdict(entry: Mapping[str, Any], target: Target) -> str:
    """'at least 3: met, aim 5: missed'."""
    value, words = entry[target.field], "at most" if target.most else "at least"
    said = [f"{words} {target.least:,.6g}", f"aim {target.aim:,.6g}"]
    met = ("met" if target.met(value, bound) else "MISSED" for bound in (target.least, target.aim))
    of = f"search {value:.0f} min, " if target.field.startswith("search") else ""
    return of + ", ".join(f"{one}: {other}" for one, other in zip(said, met, strict=True))


def shown(value: float, unit: str) -> str:
    """A value as the table writes it."""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:,.0f}" if unit == "operations" else f"{value:.3g} s"
