"""The run browser of notebook 09: all runs of a folder in a table, and some of them held against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from ..data import eps_text
from ..errors import WorkbookError
from ..evaluation import read_csv
from ..experiment import FOUND, IDENTITY, Experiment
from ..places import short_name
from ..plots import front
from ..runs import RunStore, differences, read_jsonl
from .choices import Choice, Shown, View, explore
from .pictures import Chart, Line, chart, drawing, notes, row, table

if TYPE_CHECKING:
    from .explorer import Explorer

PARTS = ("run.json", "settings.json", "search", "networks", "evaluation")
ATTACKS = ("natural", "PGD20", "AutoAttack")
MOST_LINES, MOST_TOLD = 100, 10  # of the table, and of folders that cannot be read
HEAD = ("run", "profile", "data", "eps", "seed", "made", "epochs", *ATTACKS, "report")
SHARES = ("accuracy", "low", "high", "eps")  # columns of the table of results
LOOKS = (("blue", ""), ("vermillion", "7 2"), ("green", "2 2"), ("purple", "9 2 2 2"), ("orange", "4 2"), ("grey", "1 2"))
DIFFERENCE = re.compile(r"(.+?): (.*) here, (.*) there", re.DOTALL)
# Name: where the epochs are, and their metrics by caption.
CURVES: dict[str, tuple[str, dict[str, str]]] = {
    "losses of the search": (
        "search",
        {
            "weights, adversarial": "train/adversarial_loss",
            "alphas, adversarial": "validation/adversarial_loss",
            "alphas, natural": "validation/natural_loss",
        },
    ),
    "accuracies of the search": (
        "search",
        {
            "alphas' half, natural": "validation/natural_accuracy",
            "alphas' half, adversarial": "validation/adversarial_accuracy",
        },
    ),
    "held-out accuracy of the training": (
        f"networks/{FOUND}",
        {"held out, natural": "validation/natural_accuracy", "held out, adversarial": "validation/adversarial_accuracy"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the table says of a run; of a folder that cannot be read, its name and the sentence."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""
    epochs: tuple[int, int] = (0, 0)  # of the search and of the training, so far
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # white-box rows of the found network, by attack
    report: bool = False
    trouble: str = ""

    @property
    def data(self) -> str:
        """The data set's short name."""
        identity = self.settings.get(IDENTITY)
        return str(identity.get("name")) if isinstance(identity, Mapping) else short_name(str(self.settings.get("data", "")))

    @property
    def is_run(self) -> bool:
        """Whether its settings could be read."""
        return bool(self.settings)

    def accuracy(self, attack: str) -> float:
        """In percent; -inf where it was not measured."""
        return 100 * self.found[attack]["accuracy"] if attack in self.found else -math.inf


def _best_first(attack: str) -> Callable[[Known], Any]:
    return lambda run: -run.accuracy(attack)


SORTED: dict[str, Callable[[Known], Any]] = {
    "name": lambda run: run.name,
    "newest first": lambda run: [-ord(letter) for letter in run.made],
    "data": lambda run: run.data,
    "profile": lambda run: str(run.settings.get("profile", "")),
    **{f"{attack}, best first": _best_first(attack) for attack in ATTACKS},
}


def explore_runs(experiment: Experiment, *, interactive: bool = True) -> Shown | Explorer:
    """Sort the runs beside this one, choose some, and see what they share and where they differ."""
    root = experiment.run.folder.parent
    runs = known_runs(root)
    names = [run.name for run in runs if run.is_run]
    others = [run.name for run in sorted(runs, key=SORTED["newest first"]) if run.is_run and run.name != experiment.run.name]
    choices = {
        "order": Choice(name="sort by", options={each: each for each in SORTED}, first="name"),
        "having": Choice(name="with", options=None, first=""),
        "chosen": Choice(
            name="compare", options={each: each for each in names}, first=(experiment.run.name, *others[:1]), several=True
        ),
        "curves": Choice(name="curves", options={each: each for each in CURVES}, first=next(iter(CURVES))),
    }

    def draw(order: str, having: str, chosen: Sequence[str], curves: str) -> View:
        return browser(root, runs, order=order, having=having, chosen=chosen, curves=curves)

    return explore(choices, draw, buttons={}, interactive=interactive)


