"""The report: one page that loads nothing, shows the tables' numbers and no others, and says what is missing."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import SPACE, toy_blueprint, toy_genotype

from dsara_lib import drawing, paper, plots
from dsara_lib.cli import main
from dsara_lib.data import eps_text
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation, TransferMatrix, mean_and_spread, paired, read_csv, write_csv
from dsara_lib.presets import DEMO, PAPER
from dsara_lib.report import write_report
from dsara_lib.report.record import read
from dsara_lib.report.sections import SECTIONS, amount, differing_settings, p_text
from dsara_lib.runs import RunStore, describe, read_json, write_json, write_jsonl
from dsara_lib.soundness import Check, save

NETWORKS = ("found", "found-last", "found-natural", "AdvRush")
SETTINGS = {
    "FGSM": {"eps": 0.2, "engine": "dsara"},
    "PGD20": {"eps": 0.2, "step_size": 0.05, "steps": 20, "engine": "dsara"},
    "AutoAttack": {"eps": 0.2, "steps": 100, "targets": 2, "queries": 5000, "engine": "pyautoattack"},
}
BOARDS = {
    "found": [Check(name="zero gradients", verdict="pass", number="0 %", sentence="No image is without a gradient.")],
    "found-natural": [Check(name="softmaxed output", verdict="fail", number="100 %", sentence="Every answer sums to one.")],
}
CLASSES = ("a", "b", "c")
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and tables as rows of texts."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text, self.open = "", list[str]()
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "th" in self.open or "td" in self.open:
            self.tables[-1][-1][-1] += data + " " * (data == data.strip())

    def table(self, first: str, after: str = "") -> list[list[str]]:
        """The first table whose head begins with these words; `after`: that has this word in its head, too."""
        for table in self.tables:
            if table[0][0].strip() == first and any(after in cell for cell in table[0]):
                return [[" ".join(cell.split()) for cell in row] for row in table]
        raise AssertionError(f"no table {first!r}: {[table[0] for table in self.tables]}")


def evaluation(network: str, seed: int, data: str = "digits") -> Evaluation:
    drawn = torch.Generator().manual_seed(seed)
    labels = torch.arange(30) % 3
    predictions = {name: torch.randint(0, 3, (30,), generator=drawn) for name in ("natural", *SETTINGS)}
    described = {"network": network, "data": data, "eps": 0.2, "classes": CLASSES, "attacks": SETTINGS}
    return Evaluation(labels=labels, predictions=predictions, **described)


def write_search(folder: Path) -> None:
    cells = toy_genotype().to_dict()
    common = {"stage": 1, "train/adversarial_loss": 2.0, "validation/adversarial_loss": 2.1, "validation/natural_loss": 1.5}
    both = {"gamma": 0.25, "gradient_cosine": -0.5, "gradient_norm/natural": 1.0, "gradient_norm/adversarial": 2.0}
    scores = {"validation/adversarial_accuracy": 0.4, "validation/natural_accuracy": 0.6, "genotype": cells, "seconds": 1.0}
    kinds = {f"{name}/{kind}": 1 for name in ("entropy", "skips") for kind in SPACE.kinds}
    steps = [{"epoch": e, "step": 2 * e + i, **common, **(both if e == 2 else {}), "stage": e} for e in (1, 2) for i in (0, 1)]
    write_jsonl(folder / "history.jsonl", steps)
    write_jsonl(folder / "epochs.jsonl", [{"epoch": e, **common, **scores, **kinds, "stage": e} for e in (1, 2)])
    write_json(folder / "genotype.json", cells | {"source": "search on digits, epoch 2 of 2"})
    alphas = {kind: np.random.default_rng(0).normal(size=(3, len(SPACE.edges), 2)) for kind in SPACE.kinds}
    names = {"operations": np.array(SPACE.operations), "edges": np.array([f"{s}->{n}" for s, n in SPACE.edges])}
    np.savez(folder / "alphas.npz", **alphas, **names)


def write_training(folder: Path, name: str) -> None:
    scores = {"validation/natural_accuracy": 0.5, "validation/adversarial_accuracy": 0.25, "validation/adversarial_loss": 1.0}
    rates = {"learning_rate": 0.1, "train/adversarial_loss": 1.0, "train/adversarial_accuracy": 0.3, "seconds": 1.0}
    write_jsonl(folder / "epochs.jsonl", [{"epoch": e, **rates, **scores, "best_epoch": 1} for e in (1, 2)])
    write_jsonl(folder / "history.jsonl", [{"epoch": 1, "step": 0, **rates}])
    training = describe(replace(DEMO.training, attack=None) if name.endswith("natural") else DEMO.training)
    about = {"name": "digits", "classes": list(CLASSES), "images": 60, "image_size": 8, "eps": 0.2}
    card = {"schema": 1, "name": name, "training": training, "data": about, "held_out": {}, "measured": []}
    card["blueprint"] = toy_blueprint().to_dict()
    for epoch, which in ((1, "best"), (2, "last")):
        write_json(folder / which / "card.json", card | {"which": which, "epoch": epoch})


def write_evaluation(folder: Path, networks: tuple[str, ...] = NETWORKS, data: str = "digits") -> None:
    found = [evaluation(name, seed, data) for seed, name in enumerate(networks)]
    write_csv(folder / "white_box.csv", [row for each in found for row in each.rows()])
    for each in found:
        if "/" not in each.network:
            each.save(folder / f"{each.network}.npz")
    curve = [
        row | {"eps": eps, "attack": "PGD20"} for each in found[:2] for row, eps in zip(each.rows()[:3], (0, 0.1, 0.2), strict=True)
    ]
    write_csv(folder / "accuracy_against_eps.csv", curve)
    labels = found[0].labels
    predictions = torch.randint(0, 3, (len(networks), len(networks), 30), generator=torch.Generator().manual_seed(9))
    rows = []
    for attack in ("PGD20", "MI-FGSM"):
        described = {"attack": attack, "eps": 0.2, "data": data}
        matrix = TransferMatrix(sources=networks, targets=networks, labels=labels, predictions=predictions, **described)
        rows += matrix.rows()
        matrix.save(folder / f"transfer-{attack}.npz")
    write_csv(folder / "transfer.csv", rows)
    for name, checks in BOARDS.items():
        save(folder / f"{name}-soundness.json", checks, {})


def write_run(results: Path) -> Path:
    """A run folder as a finished chain leaves it, small."""
    settings = {"profile": "demo", "changes": "training.epochs=2", "data": "digits", "limit": 20, "seed": 3, "eps": 0.2}
    run = RunStore(results).open("fake", settings | {"preset": DEMO})
    write_search(run.path("search"))
    for name in NETWORKS:
        if name != "found-last":
            write_training(run.path("networks", name), name)
    write_evaluation(run.path("evaluation"))
    run.path("figures").mkdir()
    run.path("figures", "adversarial_examples_found.svg").write_text(SVG)
    return run.folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(write_report(finished))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "fake"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty figures in place of all, which take most of the time."""
    for name in plots.__all__:
        if name[0].islower() and name not in ("front", "save", "style", "to_bytes"):
            monkeypatch.setattr(plots, name, lambda *_, **__: plots.Figure(figsize=(1, 1)))
    monkeypatch.setattr(plots, "to_bytes", lambda *_: b"figure")
    monkeypatch.setattr(drawing, "cell_svg", lambda *_: SVG)


