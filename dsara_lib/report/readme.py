"""What the project's README shows of a run: a table, what follows from it, and figures; all from the run folder alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .. import drawing, paper, plots
from ..errors import WorkbookError
from ..evaluation import NATURAL, Evaluation
from ..runs import write_atomically
from ..soundness import marked
from .claims import all_findings
from .collection import collect
from .findings import NOT_MEASURED
from .model_cards import board_told, markdown_table, plain, trained
from .record import LAST, Record, read
from .sections import FOUND, MAIN_ATTACK, counted, eps_of, pareto_points, told

BEGIN, END = "<!-- of the run {run}: written by `workbook.py report`, not by hand -->", "<!-- end of the run -->"
COLUMNS = (NATURAL, "FGSM", "PGD20", "PGD100", "AutoAttack")


def write_readme(run_folder: str | Path, readme: Path, figures: Path) -> list[Path]:
    """Write the part of a README that a run fills, between its two marks, and the figures it shows; the paths written.

    Raises WorkbookError where the README has no such marks.
    """
    record = read(Path(run_folder).resolve())
    text = readme.read_text(encoding="utf-8")
    begin = BEGIN.format(run=record.name)
    whole = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
    if len(whole.findall(text)) != 1:
        raise WorkbookError(f"{readme} has not the lines {begin!r} and {END!r}, once each, between which the run would stand")
    written = [draw(record, name, figures) for name in figures_of(record)]
    part = readme_part(record, figures.relative_to(readme.parent))
    write_atomically(readme, whole.sub(lambda _: f"{begin}\n\n{part}\n\n{END}", text))
    return [readme, *written]


def readme_part(record: Record, figures: Path) -> str:
    """The part that a README shows of a run, in Markdown."""
    pictures = [f"![{alt}]({(figures / f'{name}.png').as_posix()})" for name, (alt, _) in figures_of(record).items()]
    findings = claims(record) if record.source is None else verdicts(record)
    return "\n\n".join([how(record), white_box_table(record), *transfers(record), *findings, *pictures])


def how(record: Record) -> str:
    """The protocol, in a paragraph."""
    card, settings = record.cards[FOUND], record.settings
    few = f" ({settings['limit']:,} a class)" if settings.get("limit") else ""
    return " ".join(
        [
            f"Run `{record.name}`, profile `{settings['profile']}`, {record.data}{few}, seed {settings['seed']}.",
            searched(record),
            f"Training of every network on {card['data']['images']:,} images: {trained(card['training'])}.",
            f"Test: linf eps {eps_of(record)}, n images, Wilson intervals at 95 %.",
            "Weights were chosen on held-out training images, nothing on test images.",
        ]
    )


def searched(record: Record) -> str:
    """The search, or where the architecture comes from."""
    if record.source is not None:
        return f"`found` is the architecture {plain(record.source.about)}; no weight comes from there."
    search = record.preset["search"]
    epochs = sum(stage["epochs"] for stage in search["stages"])
    learned = f" on {search['images']:,} images" if search.get("images") else ""
    return f"Search: {search['num_cells']} cells, {search['channels']} channels, {epochs} epochs{learned}."


def white_box_table(record: Record) -> str:
    """Each network under each attack."""
    head = ["network", "parameters", "FLOPs", *(f"{name}{images_of(record, name)}" for name in COLUMNS), "soundness board"]
    rows = []
    for network in dict.fromkeys(row["network"] for row in record.white_box if not row["network"].endswith(f"-{LAST}")):
        found = [record.row(network, name) for name in COLUMNS]
        numbers = ("–" if row is None else told(row) for row in found)
        rows.append([network, *counted(record, network), *numbers, board_told(record, network)])
    return markdown_table(head, rows)


def images_of(record: Record, attack: str) -> str:
    """On how many images a column stands, with the budget where it is not the standard one."""
    row = record.row(FOUND, attack)
    if row is None:
        return ""
    reduced = attack == "AutoAttack" and (row.get("steps"), row.get("targets"), row.get("queries")) != (100, 9, 5000)
    budget = f", {row['steps']} steps, {row['targets']} targets, {row['queries']} queries" if reduced else ""
    return f" (n={row['images']:,}{budget})"


def transfers(record: Record) -> Iterator[str]:
    """Who fools whom, under the paper's attack."""
    rows = {(row["source"], row["target"]): row for row in record.transfer if row["attack"] == MAIN_ATTACK}
    if not rows:
        return
    sources, targets = (list(dict.fromkeys(pair[place] for pair in rows)) for place in (0, 1))
    count = next(iter(rows.values()))["images"]
    yield (
        f"Accuracy of each target under {MAIN_ATTACK} crafted on a source, {count:,} test images. On the diagonal: white box; "
        "images that are wrong without attack are attacked here too, and a few come out right:"
    )
    yield markdown_table(
        ["source \\ target", *targets], [[s, *(f"{100 * rows[s, t]['accuracy']:.1f} %" for t in targets)] for s in sources]
    )


