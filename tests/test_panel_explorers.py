"""The explorers of notebooks 01, 04 and 09 without a browser: what their choices show, and what is shown where nobody chooses."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from toys import toy_blueprint, toy_genotype

from dsara_lib import panel
from dsara_lib.architecture import SearchSpace, zoo
from dsara_lib.attacks import ATTACKS, make_attack
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import write_csv
from dsara_lib.experiment import Experiment, open_experiment
from dsara_lib.notebooks import FOLDER, parameters_of
from dsara_lib.panel.architecture import PRINTED_FOR, architecture, architectures, explore_architectures, stack
from dsara_lib.panel.attack import FAST, Crafted, attacked, bars, craft, explore_attacks, is_fast, most_probable, png, verdict
from dsara_lib.panel.choices import Choice, Shown, View, explore
from dsara_lib.panel.explorer import Explorer
from dsara_lib.panel.runs import CURVES, HEAD, SORTED, Known, browser, differing, explore_runs, known, known_runs, line, scatter
from dsara_lib.runs import RunStore, write_jsonl

CLASSES = ("a", "b", "c")


def svgs(html: str) -> list[ElementTree.Element]:
    """Every drawing in the HTML, parsed."""
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def words(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter("text")]


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "somebody_is_there", lambda: True)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A run at its beginning."""
    return open_experiment("one", limit=4, device="cpu", results=tmp_path_factory.mktemp("results"))


# --------------------------------------------------------------------------------------------------------- all explorers

NUMBERS = {"number": Choice(name="a number", options=range(0, 9, 2), first=4)}


def halved(number: int, more: int = 0) -> View:
    if number == 0:
        raise WorkbookError("zero has no half worth showing")
    if number == 8:
        raise RuntimeError("a mistake of ours")
    return View(f"<p>{number // 2 + more}</p>", f"half is {number // 2}", ("number",) if number == 6 else ())


def halving(**options: Any) -> Explorer:
    shown = explore(NUMBERS, halved, buttons={"More": lambda explorer: explorer.paint(more=10)}, interactive=True, **options)
    assert isinstance(shown, Explorer)
    return shown


@pytest.mark.parametrize("interactive", [True, False])
def test_where_nobody_chooses_the_first_view_stays_without_widgets(interactive: bool) -> None:
    shown = explore(NUMBERS, halved, buttons={}, interactive=interactive)
    assert isinstance(shown, Shown)
    bundle = shown._repr_mimebundle_()
    assert bundle.keys() == {"text/html", "text/plain"} and "<p>2</p>" in bundle["text/html"]
    assert bundle["text/plain"] == "half is 2"


def test_who_wants_no_widgets_gets_none(somebody: None) -> None:
    assert isinstance(explore(NUMBERS, halved, buttons={}, interactive=False), Shown)


def test_the_picture_follows_the_choice_and_the_button(somebody: None) -> None:
    explorer = halving()
    assert "<p>2</p>" in explorer.picture.value
    explorer.choices["number"].value = 2
    assert "<p>1</p>" in explorer.picture.value
    explorer.buttons["More"].click()
    assert "<p>11</p>" in explorer.picture.value


def test_what_cannot_be_shown_is_said_and_the_next_choice_is_shown(somebody: None) -> None:
    explorer = halving()
    explorer.choices["number"].value = 0
    assert "zero has no half" in explorer.picture.value and 'role="alert"' in explorer.picture.value
    explorer.choices["number"].value = 8
    assert "RuntimeError: a mistake of ours" in explorer.picture.value
    explorer.choices["number"].value = 2
    assert "<p>1</p>" in explorer.picture.value


def test_a_choice_that_makes_no_difference_is_disabled(somebody: None) -> None:
    explorer = halving()
    explorer.choose(number=6)
    assert explorer.choices["number"].disabled
    explorer.choose(number=4)
    assert not explorer.choices["number"].disabled


