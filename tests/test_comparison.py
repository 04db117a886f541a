"""All runs beside the paper: what a number stands for, what may be averaged and compared, and what the tests may say."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_report import HOSTILE, Page, assert_loads_and_runs_nothing
from toys import toy_blueprint

from dsara_lib import notebooks, paper, plots
from dsara_lib.architecture import blueprint_cost
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation, Paired, TransferMatrix, load_arrays, save_arrays, t_interval, wilson
from dsara_lib.presets import make_preset
from dsara_lib.report import (
    all_findings,
    collect,
    grid_forest,
    grid_lines,
    grid_networks,
    text_rows,
    write_comparison,
    write_report,
)
from dsara_lib.report.claims import DESCENT, FLOPS
from dsara_lib.report.collection import Conditions
from dsara_lib.report.comparison import number_cells
from dsara_lib.report.contrasts import CONTRASTS
from dsara_lib.report.descent import promised
from dsara_lib.report.findings import CONTRADICTED, NO_EVIDENCE, NOT_MEASURED, SUPPORTED, Finding
from dsara_lib.report.inference import (
    holm,
    image_interval,
    permutation_test,
    rank_correlation,
    seed_test,
    sign_flip,
)
from dsara_lib.report.tables import comparable, lines_of
from dsara_lib.runs import RunStore, describe, read_json, write_json, write_jsonl
from dsara_lib.search.upper_level import min_norm_weight
from dsara_lib.sweep import grids

IMAGES = 60
LABELS = torch.arange(IMAGES) % 3
PGD = {"type": "PGD", "eps": 0.2, "step_size": 0.05, "steps": 20, "start": "uniform", "loss": "cross-entropy", "engine": "dsara"}
CHANGES = (
    "search.num_cells=5 search.channels=2 search.space.num_nodes=2 search.stages.0.epochs=1 search.stages.1.epochs=1 "
    "search.space.operations=max_pool_3x3,skip_connect search.batch_size=10 search.attack.steps=1 search.validation_images=10 "
    "training.epochs=1 training.batch_size=10 training.attack.steps=1 training.held_out_attack.steps=1 "
    "evaluation.attacks=PGD20 evaluation.test_images=20 channels=2"
)


def write_run(
    results: Path,
    name: str,
    right: tuple[int, int] = (40, 20),  # of the images, natural and under PGD20
    *,
    variant: str = "",
    seed: int = 0,
    network: str = "found",
    limit: int | None = 20,
    data: str = "digits",
    channels: int = 2,
    natural_training: bool = False,
) -> Path:
    """A run folder as a finished row leaves it, without the weights; which images are right hangs on the seed."""
    preset = make_preset("demo", variant=variant)
    settings = {"profile": "demo", "changes": "", "data": data, "limit": limit, "seed": seed, "eps": 0.2, "preset": preset}
    run = RunStore(results).open(name, settings | ({"variant": variant} if variant else {}))
    training = describe(replace(preset.training, attack=None) if natural_training else preset.training)
    about = {"name": data, "classes": ["a", "b", "c"], "images": 60, "image_size": 4, "eps": 0.2}
    card = {"schema": 1, "name": network, "which": "best", "epoch": 1, "training": training, "data": about, "measured": []}
    blueprint = toy_blueprint(channels=channels).to_dict()
    write_json(run.path("networks", network, "best", "card.json"), card | {"blueprint": blueprint})
    order, predictions = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed)), {}
    for attack, number in zip(("natural", "PGD20"), right, strict=True):
        predictions[attack] = (LABELS + 1) % 3
        predictions[attack][order[:number]] = LABELS[order[:number]]
    provenance = {"dtype": "float32", "seed": seed, "image_checksum": f"{data} of {IMAGES}"}
    described = {"network": network, "data": data, "eps": 0.2, "classes": ("a", "b", "c"), "labels": LABELS}
    attacks = {"natural": None, "PGD20": PGD}
    Evaluation(predictions=predictions, attacks=attacks, provenance=provenance, **described).save(
        run.path("evaluation", f"{network}.npz")
    )
    return run.folder


def write_pair(results: Path, better: tuple[int, int], worse: tuple[int, int], seeds: int) -> None:
    """Rows 7 and 6 of Table 5."""
    for seed in range(seeds):
        write_run(results, f"row7-{seed}", (better[0] + seed % 2, better[1] + seed % 2), variant="table5-7", seed=seed)
        write_run(results, f"row6-{seed}", worse, variant="table5-6", seed=seed)


def finding(results: Path, claim: str) -> Finding:
    (found,) = (each for each in all_findings(collect(results)) if each.claim == claim)
    return found


# -- what differences say ----------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_for_one_seed_the_sign_flip_test_is_mcnemars(alone: int, other: int) -> None:
    exact = Paired(alone=alone, other_alone=other, both=3, neither=4).p_value
    assert sign_flip([1] * alone + [-1] * other + [0] * 7) == pytest.approx(exact, rel=1e-9)


@given(st.lists(st.integers(-3, 3), max_size=8))
def test_sign_flip_counts_every_choice_of_signs(scores: list[int]) -> None:
    sums = [sum(s * abs(x) for s, x in zip(signs, scores, strict=True)) for signs in itertools.product((-1, 1), repeat=len(scores))]
    expected = sum(abs(each) >= abs(sum(scores)) for each in sums) / len(sums)
    assert sign_flip(scores) == pytest.approx(expected)


def test_sign_flip_of_ten_thousand_images_neither_overflows_nor_vanishes() -> None:
    assert 0 < sign_flip([1] * 5200 + [-1] * 4800) < 1e-3 < sign_flip([1] * 5010 + [-1] * 4990) <= 1


@given(st.lists(st.sampled_from((-1.0, 0.0, 1.0)), min_size=1, max_size=50))
def test_interval_over_images_holds_what_was_seen_and_is_never_a_point(shares: list[float]) -> None:
    low, high = image_interval(np.array(shares))
    assert -1 <= low < high <= 1 and low - 1e-9 <= np.mean(shares) * len(shares) / (len(shares) + 2) <= high + 1e-9


def test_tests_over_seeds_are_students() -> None:
    stats, values = pytest.importorskip("scipy.stats"), [0.02, 0.05, -0.01, 0.04]
    assert seed_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert t_interval(values) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    with pytest.raises(WorkbookError, match="at least two; got 1"):
        t_interval([0.1])


def test_equal_differences_of_three_seeds_are_not_taken_for_certainty() -> None:
    assert seed_test([0.1, 0.1, 0.1]) == 0.25 and seed_test([0.0, 0.0, 0.0]) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_never_makes_a_p_value_smaller_and_keeps_their_order(values: list[float]) -> None:
    corrected = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, corrected, strict=True))
    assert corrected[int(np.argmin(values))] == pytest.approx(min(1, len(values) * min(values)))
    for (p, q), (r, s) in itertools.combinations(zip(values, corrected, strict=True), 2):
        assert (p < r) <= (q <= s)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=5))
def test_rank_correlation_and_its_test_are_those_of_all_orders(points: list[tuple[int, int]]) -> None:
    one, other = ([float(each[i]) for each in points] for i in (0, 1))
    given_one = rank_correlation(one, other)
    every = [rank_correlation(one, list(order)) for order in itertools.permutations(other)]
    assert permutation_test(one, other) == pytest.approx(np.mean(np.abs(every) >= abs(given_one) - 1e-9))
    assert -1 <= given_one <= 1 and rank_correlation(one, one) in (pytest.approx(1), 0)


def test_drawn_orders_are_near_all_of_them_and_never_give_zero() -> None:
    many = list(range(9))
    assert permutation_test(many, many) == pytest.approx(1 / 20_001, abs=1e-4) and permutation_test(many, many) > 0


# -- what a number stands for ------------------------------------------------------------------------------------------


def test_a_run_stands_for_the_rows_that_its_settings_are(tmp_path: Path) -> None:
    write_run(tmp_path, "plain")
    write_run(tmp_path, "nasnet", variant="table5-5")
    write_run(tmp_path, "sum", variant="table5-6")
    write_run(tmp_path, "published", network="AdvRush")
    write_run(tmp_path, "published-dsara", network="DSARA")
    write_run(tmp_path, "cifar", data="cifar100")
    places = {each.run: each.places for each in collect(tmp_path).measured}
    assert places["plain"] == {("table1", "DSARA"), ("table4", "1"), ("table5", "7")}
    assert places["nasnet"] == {("table4", "6"), ("table5", "5")} and places["sum"] == {("table5", "6")}
    assert places["published"] == {("table1", "AdvRush"), ("table5", "2")}
    assert places["published-dsara"] == {("table1", "DSARA")}, "its cells were searched elsewhere: no row of ours"
    assert ("table3", "CIFAR-100: DSARA") in places["cifar"] and ("table1", "DSARA") not in places["cifar"]


def test_every_variant_of_a_table_stands_for_its_own_row(tmp_path: Path) -> None:
    for table in ("table4", "table5"):
        for row in grids()[table].rows:
            if row.variant:
                folder = write_run(tmp_path / f"{table}-{row.name}", "run", variant=row.variant)
                (measured,) = collect(folder.parent).measured
                assert (table, row.name) in measured.places


def test_what_was_searched_by_a_rivals_strategy_is_not_called_by_the_published_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "rival")
    card = json.loads((folder / "run.json").read_text())
    card["settings"]["variant"] = "advrush"
    card["settings"]["preset"]["search"]["stages"][1]["upper_level"] = {"type": "AdvRush", "gamma": 0.01}
    write_json(folder / "run.json", card)
    collection = collect(tmp_path)
    (measured,) = collection.measured
    assert measured.system == "searched: advrush" and not measured.places
    assert [line.row for line in lines_of(collection, "table1") if line.ours] == ["searched: advrush"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "the paper's data and profile."),
        ({"data": "digits"}, "other data, so not comparable"),
        ({"profile": "short"}, "the paper's data, but other conditions"),
        ({"epochs": 30}, "the paper's data, but other conditions"),
        ({"images": 1000}, "the paper's data, but other conditions"),
        ({"limit": 50}, "the paper's data, but other conditions"),
        ({"eps": 2 / 255}, "the paper's data, but other conditions"),
    ],
)
def test_what_stands_between_our_numbers_and_the_papers_is_said(changes: dict[str, Any], words: str) -> None:
    made = {"data": "cifar10", "limit": None, "profile": "paper", "epochs": 200, "eps": 8 / 255, "images": 10_000}
    conditions = Conditions(
        **(made | {"attack": "PGD20", "checksum": "", "training": "", "batch_size": 32, "learning_rate": 0.1} | changes)
    )
    assert words in comparable(conditions)


def test_networks_as_large_as_each_other_are_compared_although_their_channels_differ(tmp_path: Path) -> None:
    for name, channels, right in (("row7", 2, (55, 40)), ("row6", 3, (30, 10))):
        folder = write_run(tmp_path, name, right, variant=f"table5-{name[-1]}", channels=channels)
        card = json.loads((folder / "run.json").read_text())
        card["settings"]["preset"]["match"] = "DSARA"
        write_json(folder / "run.json", card)
    assert "as large as DSARA" in finding(tmp_path, "MGDA over the sum").where


def test_networks_trained_on_natural_images_are_left_to_their_own_report(tmp_path: Path) -> None:
    write_run(tmp_path, "twin", natural_training=True)
    assert not collect(tmp_path).measured


def spoil_run(folder: Path) -> None:
    (folder / "run.json").write_text('{"settings": ')


def foreign_run(folder: Path) -> None:
    (folder / "run.json").write_text("[1, 2]")


def other_settings(folder: Path) -> None:
    (folder / "run.json").write_text('{"settings": {"seed": 0}}')


def spoil_predictions(folder: Path) -> None:
    (folder / "evaluation" / "found.npz").write_bytes(b"PK no such thing")


def no_card(folder: Path) -> None:
    (folder / "networks" / "found" / "best" / "card.json").unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_run, foreign_run, other_settings, spoil_predictions, no_card], ids=lambda each: each.__name__
)
def test_damaged_and_foreign_folders_are_told_and_left_out(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(write_run(tmp_path, "spoilt"))
    write_run(tmp_path, "whole")
    collection = collect(tmp_path)
    assert [each.run for each in collection.measured] == ["whole"]
    assert len(collection.notes) == 1 and collection.notes[0].startswith("spoilt") and "left out" in collection.notes[0]


def test_the_same_seed_twice_is_counted_once(tmp_path: Path) -> None:
    write_run(tmp_path, "one")
    write_run(tmp_path, "two", variant="table5-7")
    collection = collect(tmp_path)
    assert [each.run for each in collection.measured] == ["one"] and "counted once" in collection.notes[0]


def test_only_what_differs_in_its_seed_alone_is_averaged(tmp_path: Path) -> None:
    for seed, right in enumerate((30, 36, 45)):
        write_run(tmp_path, f"seed{seed}", (right, 20), seed=seed)
    write_run(tmp_path, "more-data", (50, 20), limit=40)
    lines = [line for line in lines_of(collect(tmp_path), "table1") if line.ours]
    assert sorted(line.seeds for line in lines) == [(0,), (0, 1, 2)]
    for line in lines:
        number = line.number("natural")
        assert number is not None
        if len(line.seeds) == 1:
            assert (number.low, number.high) == wilson(50, IMAGES) and number.over == "images"
        else:
            assert (number.low, number.high) == pytest.approx(t_interval([0.5, 0.6, 0.75]), abs=1e-6)
            assert number.value == pytest.approx(37 / IMAGES) and number.over == "seeds"


@pytest.mark.parametrize("later", ["training.stored=float32", "search.images=None"])
def test_a_setting_that_was_added_later_keeps_no_runs_apart(tmp_path: Path, later: str) -> None:
    setting, default = later.split("=")
    part, name = setting.split(".")
    write_run(tmp_path, "new")
    folder = write_run(tmp_path, "old", seed=1)
    for path in (folder / "run.json", folder / "networks" / "found" / "best" / "card.json"):
        written = read_json(path)
        holding = written.get(part) or written.get("settings", {}).get("preset", {}).get(part)
        if holding is not None:
            assert str(holding.pop(name)) == default
        write_json(path, written)
    (line,) = (line for line in lines_of(collect(tmp_path), "table1") if line.ours)
    assert line.seeds == (0, 1)


def test_numbers_of_fewer_images_are_not_averaged_with_others_and_say_their_number(tmp_path: Path) -> None:
    for seed, asked in enumerate((20, 40, 40)):
        path = write_run(tmp_path, f"seed{seed}", (30, 20), seed=seed) / "evaluation" / "found.npz"
        arrays = load_arrays(path)
        save_arrays(path, {**arrays, "AutoAttack": arrays["PGD20"][:asked]})
    (line,) = (line for line in lines_of(collect(tmp_path), "table1") if line.ours)
    number, whole = line.number("AutoAttack"), line.number("natural")
    assert number is not None and number.images == 40 and whole is not None and whole.images == IMAGES
    few = [each.evaluation for each in line.measured if each.evaluation.count("AutoAttack") == 40]
    assert len(few) == 2 and number.value == pytest.approx(sum(each.accuracy("AutoAttack") for each in few) / 2)
    (told,) = text_rows([line], ["natural", "AutoAttack"])
    assert told["AutoAttack"].endswith(", n = 40)") and "n =" not in told["natural"]
    assert f"{IMAGES} test images" in told["under"]
    natural, cell = number_cells(line, ["natural", "AutoAttack"])
    assert cell.startswith(f"<td>{100 * number.value:.1f}") and ", n = 40</small>" in cell and "n = " not in natural


# -- claims ------------------------------------------------------------------------------------------------------------


def test_without_runs_every_claim_is_not_measured_and_says_what_it_needs(tmp_path: Path) -> None:
    findings = all_findings(collect(tmp_path))
    assert {each.verdict for each in findings} == {NOT_MEASURED}
    assert [each.claim for each in findings] == [*(each.name for each in CONTRASTS), DESCENT, FLOPS]
    assert all("Not measured here" in each.sentence for each in findings)


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [((55, 40), (30, 10), SUPPORTED), ((30, 10), (55, 40), CONTRADICTED), ((40, 20), (40, 20), NO_EVIDENCE)],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_verdict_follows_from_the_test_and_not_from_the_sign(
    tmp_path: Path, better: tuple[int, int], worse: tuple[int, int], verdict: str, seeds: int
) -> None:
    write_pair(tmp_path, better, worse, seeds)
    found = finding(tmp_path, "MGDA over the sum")
    assert found.verdict == verdict
    assert [part.seeds for part in found.parts] == [tuple(range(seeds))] * 2
    assert ("tells these networks apart, not the methods" in found.sentence) == (seeds < 3)
    assert ("t test over seeds" in found.sentence) == (seeds == 3) and f"{IMAGES} images" in found.sentence


def test_better_in_one_accuracy_alone_does_not_support_a_claim_about_both(tmp_path: Path) -> None:
    write_pair(tmp_path, (55, 20), (30, 20), 1)
    assert finding(tmp_path, "MGDA over the sum").verdict == NO_EVIDENCE


def test_rows_of_other_seeds_or_other_data_are_not_held_against_each_other(tmp_path: Path) -> None:
    write_run(tmp_path, "row7", (55, 40), variant="table5-7", seed=0)
    write_run(tmp_path, "row6", (30, 10), variant="table5-6", seed=1)
    write_run(tmp_path, "row6-more", (30, 10), variant="table5-6", seed=0, limit=40)
    write_run(tmp_path, "row6-wide", (30, 10), variant="table5-6", seed=0, channels=3)
    assert finding(tmp_path, "MGDA over the sum").verdict == NOT_MEASURED


def test_the_same_architecture_found_twice_is_told(tmp_path: Path) -> None:
    write_pair(tmp_path, (40, 20), (40, 20), 1)
    assert "At seed 0 both searches found the same architecture" in finding(tmp_path, "MGDA over the sum").sentence


def test_more_questions_need_stronger_answers(tmp_path: Path) -> None:
    write_pair(tmp_path, (47, 27), (40, 20), 1)  # seven images each: p = 1/64
    assert finding(tmp_path, "MGDA over the sum").verdict == SUPPORTED
    write_run(tmp_path, "row4", (40, 20), variant="table5-4")
    write_run(tmp_path, "row5", (40, 20), variant="table5-5")
    found = finding(tmp_path, "MGDA over the sum")
    assert found.verdict == NO_EVIDENCE and "after Holm's correction" in found.sentence


@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_the_logged_numbers_of_every_step_of_mgda_keep_its_promise(seed: int, length: float) -> None:
    drawn = torch.Generator().manual_seed(seed)
    theta, theta_bar = (torch.randn(5, generator=drawn) for _ in range(2))
    theta *= 10**length
    gamma = min_norm_weight(theta, theta_bar).item()
    cosine = torch.nn.functional.cosine_similarity(theta.double(), theta_bar.double(), dim=0).item()
    norms = theta.norm().item(), theta_bar.norm().item()
    told = promised(gamma, *norms, cosine, {"type": "MGDA"})
    assert not told["violated"] and told["conflict"] == (cosine < 0)
    worst = 1.0 if theta.norm() > theta_bar.norm() else 0.0  # all weight on the longer one
    if cosine < -0.1:
        assert promised(worst, *norms, cosine, {"type": "MGDA"})["violated"]


def write_steps(folder: Path, gamma: float) -> None:
    common = {"gradient_norm/natural": 1.0, "gradient_norm/adversarial": 2.0, "gradient_cosine": -0.5}
    steps = [{"epoch": 6, "step": i, "stage": 2, "gamma": gamma, **common} for i in range(3)]
    write_jsonl(folder / "search" / "history.jsonl", [{"epoch": 1, "step": 0, "stage": 1}, *steps])
    write_jsonl(folder / "search" / "epochs.jsonl", [{"epoch": 6}])


@pytest.mark.parametrize(("gamma", "verdict"), [(5 / 7, SUPPORTED), (0.0, CONTRADICTED)])
def test_common_descent_is_counted_on_the_steps_of_stage_two(tmp_path: Path, gamma: float, verdict: str) -> None:
    write_steps(write_run(tmp_path, "run"), gamma)
    found = finding(tmp_path, DESCENT)
    assert found.verdict == verdict and "Of 3 logged steps in 1 search" in found.sentence
    assert "conflict in 3 steps" in found.sentence
    write_steps(write_run(tmp_path / "sum", "run", variant="table5-6"), gamma)
    assert finding(tmp_path / "sum", DESCENT).verdict == NOT_MEASURED


@pytest.mark.parametrize(("sign", "verdict"), [(1, SUPPORTED), (-1, CONTRADICTED)])
def test_more_flops_more_robust_is_a_rank_test_over_systems_under_one_protocol(tmp_path: Path, sign: int, verdict: str) -> None:
    names = ("AdvRush", "RACL", "DARTS", "P-DARTS", "ResNet-18")
    for number, name in enumerate(names):
        write_run(tmp_path, f"run{number}", (40, 30 + sign * number), network=name, channels=2 + number)
    found = finding(tmp_path, FLOPS)
    assert found.verdict == verdict and f"correlation {sign:+.2f} over 5 systems" in found.sentence
    shutil.rmtree(tmp_path / "run4")
    assert finding(tmp_path, FLOPS).verdict == NOT_MEASURED
    write_run(tmp_path, "run4", (40, 30), network="ResNet-18", channels=6, limit=40)
    assert finding(tmp_path, FLOPS).verdict == NOT_MEASURED


# -- the page ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 6 and 7 at two seeds, a published architecture, and a transfer matrix."""
    folder = tmp_path_factory.mktemp("results")
    write_pair(folder, (50, 30), (40, 20), 2)
    write_run(folder, "row7-0", network="AdvRush", variant="table5-7")
    predictions = torch.stack([torch.stack([LABELS, (LABELS + 1) % 3])] * 2)
    names = ("AdvRush", "found")
    described = {"attack": "PGD20", "eps": 0.2, "data": "digits", "labels": LABELS, "predictions": predictions}
    TransferMatrix(sources=names, targets=names, **described).save(folder / "row7-0" / "evaluation" / "transfer-PGD20.npz")
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> Page:
    return Page(write_comparison(results))