# -- reading -----------------------------------------------------------------------------------------------------------


def known_runs(root: Path) -> list[Known]:
    """Every run there, by name, and every folder that once was one or has the parts of one."""
    folders = (folder for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith("."))
    return [known(folder) for folder in folders if any((folder / part).exists() for part in PARTS)]


def known(folder: Path) -> Known:
    """What the folder tells of itself; what is missing is left out, what is damaged is told."""
    if not (folder / "run.json").is_file():
        return Known(name=folder.name, trouble="no run: it has no run.json")
    try:
        card = RunStore(folder.parent).find(folder.name).card()
        settings = card["settings"]
        if not isinstance(settings, dict) or not settings:
            raise WorkbookError("run.json holds no settings of a run")
    except (WorkbookError, OSError, ValueError) as error:
        return Known(name=folder.name, trouble=_here(error, folder))
    troubles: list[str] = []

    def part(read: Callable[[], list[Any]]) -> list[Any]:
        try:
            return read()
        except FileNotFoundError:
            return []
        except (WorkbookError, OSError, ValueError) as error:
            troubles.append(_here(error, folder))
            return []

    table = folder / "evaluation" / "white_box.csv"
    rows = part(lambda: read_csv(table, "network", "attack", "accuracy", "low", "high", "eps"))
    return Known(
        name=folder.name,
        settings=settings,
        made=str(card.get("created", ""))[:16].replace("T", " "),
        epochs=(num_lines(folder / "search" / "epochs.jsonl"), num_lines(folder / "networks" / FOUND / "epochs.jsonl")),
        found={each["attack"]: each for each in rows if each["network"] == FOUND and all(map(_is_share, map(each.get, SHARES)))},
        report=(folder / "report.html").is_file(),
        trouble="; ".join(troubles),
    )


def num_lines(path: Path) -> int:
    """Lines of a file, 0 where there is none. They are read when their run is chosen: of a thousand it would take seconds."""
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def _is_share(value: Any) -> bool:
    """Whether it can be drawn between 0 and 1."""
    return isinstance(value, int | float) and 0 <= value <= 1  # NaN is not


def _here(error: Exception, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "")


# -- showing -----------------------------------------------------------------------------------------------------------


def browser(root: Path, runs: Sequence[Known], *, order: str, chosen: Sequence[str], curves: str, having: str = "") -> View:
    """The table of the runs that have all the words, and the comparison of the chosen ones."""
    ordered = sorted(runs, key=lambda run: (not run.is_run, SORTED[order](run)))
    count, lines = sum(run.is_run for run in runs), [line(run) for run in ordered if run.is_run]
    found = [each for each in lines if all(word in " ".join(each).lower() for word in having.lower().split())]
    caption = f"{count:,} runs in {root.name}/; epochs of search + training, accuracies of the found network in percent"
    shown, told = found[:MOST_LINES], [f"{run.name}: {run.trouble}" for run in ordered if run.trouble]
    more = [f"and {len(found) - len(shown):,} more: sort them otherwise, or write words that the line must have"]
    more = more if found[MOST_LINES:] else ["no run has all these words"] if having.strip() and not found else []
    others = [f"and {len(told) - MOST_TOLD:,} more folders that cannot be read"] if told[MOST_TOLD:] else []
    picked = [run for run in runs if run.name in chosen]
    html = table(caption, HEAD, shown) + notes([*more, *told[:MOST_TOLD], *others]) + comparison(root, picked, curves)
    return View(html, f"{caption}: {', '.join([name for name, *_ in shown] + more)}")