def claims(record: Record) -> Iterator[str]:
    """The paper's claims that this run alone can judge."""
    findings = [each for each in all_findings(collect(record.folder.parent, [record.name])) if each.verdict != NOT_MEASURED]
    if findings:
        yield "The paper's claims, as far as this one run can judge them:"
        yield "\n".join(f"- *{each.title}*: **{each.verdict}**. {each.sentence}" for each in findings)


def verdicts(record: Record) -> Iterator[str]:
    """How what was found elsewhere stands to what stands beside it, by McNemar's test on the same images."""
    found = record.evaluations.get(FOUND)
    if found is None:
        return
    lines = [
        f"- beside {name}: {', '.join(verdict(found, other, attack) for attack in (NATURAL, MAIN_ATTACK))}"
        for name, other in record.evaluations.items()
        if not name.startswith(FOUND)
    ]
    if lines:
        yield "The found architecture is, by McNemar's test on the same test images,"
        yield "\n".join(lines)


def verdict(one: Evaluation, other: Evaluation, attack: str) -> str:
    """In words, whether the first is the better under an attack."""
    where = "on clean images" if attack == NATURAL else f"under {attack}"
    try:
        counts = one.compare(other, attack)
    except WorkbookError:  # not the same images, or not the same attack
        return f"not to be compared {where}"
    return f"{'not shown to differ' if counts.verdict == 'no evidence' else counts.verdict} {where} (p = {counts.p_value:.2g})"


# -- figures -----------------------------------------------------------------------------------------------------------


def figures_of(record: Record) -> dict[str, tuple[str, Callable[[Record], bytes]]]:
    """By name, what a picture shows and how it is drawn; of a run that searched nothing one, named after the run."""
    if record.source is None:
        return FIGURES
    return {record.name: (f"Accuracy of each network on {record.data} under each attack, with Wilson intervals", _png(_accuracies))}


def draw(record: Record, name: str, folder: Path) -> Path:
    """A figure of the run as a PNG; its path."""
    path = folder / f"{name}.png"
    write_atomically(path, figures_of(record)[name][1](record))
    return path


def _png(make: Callable[[Record], plots.Figure]) -> Callable[[Record], bytes]:
    return lambda record: plots.to_bytes(make(record), "png")


def _cell(kind: str, record: Record) -> bytes:
    assert record.genotype is not None
    return drawing.draw(record.genotype, kind, format="png")


def _accuracies(record: Record) -> plots.Figure:
    return plots.accuracy_by_attack([marked(each, record.boards.get(name, [])) for name, each in record.evaluations.items()])


def _pareto(record: Record) -> plots.Figure:
    ours = f"measured here, profile {record.settings['profile']}"
    return plots.pareto(pareto_points(record), paper.pareto_points("CIFAR-10"), MAIN_ATTACK, ours)


FIGURES: dict[str, tuple[str, Callable[[Record], bytes]]] = {
    "cell_robust": ("The found robust cell: edges carry their operation and softmaxed alpha", partial(_cell, "robust")),
    "alpha_lines": (
        "Softmaxed alphas over the search, the stage change marked",
        _png(lambda record: plots.alpha_lines(record.alphas, record.search.epochs)),
    ),
    "gamma_and_cosine": (
        "Gamma and the angle between both gradients in the second stage",
        _png(lambda record: plots.gamma_and_cosine(record.search.steps)),
    ),
    "accuracy_by_attack": ("Accuracy of each network under each attack, with Wilson intervals", _png(_accuracies)),
    "pareto": ("Natural against PGD20 accuracy: hollow the paper's, filled measured here", _png(_pareto)),
    "soundness_board": (
        "The soundness board: twenty checks of each network",
        _png(lambda record: plots.soundness_board(record.boards)),
    ),
}