def test_page_loads_and_runs_nothing_and_names_no_folder_of_this_machine(page: Page, results: Path) -> None:
    assert_loads_and_runs_nothing(page)
    assert str(results.parent) not in page.source and "could not be made" not in page.text


def test_every_printed_number_of_the_tables_is_shown_hollow(page: Page) -> None:
    for name in ("table1", "table3", "table4", "table5"):
        table = paper.paper_tables()[name]
        keys = [key for key in paper.COLUMNS.values() if key in table["columns"]]
        for row in table["rows"]:
            told = dict(zip(table["columns"], row, strict=True))
            printed = [f"{told[key]:.2f} %" for key in keys]
            lines = [[" ".join(cell.split()) for cell in line] for each in page.tables for line in each]
            assert any(line[-len(printed) :] == printed and "○ the paper's" in line[1] for line in lines)


def test_ours_stand_below_with_data_protocol_seeds_and_interval(page: Page, results: Path) -> None:
    lines = [" ".join(" ".join(line).split()) for each in page.tables for line in each]
    (ours,) = (line for line in lines if line.startswith("6 ● searched: A-A-R, 1-2-2, adversarial then sum"))
    low, high = wilson(40, IMAGES)
    assert "digits, protocol 1; 5 cells, 2 channels; seeds 0, 1" in ours
    assert f"66.7 % {100 * low:.1f} to {100 * high:.1f} (images)" in ours
    assert "Protocol 1: digits, 20 images per class, profile demo, 10 epochs" in page.text and "not comparable" in page.text
    measured = next(each for each in collect(results).measured if each.system == "AdvRush")
    assert measured.cost == blueprint_cost(toy_blueprint(), 4)