def test_who_reads_the_notebook_where_no_widgets_are_sees_the_picture(somebody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []
    monkeypatch.setattr("dsara_lib.panel.explorer.display", lambda what, **options: noted.append(what))
    halving()._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in noted[0] and "<p>2</p>" in noted[0]["text/html"]


@pytest.mark.parametrize("number", ["01", "04", "09"])
def test_notebooks_with_an_explorer_let_it_be_turned_off(number: str) -> None:
    (path,) = FOLDER.glob(f"{number}_*.ipynb")
    assert parameters_of(path)["INTERACTIVE"][:2] == ("bool", "True")


# ---------------------------------------------------------------------------------------------------------- architectures

SMALL: dict[str, Any] = {"placement": "A-A-R", "filters": (1, 2, 2), "num_cells": 5, "channels": 4, "images": (8, 1, 10)}


def test_at_its_own_size_a_published_architecture_stands_beside_table_1(experiment: Experiment) -> None:
    genotypes, sizes = architectures(experiment)
    view = architecture(genotypes["DARTS"], sizes["DARTS"], **sizes["DARTS"], images=PRINTED_FOR)
    assert "printed in Table 1" in view.html and "3.35M parameters" in view.words
    assert "printed in Table 1" not in architecture(genotypes["DSARA"], sizes["DSARA"], **SMALL).html


def test_cost_stack_and_cells_are_drawn(genotype: Any) -> None:
    view = architecture(genotype, {}, **SMALL)
    assert len(svgs(view.html)) == 4 and "robust cell" in view.html and "8×8 pixels, 1 channel, 10 classes" in view.words
    wider = architecture(genotype, {}, **SMALL | {"channels": 8})
    assert view.words != wider.words


def test_a_cell_without_a_place_is_told_and_not_drawn(genotype: Any) -> None:
    view = architecture(genotype, {}, **SMALL | {"placement": "A-A-A"})
    assert len(svgs(view.html)) == 3 and "its robust cell stands nowhere in A-A-A" in view.html


def test_an_architecture_of_fewer_nodes_is_shown_too() -> None:
    assert len(svgs(architecture(toy_genotype(), {}, **SMALL).html)) == 4


def test_the_stack_has_a_box_for_each_cell_and_words_for_each_stage() -> None:
    drawn = stack(SearchSpace().slots(8, 16), 32)
    boxes = [each for each in ElementTree.fromstring(drawn).iter("rect")]
    assert len(boxes) == 8 and len({each.get("width") for each in boxes}) == 2
    assert {"2× accurate", "16 channels", "32×32", "reduction", "2× robust", "32 channels", "8×8"} <= set(words(drawn))


def test_choices_of_architectures(experiment: Experiment, somebody: None) -> None:
    explorer = explore_architectures(experiment)
    assert isinstance(explorer, Explorer) and explorer.chosen["name"] == "DSARA" and "printed in Table 1" in explorer.picture.value
    explorer.choose(num_cells=5, channels=2, images=(8, 3, 10))
    explorer.choices["num_cells"].value = 4
    assert "a stack needs at least 5 cells" in explorer.picture.value
    explorer.choose(name="DARTS", num_cells=5)
    assert "robust" in explorer.picture.value and 'role="alert"' in explorer.picture.value
    explorer.choices["placement"].value = "A-A-A"
    assert 'role="alert"' not in explorer.picture.value
    explorer.buttons["As published or trained"].click()
    assert explorer.chosen["num_cells"] == zoo.load("DARTS").num_cells


def test_what_the_run_has_found_comes_first(tmp_path: Path) -> None:
    begun = open_experiment("two", limit=4, device="cpu", results=tmp_path)
    replace(zoo.load("DSARA").genotype, name="found").save(begun.search_folder / "genotype.json")
    genotypes, sizes = architectures(begun)
    assert next(iter(genotypes)) == "found" and sizes["found"]["num_cells"] == begun.preset.num_cells


# ---------------------------------------------------------------------------------------------------------------- attacks


def crafted(before: list[float], after: list[float], label: int = 0, eps: float = 0.1) -> Crafted:
    image = torch.rand(3, 4, 4) / 2 + 0.2
    answers = {"before": torch.tensor(before), "after": torch.tensor(after)}
    return Crafted(image=image, attacked=image + eps, label=label, eps=eps, **answers)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([2.0, 0, 0], [0.0, 2, 0], "Fooled: taken for a as it is (79%), for b attacked (79%)"),
        ([2.0, 0, 0], [2.0, 0, 0], "Not fooled: taken for a as it is (79%) and attacked (79%)"),
        ([0.0, 0, 2], [0.0, 2, 0], "Wrong without any attack: taken for c (79%); it is a"),
    ],
)
def test_the_verdict_is_told_in_words(before: list[float], after: list[float], said: str) -> None:
    assert verdict(crafted(before, after), CLASSES).startswith(said)


