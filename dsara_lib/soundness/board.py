"""The soundness board: whether a network's robustness numbers can be believed, in sentences, and how it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Split
from ..errors import WorkbookError
from ..evaluation import Evaluation, Images, TransferMatrix
from ..runs import read_json, write_json
from .checks import CHECKS, VERDICTS, Check, Evidence, check
from .probes import probe


def board(
    evaluation: Evaluation,
    probes: Mapping[str, Any],
    *,
    curve: Sequence[Mapping[str, Any]] = (),
    transfer: TransferMatrix | None = None,
) -> list[Check]:
    """All checks of `CHECKS`, in their order."""
    evidence = Evidence(evaluation=evaluation, probes=probes, curve=curve, transfer=transfer)
    return [check(name, evidence) for name in CHECKS]


def inspect(
    network: nn.Module,
    split: Split | Images,
    evaluation: Evaluation,
    *,
    eps: float | None = None,
    curve: Sequence[Mapping[str, Any]] = (),
    transfer: TransferMatrix | None = None,
    seed: int = 0,
    num_images: int = 64,
    batch_size: int = 64,
) -> tuple[list[Check], dict[str, Any]]:
    """The board of a network evaluated on this split, and the probes made for it, at the evaluation's eps if None is given."""
    probes = probe(network, split, evaluation.eps if eps is None else eps, seed=seed, num_images=num_images, batch_size=batch_size)
    return board(evaluation, probes, curve=curve, transfer=transfer), probes


def worst(checks: Iterable[Check]) -> str:
    """The worst verdict; "skipped" where nothing was checked."""
    done = [each.verdict for each in checks if each.verdict != "skipped"]
    return max(done, key=VERDICTS.index, default="skipped")


def remark(checks: Iterable[Check]) -> str:
    """What to print beside an accuracy: "" or such as "fails: randomised forward pass; warns: convergence"."""
    named: dict[str, list[str]] = {"fail": [], "warn": []}
    for each in checks:
        named.get(each.verdict, []).append(each.name)
    return "; ".join(f"{verdict}s: {', '.join(names)}" for verdict, names in named.items() if names)


def marked(evaluation: Evaluation, checks: Iterable[Check]) -> Evaluation:
    """The evaluation under a name that says which checks fail, for tables and figures; as it is where none does."""
    failed = remark(each for each in checks if each.verdict == "fail")
    return replace(evaluation, network=f"{evaluation.network} ({failed})") if failed else evaluation


# ------------------------------------------------------------------------------------------------- on the disk


def to_rows(checks: Iterable[Check]) -> list[dict[str, str]]:
    """The board as a table."""
    return [asdict(each) for each in checks]


def from_rows(rows: Any) -> list[Check]:
    """The checks that `to_rows` wrote. Raises WorkbookError for anything else."""
    names = {each.name for each in fields(Check)}
    if not isinstance(rows, list):
        raise WorkbookError(f"a board is a list of checks; got {type(rows).__name__}")
    for row in rows:
        if not isinstance(row, Mapping) or set(row) != names or not all(isinstance(value, str) for value in row.values()):
            raise WorkbookError(f"a check has the texts {', '.join(sorted(names))}; got {row!r}")
        if row["verdict"] not in VERDICTS:
            raise WorkbookError(f"a verdict is one of {', '.join(VERDICTS)}; got {row['verdict']!r}")
    return [Check(**row) for row in rows]


def save(path: str | Path, checks: Iterable[Check], probes: Mapping[str, Any]) -> None:
    """Write board and probes as JSON."""
    write_json(path, {"checks": to_rows(checks), "probes": dict(probes)})


def load(path: str | Path) -> tuple[list[Check], dict[str, Any]]:
    """What `save` wrote. Raises FileNotFoundError, and WorkbookError that names the file."""
    read = read_json(path)
    if not isinstance(read, dict) or not isinstance(read.get("probes"), dict):
        raise WorkbookError(f"{path} is not a soundness board: expected checks and probes")
    try:
        return from_rows(read.get("checks")), read["probes"]
    except WorkbookError as error:
        raise WorkbookError(f"{path} is not a soundness board: {error}") from error