def test_our_transfer_matrix_stands_below_table_2_without_what_is_not_in_the_tables(page: Page) -> None:
    first, second = (table for table in page.tables if table[0][0].startswith("source"))
    heads = [[cell.strip() for cell in table[0][1:]] for table in (first, second)]
    assert heads == [list(paper.transfer_table()[1]), ["AdvRush", "DSARA"]]
    assert [cell.split()[0] for cell in second[1][1:]] == ["100.0", "0.0"]


def test_every_claim_has_its_verdict_on_the_page(page: Page, results: Path) -> None:
    for each in all_findings(collect(results)):
        assert each.title in page.text and each.sentence in page.text


def test_a_hostile_name_of_the_data_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "to_bytes", lambda *_: b"figure")
    write_run(tmp_path, "run", data=HOSTILE)
    spoil_run(write_run(tmp_path, "spoilt"))
    page = Page(write_comparison(tmp_path))
    assert_loads_and_runs_nothing(page)
    assert "alert(1)" in page.text and "spoilt is left out" in page.text


def test_a_folder_without_runs_gives_the_papers_numbers_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "to_bytes", lambda *_: b"figure")
    page = Page(write_comparison(tmp_path / "none"))
    assert page.text.count("No run stands for a row of this table yet") == 4 and "could not be made" not in page.text


