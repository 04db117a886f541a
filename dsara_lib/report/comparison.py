"""The page on all runs of a folder: the paper's claims and what our runs say to them, and Tables 1 to 5 with ours below theirs.

It is written anew from the run folders alone and loads nothing. `write_comparison(results)` writes it; notebook 09 does, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import plots
from ..runs import write_atomically
from .claims import all_findings
from .collection import ATTACK, NOT_OURS, Collection, Conditions, Measured, collect
from .contrasts import BOTH, CONTRASTS, against_reference, printed_difference
from .findings import NOT_MEASURED, Finding, Part
from .page import Markup, interval, join, paragraph, percent, plot, printed_transfer, section, table, tag, text_cell, whole_page
from .sections import PAGE
from .tables import (
    ABOUT,
    GridRow,
    Line,
    Number,
    columns_of,
    comparable,
    lines_of,
    point_name,
    points_of,
    printed_points,
    table2_name,
    transfer_number,
    transfers_of,
)

HOLLOW, FILLED = "○", "●"
READING = (
    f"{HOLLOW} is the paper's number, one run each; {FILLED} was measured here. Below each of ours stands its interval at 95 %: "
    "Student's t over seeds where there are several, which says where the mean over seeds lies, and Wilson's over images where "
    "there is one. Only runs that differ in their seed alone are averaged."
)
TESTS = (
    "A claim is tested at equal seeds on the same test images: by a paired t test where there are three seeds or more, else by "
    "McNemar's test or its like for two seeds, which tells trained networks apart and not methods. The p values of this page are "
    "corrected together by Holm's rule, level 5 %. A claim about both accuracies is supported where both are better, "
    "contradicted where one is worse. No evidence is not evidence of no difference: few images and few seeds see only large ones."
)


def write_comparison(results: str | Path, runs: Sequence[str] | None = None) -> Path:
    """Write `comparison.html` into the folder of all runs, of all of them or of those named; its path.

    A folder without runs gives a page of the paper's numbers.
    """
    folder = Path(results).resolve()
    page = whole_page("DSARA workbook: all runs beside the paper", comparison_body(collect(folder, runs)))
    write_atomically(folder / PAGE, page.replace(str(folder), folder.name))
    return folder / PAGE


def comparison_body(collection: Collection) -> Markup:
    """The page, part by part."""
    findings, protocols = all_findings(collection), protocols_of(collection)
    parts: dict[str, tuple[str, Callable[[], Markup]]] = {
        "claims": ("The paper's claims, tested on our runs", lambda: claims_part(findings)),
        "table1": ("Table 1: white-box attacks", lambda: table_part(collection, "table1", protocols)),
        "table2": ("Table 2: black-box attacks", lambda: second_table(collection)),
        "table3": ("Table 3: other data", lambda: table_part(collection, "table3", protocols)),
        "table4": ("Table 4 and Figure 6: the search space", lambda: ablation_part(collection, "table4", protocols)),
        "table5": ("Table 5: the parts of the method", lambda: ablation_part(collection, "table5", protocols)),
        "left-out": ("What was left out", lambda: notes_part(collection)),
    }
    links = tag("ul", *(tag("li", tag("a", title, href=f"#{name}")) for name, (title, _) in parts.items()))
    runs = {each.run for each in collection.measured}
    told = (
        f"{len(collection.measured)} networks of {len(runs)} runs, {len(collection.searches)} searches, trained on attacked images"
    )
    head = tag("header", tag("h1", "All runs beside the paper"), paragraph(told, class_="soft"), paragraph(READING))
    pieces = [section(name, title, _alone(write)) for name, (title, write) in parts.items()]
    return join(head, tag("nav", links, aria_label="Contents"), tag("main", *pieces))


def _alone(write: Callable[[], Markup]) -> Markup:
    """A part; one that cannot be made says so and leaves the others standing."""
    try:
        return write()
    except NOT_OURS as error:
        return paragraph(f"This part could not be made ({type(error).__name__}: {error}).", class_="warning")


# -- claims ------------------------------------------------------------------------------------------------------------


def claims_part(findings: Sequence[Finding]) -> Markup:
    """Verdicts at a glance, the differences as a picture, and each claim with the sentence behind its verdict."""
    head = ["claim", "our runs", f"natural {FILLED}", f"natural {HOLLOW}", f"{ATTACK} {FILLED}", f"{ATTACK} {HOLLOW}", "seeds"]
    counts = {
        verdict: sum(each.verdict == verdict for each in findings) for verdict in dict.fromkeys(each.verdict for each in findings)
    }
    about = f"Differences in points, the paper's {HOLLOW} beside ours {FILLED}: " + ", ".join(
        f"{n} {verdict}" for verdict, n in counts.items()
    )
    pieces = [paragraph(TESTS), table(head, [verdict_row(each) for each in findings], about=about)]
    for where, lines in forest_panels(findings).items():
        pieces.append(
            plot(plots.forest(lines), f"The row that is better by the claim, less the other, p after Holm's correction; {where}.")
        )
    for title in dict.fromkeys(each.title for each in findings):
        pieces.append(tag("h3", title))
        for each in findings:
            if each.title == title:
                soft = tag("small", f" {each.where}.", class_="soft") if each.where else None
                verdict = None if each.verdict == NOT_MEASURED else tag("strong", f"{each.verdict.capitalize()}. ")
                pieces.append(paragraph(verdict, each.sentence, soft))
    return join(*pieces)


def verdict_row(finding: Finding) -> list[Any]:
    """A claim in a line."""
    parts, cells = {part.measure: part for part in finding.parts}, list[Any]()
    contrast = next((each for each in CONTRASTS if each.name == finding.claim), None)
    printed = printed_difference(contrast.table, contrast.better, contrast.worse) if contrast else {}
    for measure in BOTH:
        part = parts.get(measure)
        ours = [f"{100 * part.value:+.1f}", tag("small", f"{100 * part.low:+.1f} to {100 * part.high:+.1f}")] if part else ["–"]
        cells += [tag("td", *ours), f"{printed[measure]:+.2f}" if printed else "–"]
    seeds = ", ".join(str(seed) for seed in next(iter(parts.values())).seeds) if parts else ""
    return [finding.claim, text_cell(tag("strong", finding.verdict)), *cells, seeds or "–"]


def forest_panels(findings: Iterable[Finding]) -> dict[str, list[dict[str, Any]]]:
    """For `plots.forest`, the differences behind the claims, by the conditions under which they were measured."""
    contrasts, panels = {each.name: each for each in CONTRASTS}, dict[str, list[dict[str, Any]]]()
    for each in findings:
        if each.claim in contrasts and each.verdict != NOT_MEASURED:
            contrast = contrasts[each.claim]
            name = f"{each.claim} (Table {contrast.table[-1]}, {contrast.better} − {contrast.worse})"
            panels.setdefault(each.where, []).extend(forest_row(name, part) for part in each.parts)
    return panels


def forest_row(name: str, part: Part) -> dict[str, Any]:
    """A difference as `plots.forest` takes it, in points."""
    by_seed = {seed: tuple(100 * value for value in each) for seed, each in zip(part.seeds, part.by_seed, strict=True)}
    ends = {"value": 100 * part.value, "low": 100 * part.low, "high": 100 * part.high}
    p_value = part.p_value if math.isnan(part.corrected) else part.corrected
    return {"measure": part.measure, "name": name, **ends, "by_seed": by_seed, "printed": part.printed, "p_value": p_value}


def verdict_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """For a notebook: claim, verdict and the numbers behind it, a line each."""
    return [
        {"claim": each.title, "our runs": each.verdict, "by which numbers": each.sentence, "where": each.where} for each in findings
    ]


# -- tables ------------------------------------------------------------------------------------------------------------


def protocols_of(collection: Collection) -> dict[Conditions, str]:
    """A number for each set of conditions on the page."""
    seen = dict.fromkeys(each.conditions for each in collection.measured)
    return {conditions: f"protocol {number}" for number, conditions in enumerate(seen, 1)}


def table_part(collection: Collection, name: str, protocols: Mapping[Conditions, str]) -> Markup:
    """A table of the paper, ours shaded below each of its rows, and in plain words how far the two may be compared."""
    lines, columns = lines_of(collection, name), columns_of(name)
    sized = name == "table1" or any(line.ours for line in lines)
    head = ["row", "numbers are", *(["parameters", "FLOPs"] if sized else []), *columns]
    rows = [
        [line.row, made_cell(line, protocols), *([line.parameters, line.flops] if sized else []), *number_cells(line, columns)]
        for line in lines
    ]
    body = table(head, rows, about=ABOUT[name], classes=["ours" if line.ours else "" for line in lines])
    return join(*warnings(lines, name, protocols), body)


def warnings(lines: Iterable[Line], name: str, protocols: Mapping[Conditions, str]) -> Iterator[Markup]:
    """For each set of conditions, how it differs from the paper's; what is missing."""
    mine = [line for line in lines if line.ours]
    for conditions in dict.fromkeys(line.conditions for line in mine if line.conditions is not None):
        yield paragraph(tag("strong", f"{FILLED} {protocols[conditions].capitalize()}: "), comparable(conditions, name))
    if not mine:
        yield paragraph("No run stands for a row of this table yet: only the paper's numbers are shown.", class_="missing")