def line(run: Known) -> list[str]:
    """The run's line of the table."""
    profile, seed = (str(run.settings.get(key, "")) for key in ("profile", "seed"))
    eps = run.settings.get("eps")
    radius = eps_text(float(eps)) if isinstance(eps, int | float) and _is_share(eps) else ""
    accuracies = [f"{run.accuracy(each):.1f}{images_of(run, each)}" if each in run.found else "" for each in ATTACKS]
    epochs = " + ".join(map(str, run.epochs))
    return [run.name, profile, run.data, radius, seed, run.made, epochs, *accuracies, "yes" if run.report else "no"]


def images_of(run: Known, attack: str) -> str:
    """The attack's number of images, where it was asked of others than the natural accuracy stands on."""
    images, natural = (run.found.get(name, {}).get("images") for name in (attack, "natural"))
    return "" if images is None or images == natural else f" (n = {images:,})"


def comparison(root: Path, runs: Sequence[Known], curves: str) -> str:
    """Settings that differ, curves over each other, and natural against robust accuracy."""
    if not runs:
        return notes(["choose runs to see their curves; with Ctrl or Shift several of them"])
    settings = notes(["choose two or more, with Ctrl or Shift, to see where their settings differ"])
    if len(runs) > 1:
        lines = differing(runs)
        head = ("setting", *(run.name for run in runs))
        settings = table("settings that differ", head, lines) if lines else notes(["they have the same settings"])
    pictures, troubles = drawn_curves(root, runs, curves)
    return settings + row(pictures) + row(scatters(runs), "heat") + notes(troubles)


def differing(runs: Sequence[Known]) -> list[list[str]]:
    """Every setting in which one of the runs differs from the first, with its value in each."""
    first, *others = runs
    found: dict[str, list[str]] = {}
    for place, run in enumerate(others, 1):
        for each in differences(first.settings, run.settings):
            name, here, there = DIFFERENCE.fullmatch(each).groups()  # type: ignore[union-attr]
            found.setdefault(name, [here] * len(runs))[place] = there
    shown = {name: values for name, values in found.items() if not name.endswith((".about", "preset.name", ".type"))}
    return [[name.removeprefix("preset."), *(value.strip('"') for value in values)] for name, values in shown.items()]


def drawn_curves(root: Path, runs: Sequence[Known], curves: str) -> tuple[list[tuple[str, str]], list[str]]:
    """A picture for each metric with a line for each run, and what could not be read."""
    part, metrics = CURVES[curves]
    lines: dict[str, list[Line]] = {caption: [] for caption in metrics}
    longest, troubles = 1, []
    for run, (color, dash) in zip(runs, looks(runs).values(), strict=True):
        try:
            epochs = read_jsonl(root / run.name / part / "epochs.jsonl")
            points = {
                caption: [(float(each["epoch"]), float(each[metric])) for each in epochs if metric in each]
                for caption, metric in metrics.items()
            }
        except (WorkbookError, OSError, KeyError, TypeError, ValueError) as error:
            reason = "has not got there yet" if isinstance(error, FileNotFoundError) else _here(error, root / run.name)
            troubles.append(f"{run.name}, {curves}: {reason}")
            continue
        longest = max(longest, len(epochs))
        for caption, each in points.items():
            lines[caption].append(Line(name=run.name, color=color, dash=dash, points=each))
    bounds: dict[str, Any] = {"low": 0, "high": 1} if "accurac" in curves else {}
    charts = {caption: Chart(lines=each, epochs=longest, empty="no epochs yet", **bounds) for caption, each in lines.items()}
    pictures = [(caption, chart(caption, each)) for caption, each in charts.items()]
    return pictures, troubles


def looks(runs: Sequence[Known]) -> dict[str, tuple[str, str]]:
    """Colour and dashes of each run."""
    return {run.name: LOOKS[place % len(LOOKS)] for place, run in enumerate(runs)}


