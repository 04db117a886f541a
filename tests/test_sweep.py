"""Ablations: what a variant changes, and grids of runs that go on where they stopped and say how their rows compare."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from toys import bits

from dsara_lib.architecture import blueprint_cost, zoo
from dsara_lib.cli import main
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import Evaluation, t_interval
from dsara_lib.experiment import find_experiment, open_experiment
from dsara_lib.presets import ABLATIONS, METHODS, PAPER, PRESETS, VARIANTS, make_preset
from dsara_lib.runs import Checkpoints
from dsara_lib.search import MGDA, AdvRush, SingleObjective, SumOfLosses
from dsara_lib.sweep import Sweep, Table, grids
from dsara_lib.sweep.sweep import Task

CHANGES = (
    "search.num_cells=5 search.channels=2 search.space.num_nodes=2 search.stages.0.epochs=1 search.stages.1.epochs=1 "
    "search.batch_size=10 search.attack.steps=1 search.validation_images=10 training.epochs=1 training.batch_size=10 "
    "training.attack.steps=1 training.held_out_attack.steps=1 evaluation.attacks=PGD20 evaluation.test_images=20 channels=2"
)


def sweep(results: Path, grid: str = "table5", seeds: tuple[int, ...] = (0, 1), changes: str = CHANGES) -> Sweep:
    settings = {"profile": "demo", "data": "digits", "limit": 4, "changes": changes, "device": "cpu"}
    return Sweep(name="tiny", grid=grids()[grid], seeds=seeds, results=results, settings=settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Rows 6 and 7 of Table 5 at two seeds."""
    made = sweep(tmp_path_factory.mktemp("results"))
    for task in made.tasks(["6", "7"]):
        for _ in made.do(task):
            pass
    return made


# -------------------------------------------------------------------------------------------------------------- variants


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_row_of_table_4_and_the_last_of_table_5_are_the_method_itself(name: str) -> None:
    for variant in ("table4-1", "table5-7", "dsara"):
        assert make_preset(name, variant=variant) == make_preset(name)


def test_table_4_varies_placement_and_filters_alone() -> None:
    seen = set()
    for number in range(1, 7):
        preset = make_preset("paper", variant=f"table4-{number}")
        seen.add((preset.search.space.placement, preset.search.space.filters))
        assert replace(preset, search=replace(preset.search, space=PAPER.search.space)) == PAPER
    assert len(seen) == 6


def test_table_5_takes_the_method_apart() -> None:
    stages = {row: make_preset("paper", variant=f"table5-{row}").search.stages for row in range(3, 8)}
    spaces = {row: make_preset("paper", variant=f"table5-{row}").search.space.placement for row in range(3, 8)}
    assert spaces == {3: "A-A-A", 4: "A-A-R", 5: "A-A-A", 6: "A-A-R", 7: "A-A-R"}
    levels = {row: [type(stage.upper_level) for stage in each] for row, each in stages.items()}
    assert levels[3] == levels[4] == [SingleObjective] and levels[5] == levels[7] == [SingleObjective, MGDA]
    assert levels[6] == [SingleObjective, SumOfLosses]
    assert {sum(stage.epochs for stage in each) for each in stages.values()} == {30}


def test_changes_come_before_the_variant_and_unknown_ones_are_told() -> None:
    preset = make_preset("paper", "search.stages.1.epochs=2 search.space.placement=R-A-A", "table5-4")
    assert preset.search.epochs == 22 and preset.search.space.placement == "A-A-R"
    with pytest.raises(WorkbookError, match="unknown variant 'table5-8'; did you mean 'table5-"):
        make_preset("paper", variant="table5-8")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("profile", PRESETS)
def test_every_method_searches_as_long_as_the_profile_and_is_trained_and_attacked_alike(name: str, profile: str) -> None:
    preset, method = make_preset(profile), make_preset(profile, variant=name)
    assert method.search.epochs == preset.search.epochs
    free = {each: getattr(preset.search, each) for each in ("stages", "space", "second_order", "selection", "most_skips")}
    assert replace(method, search=replace(method.search, **free)) == preset


def test_one_stage_variants_say_what_they_follow_under_every_profile() -> None:
    for profile in PRESETS:
        for variant in ("adversarial-darts", "table5-3", "table5-4"):
            (stage,) = make_preset(profile, variant=variant).search.stages
            assert stage.upper_level == SingleObjective()
    assert make_preset("paper", variant="adversarial-darts") == make_preset("paper", variant="table5-3")