def shown(row: dict[str, Any]) -> str:
    """An accuracy as the report writes it."""
    return f"{100 * row['accuracy']:.1f} % {100 * row['low']:.1f} to {100 * row['high']:.1f}"


def assert_loads_and_runs_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "iframe", "object", "embed", "form", "base", "svg", "audio", "video"})
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            if attributes.get(name) is not None:
                assert re.match(r"data:|#", str(attributes[name])), (tag, attributes[name])
    assert page.source.count("<style>") == 1 and "url(" not in page.source and "@import" not in page.source
    assert "default-src 'none'" in page.source


# -- the page ----------------------------------------------------------------------------------------------------------


def test_page_loads_and_runs_nothing(page: Page):
    assert_loads_and_runs_nothing(page)
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")


def test_finished_run_has_every_part_and_nothing_missing(page: Page):
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == list(SECTIONS)
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{name}" for name in SECTIONS]
    assert "Not run yet" not in page.text and "could not be" not in page.text.lower()
    assert sum(tag == "img" for tag, _ in page.elements) == 6 + 3 + 3 + 2 + 1 + 1 + 1 + 2 + 1


@pytest.mark.usefixtures("undrawn")
def test_writing_again_gives_the_same_bytes(run: Path):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_page_names_no_folder_of_this_machine(page: Page, finished: Path):
    assert str(finished.parent) not in page.source