def scatters(runs: Sequence[Known]) -> list[tuple[str, str]]:
    """Natural against PGD20 accuracy: a picture for each data set and radius, since others do not compare."""
    groups: dict[str, list[Known]] = {}
    for run in runs:
        if "natural" in run.found and "PGD20" in run.found:
            groups.setdefault(f"{run.data}, eps {eps_text(run.found['PGD20']['eps'])}", []).append(run)
    colors = {name: color for name, (color, _) in looks(runs).items()}
    return [(f"natural and PGD20 accuracy: {data}", scatter(data, group, colors)) for data, group in groups.items()]


SIDE, INSET, BELOW, ABOVE = 260, 34, 28, 16
BESIDE = ((-6, -5, "end"), (6, 12, "start"), (6, -5, "start"), (-6, 12, "end"))  # numbers of points that lie near each other


def scatter(what: str, runs: Sequence[Known], colors: Mapping[str, str]) -> str:
    """A numbered cross for each run, as long as its Wilson intervals; a stepped line joins those that no other beats in both."""
    right, bottom = SIDE - 12, SIDE - BELOW
    x_of, across = _axis([run.found["natural"] for run in runs], INSET, right)
    y_of, up = _axis([run.found["PGD20"] for run in runs], bottom, ABOVE)
    pale, parts, keys = 'stroke="var(--pale)" stroke-width=".7"', list[str](), list[str]()
    for tick in across:
        x = x_of(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ABOVE}" y2="{bottom}" {pale}/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 11}" text-anchor="middle">{100 * tick:.0f}</text>')
    for tick in up:
        y = y_of(tick)
        parts.append(f'<line x1="{INSET}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" {pale}/>')
        parts.append(f'<text x="{INSET - 4}" y="{y + 3:.1f}" text-anchor="end">{100 * tick:.0f}</text>')
    parts.append(f'<text x="{(INSET + right) / 2}" y="{SIDE - 4}" text-anchor="middle">natural accuracy, %</text>')
    parts.append(f'<text x="{INSET}" y="9">PGD20 accuracy, %</text>')
    points = [(run.found["natural"]["accuracy"], run.found["PGD20"]["accuracy"]) for run in runs]
    edge = [points[i] for i in front(points)]
    corners = [(here[0], there[1]) for here, there in pairwise(edge)]
    way = [place for pair in zip_longest(edge, corners) for place in pair if place]
    steps = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in way)
    parts.append(f'<polyline points="{steps}" style="fill:none;stroke:var(--grey)" stroke-dasharray="3 2"/>')
    for number, (run, point) in enumerate(zip(runs, points, strict=True)):
        x, y, ink = x_of(point[0]), y_of(point[1]), f"var(--{colors[run.name]})"
        left, end = (x_of(run.found["natural"][side]) for side in ("low", "high"))
        low, high = (y_of(run.found["PGD20"][side]) for side in ("low", "high"))
        parts.append(f'<line x1="{left:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{ink}"/>')
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" style="stroke:{ink}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{ink}"/>')
        along, down, anchor = BESIDE[number % len(BESIDE)]
        parts.append(f'<text x="{x + along:.1f}" y="{y + down:.1f}" text-anchor="{anchor}">{number + 1}</text>')
        key = f"{number + 1} {run.name}: natural {100 * point[0]:.1f}, PGD20 {100 * point[1]:.1f}"
        keys.append(f'<span><b style="color:{ink}">●</b> {escape(key)}</span>')
    drawn = drawing(SIDE, SIDE, f"natural against PGD20 accuracy, {what}", parts)
    return f'<div class="keys">{"".join(keys)}</div>{drawn}'


def _axis(rows: Sequence[Mapping[str, Any]], start: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Where a share lies between start and end, and its ticks: from twentieth to twentieth around the intervals."""
    low = math.floor(20 * max(0.0, min(row["low"] for row in rows)))
    high = max(low + 1, math.ceil(20 * min(1.0, max(row["high"] for row in rows))))
    step = -(-(high - low) // 5)
    return lambda share: start + (end - start) * (20 * share - low) / (high - low), [k / 20 for k in range(low, high + 1, step)]