@pytest.mark.parametrize(("epochs", "expected"), [((20, 10), [25, 5]), ((1, 1), [1, 1]), ((4, 2), [5, 1])])
def test_advrush_warms_up_for_five_sixths_of_the_epochs(epochs: tuple[int, int], expected: list[int]) -> None:
    changes = " ".join(f"search.stages.{number}.epochs={count}" for number, count in enumerate(epochs))
    stages = make_preset("paper", changes, "advrush").search.stages
    assert [stage.epochs for stage in stages] == expected
    assert [stage.upper_level for stage in stages] == [SingleObjective(objective="natural"), AdvRush()]


def test_p_darts_deepens_as_published_at_the_papers_size_and_in_proportion_at_others() -> None:
    stages = make_preset("paper", variant="p-darts").search.stages
    assert [(stage.num_cells, stage.candidates) for stage in stages] == [(5, None), (11, 4), (17, 3)]
    small = make_preset("demo", "search.stages.0.epochs=1 search.stages.1.epochs=1", "p-darts").search
    assert [(stage.epochs, stage.num_cells, stage.candidates) for stage in small.stages] == [(1, 5, None), (1, 7, 4)]


def test_dsara_small_has_the_cost_as_a_third_objective_and_nothing_else_of_its_own() -> None:
    paper, small = make_preset("paper"), make_preset("paper", variant="dsara-small")
    first, second = small.search.stages
    assert first == paper.search.stages[0] and second.upper_level.objectives == ("natural", "adversarial", "cost")
    assert replace(small, search=replace(small.search, stages=paper.search.stages)) == paper


def test_a_search_of_one_epoch_has_no_warm_up() -> None:
    (stage,) = make_preset("published-code", "search.stages.0.epochs=1", "advrush").search.stages
    assert (stage.epochs, stage.upper_level) == (1, AdvRush())


def test_matched_rows_differ_from_the_others_in_size_alone() -> None:
    for number in range(1, 7):
        matched = make_preset("paper", variant=f"table4-{number}-matched")
        assert matched.match == "DSARA" and replace(matched, match=None) == make_preset("paper", variant=f"table4-{number}")
    assert make_preset("paper", "match=DARTS").match == "DARTS" and make_preset("paper", "match=").match is None
    with pytest.raises(WorkbookError, match="unknown architecture 'DSRA'; did you mean 'DSARA'"):
        make_preset("paper", "match=DSRA")


def test_grids_hold_the_rows_and_numbers_of_the_paper() -> None:
    known = grids()
    assert [len(known[name].rows) for name in ("table4", "table4-matched", "table5")] == [6, 6, 7]
    assert {row.variant for grid in known.values() for row in grid.rows if row.variant} == set(VARIANTS)
    assert set(VARIANTS) == set(METHODS) | set(ABLATIONS) and [row.name for row in known["methods"].rows] == list(METHODS)
    assert {row.architecture for row in known["zoo"].rows} == set(zoo.names())
    assert all(grid.row(grid.reference) for grid in known.values())
    assert known["methods"].row("adversarial-darts").paper == {"natural": 83.51, "PGD20": 53.98}
    assert known["zoo"].row("P-DARTS").paper["AutoAttack"] == 48.52
    assert known["zoo"].row("WRN-34-R").paper == known["methods"].row("darts-second-order").paper == {}
    assert [row.architecture for row in known["table5"].rows[:3]] == ["RACL", "AdvRush", ""]
    assert known["table5"].row("7").paper == {"natural": 85.92, "PGD20": 55.87}
    with pytest.raises(WorkbookError, match="unknown row of table5 '9'"):
        known["table5"].row("9")


# ---------------------------------------------------------------------------------------------------------------- sweeps


def test_tasks_are_rows_by_seed_with_run_folders_of_their_own(tmp_path: Path) -> None:
    tasks = sweep(tmp_path).tasks()
    assert len({task.run for task in tasks}) == 14 and [task.seed for task in tasks] == [0] * 7 + [1] * 7
    with pytest.raises(WorkbookError, match="each once"):
        sweep(tmp_path, seeds=(1, 1))
    for name in ("a/b", "", "a" * 90):
        with pytest.raises(WorkbookError, match="a sweep's name"):
            replace(sweep(tmp_path), name=name)


