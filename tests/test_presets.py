"""Presets say what METHOD and the paper say; changes are typed; radii follow the data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsara_lib.data import load
from dsara_lib.errors import WorkbookError
from dsara_lib.experiment import choose_device, find_experiment, open_experiment
from dsara_lib.presets import PAPER, PRESETS, fit, make_preset
from dsara_lib.search import MGDA, SingleObjective

TINY = (
    "search.stages.0.epochs=1 search.stages.1.epochs=1 search.channels=2 search.batch_size=16 search.attack.steps=1 "
    "search.validation_images=10 training.epochs=1 training.batch_size=16 training.attack.steps=1 "
    "training.held_out_attack.steps=1 channels=2 baseline_size=[5,2] "
    "evaluation.attacks=FGSM,PGD20 evaluation.curve=[1.0] evaluation.test_images=10 evaluation.curve_images=10"
)


def test_paper_preset_has_the_settings_of_section_5_3():
    search, training = PAPER.search, PAPER.training
    assert (search.num_cells, search.channels, search.batch_size) == (8, 24, 64)
    assert [(s.epochs, s.upper_level, s.architecture_lr) for s in search.stages] == [
        (20, SingleObjective(), 3e-4),
        (10, MGDA(), 5e-5),
    ]
    assert (search.attack.eps, search.attack.step_size, search.attack.steps) == (2 / 255, 1 / 510, 7)
    assert (search.weights_lr, search.weights_lr_floor, search.momentum, search.weight_decay) == (0.025, 0, 0.9, 3e-4)
    assert (search.architecture_betas, search.architecture_weight_decay) == ((0.5, 0.999), 1e-3)
    assert (search.alphas_first, search.second_order) == (False, False)
    assert (PAPER.num_cells, PAPER.channels) == (20, 64)
    assert (training.epochs, training.batch_size, training.learning_rate, training.weight_decay) == (200, 32, 0.1, 1e-4)
    assert (training.attack.eps, training.attack.step_size, training.attack.steps) == (8 / 255, 0.01, 7)
    assert [training.schedule(epoch, 200) for epoch in (0, 99, 100, 149, 150)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_published_code_preset_differs_where_the_release_does():
    search = PRESETS["published-code"].search
    assert (search.attack.eps, search.attack.step_size, search.attack.steps) == (8 / 255, 2 / 255, 7)
    assert [(s.upper_level, s.architecture_lr) for s in search.stages] == [(MGDA(loss_scales=(1.0, 0.1)), 3e-4)]
    assert (search.alphas_first, search.second_order, search.batch_size, search.weights_lr_floor) == (True, True, 32, 0.001)


def test_fit_changes_nothing_for_photographs_and_scales_every_radius_for_digits():
    digits = load("digits", limit=12)
    photographs = replace(digits, eps=8 / 255, learning_rate=0.1)
    assert fit(PAPER, photographs) == PAPER
    fitted, factor = fit(PAPER, digits), digits.eps / (8 / 255)
    for before, after in [
        (PAPER.search.attack, fitted.search.attack),
        (PAPER.training.attack, fitted.training.attack),
        (PAPER.training.held_out_attack, fitted.training.held_out_attack),
    ]:
        assert after.eps == pytest.approx(before.eps * factor)
        assert after.step_size == pytest.approx(before.step_size * factor)
        assert after.steps == before.steps
    assert fit(PAPER, replace(photographs, learning_rate=0.01)).training.learning_rate == pytest.approx(0.01)


def test_changes_reach_nested_settings_and_tuples():
    preset = make_preset(
        "paper", "search.stages.1.epochs=3 training.attack.steps=2 baselines=DARTS,AdvRush limit=7 search.weights_lr=1"
    )
    assert preset.search.stages[1].epochs == 3
    assert preset.search.stages[0] == PAPER.search.stages[0]
    assert preset.training.attack.steps == 2
    assert preset.baselines == ("DARTS", "AdvRush")
    assert (preset.limit, preset.search.weights_lr) == (7, 1.0)


@pytest.mark.parametrize(
    ("profile", "changes", "sentence"),
    [
        ("papr", "", "unknown profile 'papr'; did you mean 'paper'"),
        ("paper", "search.chanels=8", "did you mean 'channels'"),
        ("paper", "search.channels=many", "search.channels is 24"),
        ("paper", "search.channels=true", "search.channels is 24"),
        ("paper", "search.stages.2.epochs=1", "not an index from 0 to 1"),
        ("paper", "search=1", "a group of settings"),
        ("paper", "search.attack.eps=8", "eps is a radius from 0 to 1"),
        ("paper", "epochs", "name=value"),
        ("paper", "training.epochs=0", "epochs is a whole number of at least 1"),
    ],
)
def test_wrong_settings_end_in_a_sentence(profile, changes, sentence):
    with pytest.raises(WorkbookError, match=sentence):
        make_preset(profile, changes)


def test_a_run_is_found_again_with_its_settings(tmp_path):
    made = open_experiment("here", limit=12, seed=3, changes=TINY, results=tmp_path)
    found = find_experiment("here", results=tmp_path)
    assert (found.preset, found.seed, found.data.name) == (made.preset, 3, "digits")
    with pytest.raises(WorkbookError, match="made with other settings"):
        open_experiment("here", limit=12, seed=4, changes=TINY, results=tmp_path)
    with pytest.raises(FileNotFoundError, match="runs there: here"):
        find_experiment("elsewhere", results=tmp_path)
    with pytest.raises(FileNotFoundError, match="notebook 02"):
        found.genotype()


def test_too_few_cells_are_refused_when_the_search_is_built(tmp_path):
    experiment = open_experiment("few", limit=12, changes=TINY + " search.num_cells=4", results=tmp_path)
    with pytest.raises(WorkbookError, match="at least 5 cells"):
        experiment.searcher()


def test_an_unknown_device_is_named():
    with pytest.raises(WorkbookError, match="unknown device 'gpu'"):
        choose_device("gpu")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", sorted(name for name, preset in PRESETS.items() if preset.match))
def test_networks_of_equal_parameters_are_as_deep_as_each_other(name: str) -> None:
    preset = PRESETS[name]
    size = (preset.num_cells, preset.channels)
    assert (preset.baseline_size or (PAPER.num_cells, PAPER.channels)) == size