@pytest.mark.usefixtures("undrawn")
def test_saved_figure_is_shown_only_while_it_is_newer_than_its_numbers(run: Path):
    curve, figure = run / "evaluation" / "accuracy_against_eps.csv", run / "figures" / "accuracy_against_eps.svg"
    figure.write_text(SVG.replace('"9"', '"72pt"', 1))
    os.utime(figure, ns=(curve.stat().st_mtime_ns,) * 2)
    images = [attributes for tag, attributes in Page(write_report(run)).elements if tag == "img"]
    used = [each for each in images if base64.b64decode(each["src"].partition(",")[2]) == figure.read_bytes()]
    assert [each["style"] for each in used] == ["width:112px"]
    os.utime(figure, ns=(curve.stat().st_mtime_ns - 1,) * 2)
    assert base64.b64encode(figure.read_bytes()).decode() not in write_report(run).read_text()


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_white_box_table_shows_the_numbers_of_the_csv(page: Page, finished: Path):
    table = page.table("network", "all attacks")
    rows = read_csv(finished / "evaluation" / "white_box.csv")
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    assert table[0][3:6] == ["natural eps 0", "FGSM eps 0.2", "PGD20 eps 0.2, 20 steps of 0.05"]
    assert table[0][6] == "AutoAttack eps 0.2, 100 steps, 2 targets, 5,000 queries, pyautoattack"
    assert [row[0] for row in table[1:]] == list(NETWORKS)
    for line in table[1:]:
        mine = {row["attack"]: row for row in rows if row["network"] == line[0]}
        assert line[3:7] == [shown(mine[attack]) for attack in attacks]
        worst = evaluation(line[0], NETWORKS.index(line[0])).worst_case().float().mean().item()
        assert line[7].startswith(f"{100 * worst:.1f} %")
    assert [line[1] for line in table[1:]] == ["best, epoch 1", "last, epoch 2", "best, epoch 1", "best, epoch 1"]
    assert [line[2] for line in table[1:]] == ["all checks pass", "not checked", "fails: softmaxed output", "not checked"]


def test_soundness_is_told_in_the_checks_own_words(page: Page):
    assert "fail: softmaxed output. Every answer sums to one." in page.text
    assert ["zero gradients", "found", "pass", "0 %", "No image is without a gradient."] in page.table("check")


@pytest.mark.usefixtures("undrawn")
def test_failed_check_of_the_found_network_stands_in_the_headline(run: Path):
    save(run / "evaluation" / "found-soundness.json", BOARDS["found-natural"], {})
    assert "Beside these numbers stands what the soundness board says: fails: softmaxed output." in Page(write_report(run)).text


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1.000"), (0.0494, "0.049"), (0.001, "0.001"), (0.00099, "< 0.001"), (0.0, "< 0.001")]
)
def test_p_is_never_a_bare_zero(value: float, text: str):
    assert p_text(value) == text


def test_better_is_said_only_where_the_paired_test_says_so(page: Page):
    table = page.table("in this comparison")
    for line in table[1:]:
        other = line[0].rpartition(" ")[2]
        ours, theirs = (evaluation(name, NETWORKS.index(name)).correct(line[1]) for name in ("found", other))
        counts = paired(ours, theirs)
        words = {"better": "better than", "worse": "worse than"}.get(counts.verdict, "not shown to differ from")
        assert line[0] == f"found is {words} {other}"
        numbers = (len(ours), counts.alone, counts.other_alone, counts.both, counts.neither)
        assert line[2:] == [*map(str, numbers), p_text(counts.p_value)]
    assert len(table) == 1 + 3 * (len(NETWORKS) - 1)