def test_every_grid_has_run_folders_of_its_own(tmp_path: Path) -> None:
    for name, grid in grids().items():
        tasks = replace(sweep(tmp_path, grid=name), name=name).tasks()
        assert len({task.run for task in tasks}) == 2 * len(grid.rows)


def test_a_setting_that_no_row_can_have_ends_before_anything_is_done(tmp_path: Path) -> None:
    for changes, words in (("search.chanels=2", "did you mean"), ("search.stages.7.epochs=1", "not an index")):
        with pytest.raises(WorkbookError, match=words):
            sweep(tmp_path, changes=changes).check()
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_done_is_not_done_again(done: Sweep) -> None:
    for task in done.tasks(["6", "7"]):
        assert [event.kind for event in done.do(task)] == ["restored", "done"] * 3


def test_a_row_stopped_anywhere_goes_on_to_the_same_bits(done: Sweep, tmp_path: Path) -> None:
    again, task = sweep(tmp_path), done.tasks(["7"])[0]
    for stop in (2, 4, 6):
        list(islice(again.do(task), stop))
    for _ in again.do(task):
        pass
    states: list[Any] = []
    for results in (done.results, tmp_path):
        folders = (results / task.run / part for part in ("search", "networks/found", "evaluation/found"))
        states.append([bits(Checkpoints(folder).load()[0]) for folder in folders])
    assert states[0] == states[1]


def test_the_table_says_means_spreads_and_how_rows_compare(done: Sweep) -> None:
    table = Table(sweep=done)
    lines = {line["row"]: line for line in table.lines()}
    assert [line["seeds"] for line in lines.values()] == [0, 0, 0, 0, 0, 2, 2]
    for row in ("6", "7"):
        found = [done.evaluation(task) for task in done.tasks([row])]
        accuracies = [100 * each.accuracy("PGD20") for each in found if each is not None]
        assert lines[row]["PGD20"] == pytest.approx(sum(accuracies) / 2, abs=1e-3)
        assert lines[row]["PGD20 spread"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5, abs=1e-3)
        low, high = t_interval(accuracies)
        assert [lines[row][f"PGD20 {end}"] for end in ("low", "high")] == pytest.approx([max(low, 0), min(high, 100)], abs=1e-3)
        assert lines[row]["interval"] == "t, 2 seeds"
    assert "against reference" not in lines["7"] and lines["3"]["PGD20"] is None
    verdicts = {"better", "worse", "no evidence"}
    assert sum(int(part.split()[0]) for part in lines["6"]["against reference"].split(", ")) == 2
    assert {part.split(maxsplit=1)[1] for part in lines["6"]["against reference"].split(", ")} <= verdicts
    said = table.text()
    assert said.count("\n") == 7 and "- (49.34)" in said and "(55.87)" in said and "±" in said and "AutoAttack" not in said


def test_one_seed_has_the_interval_of_its_test_images(done: Sweep) -> None:
    (line,) = (line for line in Table(sweep=replace(done, seeds=(1,))).lines() if line["row"] == "7")
    evaluation = done.evaluation(done.tasks(["7"])[1])
    assert evaluation is not None and line["interval"] == "Wilson, 20 images"
    assert [line["natural low"], line["natural high"]] == pytest.approx([100 * end for end in evaluation.interval()], abs=1e-3)