def made_cell(line: Line, protocols: Mapping[Conditions, str]) -> Markup:
    """Whose numbers these are, and how they were made."""
    if line.conditions is None:
        return text_cell(f"{HOLLOW} the paper's", tag("small", line.about) if line.about else None)
    where = f"{line.conditions.data}, {protocols[line.conditions]}"
    whose = "measured here" if line.about == line.row else line.about
    return text_cell(f"{FILLED} {whose}", tag("small", f"{line.origin}; {where}; {line.measured[0].size}; {line.seeds_told}"))


def number_cells(line: Line, columns: Sequence[str]) -> Iterator[Markup]:
    """Accuracies with their intervals; hollow where only the paper has one."""
    for column in columns:
        if not line.ours:
            yield tag("td", f"{line.printed[column]:.2f} %")
        else:
            yield number_cell(line.number(column), usual=line.conditions.images if line.conditions else None)


def number_cell(number: Number | None, same: bool = False, usual: int | None = None) -> Markup:
    """One accuracy of ours, with its number of images where that is not the usual one."""
    look = "same" if same else None
    if number is None:
        return tag("td", "–", class_=look)
    images = "" if usual is None else number.images_told(usual)
    small = f"{interval(number.low, number.high)} ({number.over}){images}"
    return tag("td", percent(number.value), tag("small", small), class_=look)