@pytest.mark.usefixtures("undrawn")
def test_runs_that_differ_in_their_seed_alone_give_mean_and_spread(run: Path):
    assert "Over the seeds" not in Page(write_report(run)).text
    other = Path(shutil.copytree(run, run.parent / "other"))
    card = read_json(other / "run.json")
    card["settings"]["seed"] = 4
    write_json(other / "run.json", card)
    rows = read_csv(other / "evaluation" / "white_box.csv")
    write_csv(other / "evaluation" / "white_box.csv", [row | {"accuracy": row["accuracy"] / 2} for row in rows])
    table = Page(write_report(run)).table("network", "deviation")
    for row, line in zip(rows, table[1:], strict=True):
        mean, deviation = mean_and_spread([row["accuracy"], row["accuracy"] / 2])
        assert line == [row["network"], row["attack"], "2", f"{100 * mean:.1f} %", f"{100 * deviation:.1f}"]
    card["settings"]["profile"] = "short"
    write_json(other / "run.json", card)
    assert "Over the seeds" not in Page(write_report(run)).text


def ask_of_first(run: Path, number: int) -> dict[str, Evaluation]:
    """Rewrite the evaluations so that AutoAttack was asked of so many images only."""
    found = {}
    for seed, name in enumerate(NETWORKS):
        whole = evaluation(name, seed)
        predictions = {attack: p[: number if attack == "AutoAttack" else 30] for attack, p in whole.predictions.items()}
        found[name] = replace(whole, predictions=predictions)
        found[name].save(run / "evaluation" / f"{name}.npz")
    write_csv(run / "evaluation" / "white_box.csv", [row for each in found.values() for row in each.rows()])
    return found


@pytest.mark.usefixtures("undrawn")
def test_each_number_says_of_how_many_images_it_is_where_these_are_fewer(run: Path):
    found = ask_of_first(run, 12)
    page = Page(write_report(run))
    told, words = "30 test images (AutoAttack: the first 12)", " ".join(page.text.split())
    for first, after in (("network", "soundness"), ("network", "numbers are")):
        table = page.table(first, after)
        (at,) = (place for place, head in enumerate(table[0]) if head.startswith("AutoAttack"))
        ours = {line[0]: line for line in table[1:] if line[0] in NETWORKS}
        for name, each in found.items():
            *_, pgd, strongest = each.rows()
            assert ours[name][at] == f"{shown(strongest)}, n = 12" and shown(pgd) in ours[name]
    for name, line in {line[0]: line for line in page.table("network", "soundness")[1:]}.items():
        assert line[-1].startswith(f"{100 * found[name].worst_case().float().mean():.1f} %") and line[-1].endswith(", n = 12")
    assert words.count(told) >= 3 and "the strongest attack here, " in words and " of the first 12 are left." in words
    for line in page.table("in this comparison")[1:]:
        assert line[2] == ("12" if line[1] == "AutoAttack" else "30") == str(sum(map(int, line[3:7])))


def test_table_of_other_images_than_the_predictions_is_told(run: Path):
    ask_of_first(run, 12)
    rows = read_csv(run / "evaluation" / "white_box.csv")
    write_csv(run / "evaluation" / "white_box.csv", [row | {"images": 30} for row in rows])
    assert read(run).evaluations == {} and "do not tell the same" in " ".join(read(run).troubles)