def test_a_runs_report_names_the_page_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "to_bytes", lambda *_: b"figure")
    folder = write_run(tmp_path, "run")
    assert "../comparison.html" not in write_report(folder).read_text()
    write_comparison(tmp_path)
    links = [attributes.get("href") for tag, attributes in Page(write_report(folder)).elements if tag == "a"]
    assert links.count("../comparison.html") == 1


# -- the notebook ------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_grid_are_told_as_the_page_tells_them(results: Path) -> None:
    grid = grids()["table5"]
    runs = {row.name: [f"row{row.name}-{seed}" for seed in (0, 1)] for row in grid.rows}
    collection = collect(results, [run for mine in runs.values() for run in mine])
    lines = grid_lines(collection, grid.rows, runs)
    ours = {line.row: line for line in lines if line.ours and line.measured[0].method}
    assert set(ours) == {"6", "7"} and sum(not line.ours for line in lines) == 7
    told: list[Mapping[str, Any]] = text_rows(lines, ["natural", "PGD20"])
    assert {row["natural"] for row in told if row["row"] == "6"} == {"85.04", "66.7 (54.1 to 77.3)"}
    natural, robust = grid_forest(grid.rows, grid_networks(collection, grid.rows, runs), grid.reference)
    assert natural["name"] == "row 6 − row 7" and natural["printed"] == -0.88 and robust["printed"] == -2.15
    assert natural["value"] == pytest.approx(100 * (40 - 50.5) / IMAGES, abs=1e-4) and set(natural["by_seed"]) == {0, 1}