def test_an_attack_of_the_first_images_says_their_number(done: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Sweep.evaluation

    def cut(sweep: Sweep, task: Task) -> Evaluation | None:
        found = whole(sweep, task)
        predictions = {} if found is None else {**found.predictions, "AutoAttack": found.predictions["PGD20"][:7]}
        return None if found is None else replace(found, predictions=predictions)

    monkeypatch.setattr(Sweep, "evaluation", cut)
    table = Table(sweep=replace(done, seeds=(1,)))
    (line,) = (line for line in table.lines() if line["row"] == "7")
    found = cut(done, done.tasks(["7"])[1])
    assert found is not None and line["AutoAttack images"] == 7 and "PGD20 images" not in line
    assert line["AutoAttack"] == pytest.approx(100 * found.accuracy("AutoAttack"), abs=1e-3)
    assert line["AutoAttack high"] == pytest.approx(100 * found.interval("AutoAttack")[1], abs=1e-3)
    assert "] n = 7" in table.text() and table.text().count("n = 7") == 2  # rows 6 and 7


@pytest.mark.parametrize(("values", "expected"), [([1.0, 3.0], (2 - 12.7062, 2 + 12.7062)), ([4.0, 6.0, 8.0], (1.0317, 10.9683))])
def test_the_interval_over_seeds_is_students(values: list[float], expected: tuple[float, float]) -> None:
    assert t_interval(values) == pytest.approx(expected, abs=1e-3)  # t is 12.7062 and 4.3027 in the tables


def test_the_table_says_what_the_trained_networks_cost(done: Sweep) -> None:
    lines = {line["row"]: line for line in Table(sweep=done).lines()}
    for row in ("6", "7"):
        networks = [find_experiment(task.run, results=done.results, device="cpu").networks()["found"] for task in done.tasks([row])]
        counts = [sum(weight.numel() for weight in network.parameters()) for network in networks]
        assert lines[row]["parameters"] == round(sum(counts) / 2) and lines[row]["multiply_adds"] > counts[0]


def test_what_was_read_is_read_again_only_when_it_is_written_anew(done: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    table, read = Table(sweep=done), []
    real = Sweep.evaluation
    monkeypatch.setattr(Sweep, "evaluation", lambda self, task: read.append(task.run) or real(self, task))
    first = table.lines()
    assert sorted(read) == sorted(task.run for task in done.tasks(["6", "7"])) and table.lines() == first and len(read) == 4
    done.evaluation_path(done.tasks(["6"])[0]).touch()
    assert table.lines() == first and read[4:] == [done.tasks(["6"])[0].run]


def test_the_table_is_written_beside_the_runs(done: Sweep) -> None:
    written = Table(sweep=done).write().read_text()
    assert written.startswith("row,about,seeds,interval,parameters,multiply_adds,natural,") and len(written.splitlines()) == 8


def test_a_run_of_a_sweep_is_found_with_its_variant(done: Sweep) -> None:
    experiment = find_experiment(done.tasks(["6"])[0].run, results=done.results, device="cpu")
    assert isinstance(experiment.preset.search.stages[1].upper_level, SumOfLosses)


def test_a_published_architecture_is_trained_without_a_search(tmp_path: Path) -> None:
    made = sweep(tmp_path, seeds=(0,))
    (task,) = made.tasks(["2"])
    for _ in made.do(task):
        pass
    assert made.evaluation(task) is not None and not (tmp_path / task.run / "search").exists()


def test_matched_networks_are_as_near_as_channels_bring_them_to_the_one_they_are_matched_to(done: Sweep) -> None:
    changes = f"{CHANGES} channels=12 baseline_size=[5,4]"
    settings: dict[str, Any] = {"limit": 4, "results": done.results, "device": "cpu"}
    experiment = open_experiment("matched", variant="table4-6-matched", changes=changes, **settings)
    shutil.copytree(done.results / done.tasks(["7"])[0].run / "search", experiment.search_folder)
    plans = experiment.networks_to_train()
    assert plans["found-natural"][0] == plans["found"][0]
    wanted = blueprint_cost(zoo.load("DSARA").resized(10, 3, 5, 12), 8).parameters
    for sized in (plans["found"][0], *(experiment.published(name)[0] for name in ("AdvRush", "ResNet-18-32x32"))):
        fewer, here, more = (
            abs(blueprint_cost(sized.with_options(channels=sized.channels + step), 8).parameters - wanted) for step in (-1, 0, 1)
        )
        assert here < min(fewer, more) and here < wanted / 4


def test_the_command_does_it_all_and_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--limit", "4", "--set", CHANGES, "--results", str(tmp_path), "--device", "cpu"]
    assert main(["sweep", "table4", "--rows", "2", "--name", "t", *given]) == 0
    said = capsys.readouterr().out
    assert (
        "1 running, 0 failed of 1] t-row2-seed0: R-A-A, 1-2-2" in said
        and "[1 done, " in said
        and "written:" in said
        and (tmp_path / "t.csv").is_file()
    )
    for wrong, words in (
        (["sweep", "table6"], "unknown grid 'table6'; did you mean 'table"),
        (["sweep", "methods", "--rows", "dart"], "unknown row of methods 'dart'; did you mean 'darts'"),
        (["run", "--variant", "advrsh"], "unknown variant 'advrsh'; did you mean 'advrush'"),
        (["sweep", "table4", "--seeds", "a"], "seeds are whole numbers"),
        (["sweep", "table4", "--rows", "8"], "unknown row of table4 '8'"),
    ):
        assert main([*wrong, *given]) == 2
        assert not (tmp_path / "demo-digits-advrsh").exists()
        assert words in capsys.readouterr().err