def test_transfer_table_and_gaps_show_the_numbers_of_the_csv(page: Page, finished: Path):
    table = page.table("source \\ target", "found")
    written = read_csv(finished / "evaluation" / "transfer.csv")
    assert {row["attack"] for row in written} == {"PGD20", "MI-FGSM"} and "MI-FGSM with eps 0.2" in page.text
    rows = {(row["source"], row["target"]): row for row in written if row["attack"] == "PGD20"}
    assert table[0][1:] == list(NETWORKS)
    for line in table[1:]:
        assert line[1:] == [shown(rows[line[0], target]) for target in NETWORKS]
    forth, back = rows["found", "AdvRush"], rows["AdvRush", "found"]
    assert (
        f"found → AdvRush: success rate {100 * forth['success_rate']:.1f} %; AdvRush → found: {100 * back['success_rate']:.1f} %; "
        f"gap {100 * abs(forth['accuracy'] - back['accuracy']):.1f} points (eps 0.2)" in page.text
    )


def test_curve_table_shows_the_numbers_of_the_csv(page: Page, finished: Path):
    table = page.table("network", "eps 0.1")
    rows = read_csv(finished / "evaluation" / "accuracy_against_eps.csv")
    for line in table[1:]:
        assert line[1:] == [shown(row) for row in rows if row["network"] == line[0]]


def test_balanced_accuracy_stands_beside_where_classes_are_unbalanced_also_in_a_run_without_that_column(run: Path, undrawn: None):
    assert "balanced" not in Page(write_report(run)).text
    table = run / "evaluation" / "white_box.csv"
    drawn, rows, uneven = torch.Generator().manual_seed(0), [], {}
    for seed, name in enumerate(NETWORKS):
        one = evaluation(name, seed)
        uneven[name] = replace(one, labels=(torch.rand(30, generator=drawn) > 0.8).long())
        uneven[name].save(run / "evaluation" / f"{name}.npz")
        rows += [{k: v for k, v in row.items() if k != "balanced_accuracy"} for row in uneven[name].rows()]
    write_csv(table, rows)
    page = Page(write_report(run))
    (line,) = (each for each in page.table("network", "soundness")[1:] if each[0] == "found")
    mine = [row for row in rows if row["network"] == "found"]
    expected = [f"{shown(row)}, balanced {100 * uneven['found'].balanced_accuracy(row['attack']):.1f} %" for row in mine]
    assert line[3 : 3 + len(mine)] == expected
    assert "Classes are unbalanced" in page.text and "3 classes, unbalanced" in page.text
    assert f"Guessing would be right on {100 * uneven['found'].guessing:.1f} %" in page.text


def test_the_way_pictures_were_read_is_told_and_part_of_the_command(run: Path, undrawn: None):
    card = json.loads((run / "run.json").read_text())
    card["settings"] |= {"size": 16, "skip_unreadable": True}
    (run / "run.json").write_text(json.dumps(card))
    page = Page(write_report(run))
    assert "20 images per class, pictures brought to 16x16, unreadable files left out · profile demo" in page.text
    assert "--limit 20 --size 16 --skip-unreadable --set training.epochs=2" in page.text


def test_headline_says_what_was_found_with_intervals_and_eps(page: Page, finished: Path):
    rows = {(row["network"], row["attack"]): row for row in read_csv(finished / "evaluation" / "white_box.csv")}
    for network, attack in (("found", "natural"), ("found", "PGD20"), ("found-natural", "PGD20")):
        row = rows[network, attack]
        assert f"{100 * row['accuracy']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})" in page.text
    assert "PGD20 with eps 0.2" in page.text and "33.3 %" in page.text and "profile demo · seed 3" in page.text
    assert "that of epoch 2 was taken" in page.text and "mean gamma (weight of the natural one) 0.25" in page.text
    assert "in conflict in 2 of 2 steps" in page.text