def test_images_perturbation_and_answers_are_shown() -> None:
    view = attacked(crafted([2.0, 0, 0], [0.0, 2, -1]), CLASSES, "found")
    assert view.html.count("<img") == 3 and len(svgs(view.html)) == 2
    assert "largest change of a pixel 0.1000, allowed 0.1000" in view.words and "more than allowed" not in view.words
    far = crafted([2.0, 0, 0], [0.0, 2, 0])
    assert "more than allowed" in attacked(replace(far, eps=0.05), CLASSES, "found").words


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7)])
def test_small_images_are_enlarged_without_blur(shape: tuple[int, int, int]) -> None:
    image = torch.rand(shape)
    found = re.search(r"base64,([^\"]+)", png(image, "it"))
    assert found
    shown = torch.tensor(list(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB").tobytes()))
    times = 190 // max(shape[1:])
    wanted = (image * 255).round().expand(3, -1, -1).repeat_interleave(times, 1).repeat_interleave(times, 2)
    assert shown.tolist() == wanted.permute(1, 2, 0).flatten().tolist()


def test_bars_start_at_zero_and_have_their_numbers() -> None:
    drawn = bars("logits", ["one", "two"], [1.0, -2.0], [0.5, 0.0])
    widths = [float(each.get("width", "")) for each in ElementTree.fromstring(drawn).iter("rect")]
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.2) and widths[3] == 0
    assert words(drawn) == ["one", "1.00", "0.50", "two", "-2.00", "0.00"]


def test_of_many_classes_the_true_one_and_the_likeliest_are_shown() -> None:
    many = crafted([float(i) for i in range(40)], [99.0 * (i == 5) for i in range(40)], label=3)
    shown = most_probable(many)
    assert len(shown) == 10 and {3, 5, 39} <= set(shown) and shown == sorted(shown)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_crafted_stays_within_eps(name: str) -> None:
    network = toy_blueprint().build().eval()
    attack = make_attack(name, 0.1)
    attack = replace(attack, **{key: 5 for key in ("steps", "queries") if hasattr(attack, key)})
    if hasattr(attack, "targets"):
        attack = replace(attack, targets=2)
    made = craft(network, torch.rand(3, 4, 4), 0, attack, seed=0)
    assert made.change <= 0.1 + 1e-6 and made.before.shape == (3,)


def test_no_slow_attack_is_among_the_fast_ones() -> None:
    assert {name for name in ATTACKS if is_fast(name, ATTACKS[name])} == {"FGSM", "BIM", "MI-FGSM", "PGD20", "PGD20-any"}
    assert set(FAST) <= set(ATTACKS)


@pytest.fixture
def attacking(experiment: Experiment, somebody: None) -> Explorer:
    space = SearchSpace(operations=("max_pool_3x3", "skip_connect"), num_nodes=2)
    network = replace(toy_blueprint(), space=space, num_classes=10).build().eval()
    explorer = explore_attacks(experiment, {"found": network})
    assert isinstance(explorer, Explorer)
    return explorer


def test_choices_of_attacks(attacking: Explorer, experiment: Experiment) -> None:
    assert "found, image 0, PGD20: largest change" in attacking.picture.value and not attacking.choices["steps"].disabled
    attacking.choices["eps"].value = 0
    assert "largest change of a pixel 0.0000" in attacking.picture.value and "nothing may be added" in attacking.picture.value
    attacking.choose(eps=experiment.data.eps, attack="FGSM")
    assert attacking.choices["steps"].disabled
    attacking.choose(attack="BIM", steps=2, image=1)
    assert "image 1, BIM" in attacking.picture.value


def test_slow_attacks_wait_for_the_button(attacking: Explorer) -> None:
    attacking.choose(attack="PGD20", steps=50)
    assert "press Craft" in attacking.picture.value
    attacking.buttons["Craft"].click()
    assert "press Craft" not in attacking.picture.value and "<img" in attacking.picture.value
    attacking.choose(attack="AutoAttack")
    assert "AutoAttack takes its time: press Craft" in attacking.picture.value


# ------------------------------------------------------------------------------------------------------------------- runs


def make_run(root: Path, name: str, *, channels: int = 4, natural: float | None = None, data: str = "digits") -> None:
    settings = {"profile": "demo", "data": data, "seed": 0, "preset": {"search": {"channels": channels}}}
    run = RunStore(root).open(name, settings)
    epochs = [{"epoch": i, "train/adversarial_loss": 2.0 / i, "validation/natural_accuracy": 0.2 * i} for i in (1, 2, 3)]
    write_jsonl(run.path("search", "epochs.jsonl"), epochs)
    if natural is not None:
        accuracies = {"natural": natural, "PGD20": 1 - natural}
        rows: list[dict[str, Any]] = [
            {"network": "found", "attack": attack, "eps": 0.1, "accuracy": share, "low": share - 0.1, "high": share + 0.1}
            for attack, share in accuracies.items()
        ]
        write_csv(run.path("evaluation", "white_box.csv"), rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three runs, a folder that never was one, one that lost its card, one of another version and one that is damaged."""
    make_run(tmp_path, "begun")
    make_run(tmp_path, "one", channels=6, natural=0.7)
    make_run(tmp_path, "two", channels=8, natural=0.8)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "lost" / "search").mkdir(parents=True)
    for name, text in {"other": '{"schema": 9, "settings": {}}', "torn": '{"schema": 1, "sett'}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    return tmp_path


def names(html: str) -> list[str]:
    """Of the first table's lines."""
    return re.findall(r'<th scope="row">([^<]*)', html.split("</table>")[0])


def shown(root: Path, *chosen: str, order: str = "name", curves: str = "losses of the search") -> str:
    return browser(root, known_runs(root), order=order, chosen=chosen, curves=curves).html


def test_every_run_has_a_line_and_what_was_one_its_sentence(root: Path) -> None:
    html = shown(root)
    assert names(html) == ["begun", "one", "two"] and html.count("<tr>") == 4 and html.count('scope="col"') == len(HEAD)
    assert "lost: no run: it has no run.json" in html and "benchmarks" not in html
    assert "other: run 'other' has run-folder schema 9; this version" in html
    assert "torn: run.json is not valid JSON" in html and str(root) not in html


def test_an_accuracy_on_other_images_than_the_natural_one_says_their_number() -> None:
    def found(natural: dict[str, int], strongest: dict[str, int]) -> list[str]:
        rows = {"natural": {"accuracy": 0.5, **natural}, "AutoAttack": {"accuracy": 0.25, **strongest}}
        return [each for each in line(Known(name="one", settings={"seed": 0}, found=rows)) if each.startswith(("50.0", "25.0"))]

    assert found({"images": 1000}, {"images": 1000}) == found({}, {}) == ["50.0", "25.0"]
    assert found({"images": 10_000}, {"images": 1000}) == ["50.0", "25.0 (n = 1,000)"]


def test_a_damaged_part_is_told_and_the_rest_is_shown(root: Path) -> None:
    (root / "one" / "evaluation" / "white_box.csv").write_text("network,attack\nfound,natural\n")
    (root / "two" / "search" / "epochs.jsonl").write_text('{"epoch": 1}\n{"ep')
    html = shown(root, "one", "two")
    assert names(html) == ["begun", "one", "two"]
    assert "one: evaluation/white_box.csv has no column accuracy" in html
    assert "two, losses of the search: search/epochs.jsonl, line 2 is not valid JSON" in html


@pytest.mark.parametrize("text", ["[]", "3", '{"schema": 1, "settings": 3}', '{"schema": 1, "settings": {}}'])
def test_a_foreign_run_json_breaks_nothing(root: Path, text: str) -> None:
    (root / "other" / "run.json").write_text(text)
    assert known(root / "other").trouble and names(shown(root)) == ["begun", "one", "two"]


@pytest.mark.parametrize("text", ["[1]\n", '{"epoch": "x"}\n', "{}\n", '{"epoch": 1, "train/adversarial_loss": "x"}\n'])
def test_foreign_metrics_break_nothing(root: Path, text: str) -> None:
    (root / "two" / "search" / "epochs.jsonl").write_text(text)
    assert "one" in shown(root, "one", "two")


def test_lines_are_sorted_as_chosen(root: Path) -> None:
    assert names(shown(root, order="natural, best first")) == ["two", "one", "begun"]
    assert names(shown(root, order="PGD20, best first")) == ["one", "two", "begun"]
    for order in SORTED:
        assert sorted(names(shown(root, order=order))) == ["begun", "one", "two"]


def test_newest_come_first(root: Path) -> None:
    runs = [replace(known(root / name), made=made) for name, made in (("one", "2026-01-02"), ("two", "2026-01-10"))]
    assert names(browser(root, runs, order="newest first", chosen=(), curves=next(iter(CURVES))).html) == ["two", "one"]


def test_settings_that_differ_have_a_line_with_the_value_of_each(root: Path) -> None:
    runs = [known(root / name) for name in ("begun", "one", "two")]
    assert differing(runs) == [["search.channels", "4", "6", "8"]]
    assert differing(runs[:1]) == [] and "settings that differ" in shown(root, "one", "two")
    make_run(root, "twin", channels=6)
    assert "they have the same settings" in shown(root, "one", "twin")


def test_curves_have_a_line_for_each_run_that_got_there(root: Path) -> None:
    html = shown(root, "one", "two")
    assert html.count('class="drawn"') == 4 and "one 0.6667" in html and "two 0.6667" in html
    html = shown(root, "one", curves="held-out accuracy of the training")
    assert "one, held-out accuracy of the training: has not got there yet" in html


def test_natural_against_robust_only_where_both_were_measured_on_the_same_data(root: Path) -> None:
    make_run(root, "far", natural=0.5, data="cifar10")
    html = shown(root, "begun", "one", "two", "far")
    assert html.count("natural and PGD20 accuracy: ") == 2 and "cifar10, eps 0.1" in html
    runs = [known(root / name) for name in ("one", "two")]
    pictured = scatter("digits", runs, {"one": "blue", "two": "green"})
    assert "1 one: natural 70.0, PGD20 30.0" in pictured and "2 two: natural 80.0, PGD20 20.0" in pictured
    (drawn,) = svgs(pictured)
    assert len(list(drawn.iter("circle"))) == 2 and len(drawn.find("polyline").get("points", "").split()) == 3  # type: ignore[union-attr]
    assert math.isfinite(known(root / "one").accuracy("natural")) and known(root / "begun").accuracy("natural") == -math.inf


def test_choices_of_runs(experiment: Experiment, somebody: None) -> None:
    root = experiment.run.folder.parent
    make_run(root, "beside", natural=0.6)
    explorer = explore_runs(experiment)
    assert isinstance(explorer, Explorer) and explorer.chosen["chosen"] == ("one", "beside")
    assert "settings that differ" in explorer.picture.value
    explorer.choices["chosen"].value = ("one",)
    assert "choose two or more" in explorer.picture.value
    explorer.choices["chosen"].value = ()
    assert "choose runs to see" in explorer.picture.value
    explorer.choices["order"].value = "natural, best first"
    assert names(explorer.picture.value) == ["beside", "one"]