@pytest.mark.slow
def test_notebook_08_runs_rows_and_says_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headless at a tiny size, as papermill runs it."""
    pytest.importorskip("papermill")
    for name, value in (("PYTHONPATH", str(notebooks.FOLDER.parent)), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    given = {"RUN": "figures", "GRID": "table5", "ROWS": "6,7", "LIMIT": 4, "CHANGES": CHANGES, "NAME": "t", "DEVICE": "cpu"}
    output = tmp_path / "08.ipynb"
    with notebooks.one_kernel() as kernel:
        notebooks.execute(notebooks.find("08"), output, given | {"RESULTS": str(tmp_path / "results")}, kernel)
    noted = json.loads(output.read_text())["metadata"]["papermill"]
    assert (noted["input_path"], noted["output_path"]) == ("08_ablations.ipynb", "08.ipynb")
    cells = json.loads(output.read_text())["cells"]
    said = "".join("".join(each.get("text", "")) for cell in cells for each in cell.get("outputs", ()))
    assert "[2 of 2] t-row7-seed0" in said and "MGDA is better than the sum" in said and "MGDA's direction" in said
    assert {path.stem for path in (tmp_path / "results" / "figures" / "figures").glob("*.png")} == {
        f"table5_{name}" for name in ("scatter", "differences", "spread")
    }
    assert (tmp_path / "results" / "comparison.html").is_file()
    assert [each.run for each in collect(tmp_path / "results").measured] == ["t-row6-seed0", "t-row7-seed0"]