def test_paper_rows_stand_beside_ours_and_each_says_whose_it_is(page: Page, finished: Path):
    table = page.table("network", "APGD-CE")
    rows = {(row["network"], row["attack"]): row for row in read_csv(finished / "evaluation" / "white_box.csv")}
    theirs = [line for line in table[1:] if line[1].startswith("the paper's")]
    ours = [line for line in table[1:] if line[1].startswith("measured here")]
    assert len(theirs) == 11 and len(ours) == len(NETWORKS) and len(table) == 16
    expected = ["DSARA", "the paper's CIFAR-10, eps 8/255", "4.5M", "1.27G", "85.92 %", "62.45 %", "55.87 %", "55.43 %"]
    assert theirs[-1] == [*expected, "54.84 %", "52.66 %"]
    for line in ours:
        kind = "natural" if "natural" in line[0] else "adversarial"
        assert line[1] == f"measured here digits, demo, {DEMO.training.epochs} {kind} epochs, eps 0.2, 30 test images"
        assert line[4:7] == [shown(rows[line[0], attack]) for attack in ("natural", "FGSM", "PGD20")]
        assert line[7:9] == 2 * ["not evaluated here"] and line[9] == shown(rows[line[0], "AutoAttack"])
    second = page.table("source \\ target", "WRN-R")
    assert second[-1] == ["DSARA", "77.09 %", "67.80 %", "64.65 %", "55.87 %"]
    assert "not comparable with the paper's" in page.text


def test_settings_that_differ_are_those_and_no_others(finished: Path, page: Page):
    differing = {name: (ours, theirs) for name, ours, theirs in differing_settings(read(finished))}
    assert differing["search.channels"] == (str(DEMO.search.channels), "24") and differing["num_cells"] == (
        str(DEMO.num_cells),
        "20",
    )
    assert differing["training.epochs"] == (str(DEMO.training.epochs), "200")
    assert differing["search.attack.step_size"] == (eps_text(DEMO.search.attack.step_size), eps_text(1 / 510))
    assert "training.momentum" not in differing and "name" not in differing
    assert len(page.table("setting")) == 1 + len(differing)


def test_paper_profile_differs_in_nothing(run: Path):
    card = read_json(run / "run.json")
    card["settings"]["preset"] = describe(PAPER)
    write_json(run / "run.json", card)
    assert differing_settings(read(run)) == []


def test_command_to_repeat_it_is_there(page: Page):
    command = "python3 workbook.py run --run fake --profile demo --data digits --seed 3 --limit 20 --set training.epochs=2"
    assert command in page.text


@pytest.mark.parametrize(
    ("number", "text"), [(4_512_345, "4.51M"), (1_270_000_000, "1.27G"), (668_530_000, "668.53M"), (9_870, "9.9k")]
)
def test_amounts_are_written_as_in_table_1(number: int, text: str):
    assert amount(number) == text


# -- what is not there -------------------------------------------------------------------------------------------------


def remove(*places: str) -> Callable[[Path], None]:
    def spoil(run: Path) -> None:
        for place in places:
            for path in run.glob(place):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (remove("search"), "Not run yet: the search. It is written by notebook 02"),
        (remove("search/genotype.json"), "Not run yet: the architecture. It is written by notebook 02"),
        (remove("search/alphas.npz"), "Not run yet: the alphas"),
        (remove("networks"), "Not run yet: the retraining. It is written by notebook 03"),
        (remove("evaluation"), "Not run yet: the white-box evaluation. It is written by notebook 04"),
        (remove("evaluation/transfer*"), "Not run yet: the black-box evaluation. It is written by notebook 05"),
        (remove("evaluation/accuracy*"), "Not run yet: accuracy against eps. It is written by notebook 04"),
        (remove("figures"), "Not run yet: adversarial examples. It is written by notebook 04"),
        (remove("evaluation/*.npz"), ""),
        (remove("evaluation/*.json"), "Not run yet: the soundness board. It is written by notebook 04"),
        (remove("networks/found-natural"), ""),
    ],
)
def test_steps_that_are_not_run_are_named_and_no_errors(spoil: Callable[[Path], None], sentence: str, run: Path):
    spoil(run)
    page = Page(write_report(run))
    assert sentence in page.text and "could not be" not in page.text.lower()


