"""What the paper reports, read from `reference/paper_tables.json`: Tables 1 to 5, in percent, and where its text slips.

Nothing here was measured by this library. Tables and figures that show these numbers say so beside each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .runs import read_json

TABLES = Path(__file__).parent / "reference" / "paper_tables.json"
# Our name of a data set, and the paper's.
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "tiny-imagenet": "Tiny-ImageNet-200"}
COLUMNS = {"natural": "natural", "FGSM": "fgsm", "PGD20": "pgd20", "PGD100": "pgd100", "APGD-CE": "apgd_ce", "AutoAttack": "aa"}
SLIPS = (
    "Table 1: the FLOPs of ResNet-18 and DenseNet-121 are those of networks with an ImageNet stem and 1000 classes at 32x32 "
    "pixels; their parameters are those of networks with 10 classes.",
    "Table 1 calls PDARTS what Table 3 calls P-DARTS, and Table 2's WRN-R is the text's WRN-34-R, trained on 500k further images.",
    "Section 6.4 says 2.23 % and 2.78 % higher where Table 4 has 2.76 and 4.05, and F-F-R for A-A-R.",
    "Section 6.5 is announced and has no content.",
)


def paper_tables() -> dict[str, Any]:
    """The five tables as the file has them."""
    tables: dict[str, Any] = read_json(TABLES)
    return tables


def table1(tables: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Table 1, one dictionary a network, with the paper's column names."""
    table = (paper_tables() if tables is None else tables)["table1"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def pareto_points(data: str | None = None) -> list[dict[str, Any]]:
    """Natural and PGD20 accuracy in [0, 1] of Tables 1 and 3 for `plots.pareto`; of one data set (the paper's name) or of all."""
    tables = paper_tables()
    third = tables["table3"]
    rows = [row | {"dataset": "CIFAR-10"} for row in table1(tables)]
    rows += [dict(zip(third["columns"], row, strict=True)) for row in third["rows"]]
    return [
        {"network": row["model"], "data": row["dataset"], "natural": row["natural"] / 100, "robust": row["pgd20"] / 100}
        for row in rows
        if data in (None, row["dataset"])
    ]


def transfer_table() -> tuple[tuple[str, ...], tuple[str, ...], list[list[float]]]:
    """Table 2: sources, targets, and the accuracy of each target on each source's images in percent."""
    table = paper_tables()["table2"]
    return tuple(table["rows"]), tuple(table["targets"]), list(table["rows"].values())
