"""The report of a run: one HTML page with everything that its folder holds, and the paper's numbers beside ours; and one page on
all runs of a folder (`comparison.py`): Tables 1 to 5 with ours, and the paper's claims tested on them.

The page loads nothing and runs nothing; figures are inside it. It is written anew from the run folder alone (`record.py`), so it
never shows other numbers than the tables there, and a step that has not been run is named. To add a part, write a function in
`sections.py` and name it in `SECTIONS`.
"""

from __future__ import annotations

from pathlib import Path

from ..runs import write_atomically
from .claims import all_findings
from .collection import Collection, collect
from .comparison import forest_panels, grid_forest, verdict_rows, write_comparison
from .model_cards import model_card, write_model_cards
from .page import whole_page
from .readme import readme_part, write_readme
from .record import read
from .sections import body
from .tables import columns_of, grid_lines, grid_networks, lines_of, points_of, printed_points, text_rows


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder; its path. Raises FileNotFoundError or WorkbookError where there is no run."""
    folder = Path(run_folder).resolve()
    path = folder / "report.html"
    write_atomically(path, whole_page(f"DSARA workbook: run {folder.name}", body(read(folder))))
    return path


__all__ = [
    "Collection",
    "all_findings",
    "collect",
    "columns_of",
    "forest_panels",
    "grid_forest",
    "grid_lines",
    "grid_networks",
    "lines_of",
    "model_card",
    "points_of",
    "printed_points",
    "readme_part",
    "text_rows",
    "verdict_rows",
    "write_comparison",
    "write_model_cards",
    "write_readme",
    "write_report",
]