def ablation_part(collection: Collection, name: str, protocols: Mapping[Conditions, str]) -> Markup:
    """An ablation: table and scatter."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    lines = lines_of(collection, name)
    for conditions, points in points_of(lines, name).items():
        panels.setdefault(f"{protocols[conditions].capitalize()}: {conditions.text}", []).extend(points)
    figure = plots.ablation_scatter(panels, printed_points(lines, name), ATTACK)
    caption = "Natural against PGD20 accuracy of each row; panels are different conditions and do not compare with each other."
    return join(table_part(collection, name, protocols), plot(figure, caption))


def second_table(collection: Collection) -> Markup:
    """Table 2, and below it ours of each set of systems."""
    pieces = [printed_transfer(f"{HOLLOW} ")]
    for group in transfers_of(collection):
        names = [table2_name(system) for system in group[0].systems]
        seeds = ", ".join(str(each.seed) for each in group)
        told = f"{FILLED} measured here: {group[0].conditions[0].text}; seeds {seeds}; framed: white box."
        cells = range(len(names))
        mine = [[names[s], *(number_cell(transfer_number(group, s, t), s == t) for t in cells)] for s in cells]
        pieces.append(table(["source \\ target", *names], mine, about=told, classes=["ours"] * len(mine)))
    if len(pieces) == 1:
        pieces.append(
            paragraph("No run has attacked two adversarially trained networks with each other's images yet.", class_="missing")
        )
    return join(*pieces)


def notes_part(collection: Collection) -> Markup:
    """What could not be read or is no further evidence."""
    fixed = "Networks trained on natural images, and last weights where the best are shown, stand in each run's own report."
    return join(paragraph(fixed), tag("ul", *(tag("li", note) for note in collection.notes)) if collection.notes else None)


def grid_forest(rows: Sequence[GridRow], networks: Mapping[str, Sequence[Measured]], reference: str) -> list[dict[str, Any]]:
    """For `plots.forest`: each row of a sweep's grid less its reference, with the paper's difference where it has one."""
    printed = {row.name: row.paper for row in rows}
    found = []
    for name, _, part in against_reference(networks, reference):
        theirs, base = (printed[each].get(part.measure) for each in (name, reference))
        told = None if theirs is None or base is None else round(theirs - base, 2)
        found.append(forest_row(f"{point_name('', name)} − {point_name('', reference)}", replace(part, printed=told)))
    return found