@pytest.mark.usefixtures("undrawn")
def test_run_that_has_only_begun_has_a_report(tmp_path: Path):
    settings = {"profile": "paper", "changes": "", "data": "cifar10", "limit": None, "seed": 0, "eps": 8 / 255, "preset": PAPER}
    page = Page(write_report(RunStore(tmp_path).open("begun", settings).folder))
    assert page.text.count("Not run yet") >= 7 and "The search on cifar10 has not been run yet" in page.text
    assert "could not be" not in page.text.lower() and "paper's settings throughout" in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name", ["search/epochs.jsonl", "search/alphas.npz", "networks/found/best/card.json", "evaluation/white_box.csv"]
)
def test_damaged_file_is_named_and_the_rest_stands(name: str, run: Path):
    (run / name).write_text('network,accuracy\n{"epoch": [\x00')
    page = Page(write_report(run))
    assert "Could not be read" in page.text and Path(name).name in page.text
    assert len([tag for tag, _ in page.elements if tag == "section"]) == len(SECTIONS)


@pytest.mark.usefixtures("undrawn")
def test_predictions_that_contradict_the_table_are_told(run: Path):
    rows = read_csv(run / "evaluation" / "white_box.csv")
    rows[0]["correct"] += 1
    write_csv(run / "evaluation" / "white_box.csv", rows)
    assert "do not tell the same" in Page(write_report(run)).text


def test_folder_without_a_run_is_refused_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        write_report(tmp_path)
    (tmp_path / "odd").mkdir()
    write_json(tmp_path / "odd" / "run.json", {"schema": 1})
    with pytest.raises(WorkbookError, match="no settings"):
        write_report(tmp_path / "odd")
    assert not list(tmp_path.rglob("report.html"))
    assert main(["report", "--run", "nothing", "--results", str(tmp_path)]) == 2
    assert "no run 'nothing'" in capsys.readouterr().err


# -- what others write into files --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_nothing_read_from_a_file_becomes_markup(run: Path):
    card = read_json(run / "run.json")
    card["settings"] |= {"profile": HOSTILE, "data": HOSTILE, "changes": HOSTILE, "seed": HOSTILE}
    card |= {"created": HOSTILE, "library": HOSTILE}
    card["settings"]["preset"]["search"]["stages"][0]["upper_level"]["type"] = HOSTILE
    card["settings"]["preset"][HOSTILE] = [HOSTILE]
    write_json(run / "run.json", card)
    write_json(run / "environment.json", {HOSTILE: HOSTILE})
    genotype = read_json(run / "search" / "genotype.json")
    write_json(run / "search" / "genotype.json", genotype | {"name": HOSTILE, "source": HOSTILE})
    network = read_json(run / "networks" / "found" / "best" / "card.json")
    network["data"] |= {"name": HOSTILE, "classes": 3 * [HOSTILE]}
    network["epoch"] = HOSTILE
    write_json(run / "networks" / "found" / "best" / "card.json", network)
    shutil.rmtree(run / "evaluation")
    write_evaluation(run / "evaluation", ("found", HOSTILE), HOSTILE)
    (run / "figures" / "adversarial_examples_found.svg").write_text(SVG.replace("<rect", "<script>alert(1)</script><rect"))
    page = Page(write_report(run))
    assert_loads_and_runs_nothing(page)
    assert HOSTILE in page.text and "<script" not in page.source


# -- the paper's tables ------------------------------------------------------------------------------------------------


def test_paper_tables_give_points_in_the_unit_square():
    points = paper.pareto_points()
    assert len(points) == 20 and {point["data"] for point in points} == set(paper.DATA.values())
    assert all(0 < point["robust"] < point["natural"] < 1 for point in points)
    best = max(paper.pareto_points("CIFAR-10"), key=lambda point: point["robust"])
    assert best["network"] == "DSARA" and math.isclose(best["robust"], 0.5587)


def test_gaps_of_section_6_2_follow_from_table_2():
    sources, targets, percents = paper.transfer_table()
    at = {(s, t): 100 - percents[i][j] for i, s in enumerate(sources) for j, t in enumerate(targets)}
    assert at["DSARA", "AdvRush"] - at["AdvRush", "DSARA"] == pytest.approx(2.16)
    assert at["DSARA", "ABanditNAS-10"] - at["ABanditNAS-10", "DSARA"] == pytest.approx(10.59)
    assert at["DSARA", "WRN-R"] == pytest.approx(22.91)
