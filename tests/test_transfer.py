"""An architecture that is retrained on other data: where it may come from, what its run keeps of that, and what the data decide."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_comparison import write_run
from test_data import make_svhn
from test_presets import TINY
from toys import toy_data

from dsara_lib import cli, notebooks, side_by_side
from dsara_lib.architecture import SearchSpace, zoo
from dsara_lib.data import DATASETS
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.experiment import find_experiment, open_experiment
from dsara_lib.presets import PAPER, PRESETS, decided_by, make_preset, recorded, source_of
from dsara_lib.presets.transfer import at_the_size_for, beside_on
from dsara_lib.report.collection import collect
from dsara_lib.runs import read_json, write_json
from dsara_lib.training import Drops

CHANGED = "search.channels=3"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """With a run that has found something, by the rows 5 of Table 5: in NASNet's space."""
    experiment = open_experiment("finder", limit=3, changes=CHANGED, variant="table5-5", results=tmp_path, device="cpu")
    genotype = replace(zoo.load("DARTS").genotype, name="found", source="search on digits, epoch 2 of 2")
    genotype.save(experiment.search_folder / "genotype.json")
    return tmp_path


def opened(results: Path, source: str, run: str = "elsewhere", **options: Any) -> Any:
    return open_experiment(run, limit=4, changes=TINY, source=source, results=results, device="cpu", **options)


def test_a_run_gives_its_architecture_its_space_and_its_method_and_is_needed_no_more(results: Path) -> None:
    experiment = opened(results, "finder")
    assert experiment.genotype().cells == zoo.load("DARTS").genotype.cells
    search = make_preset("demo", CHANGED, "table5-5").search
    assert replace(experiment.preset.search, attack=search.attack) == search  # whose radius is that of the data
    blueprint, training = experiment.network_to_train("found")
    assert blueprint.space == SearchSpace(placement="A-A-A", filters=(1, 2, 4)) and training == experiment.preset.training
    shutil.rmtree(results / "finder")
    again, found = opened(results, "finder"), find_experiment("elsewhere", results=results, device="cpu")
    assert again.preset == found.preset == experiment.preset and again.source == found.source == experiment.source
    assert read_json(results / "elsewhere" / "run.json")["settings"]["variant"] == "table5-5"


def test_what_was_retrained_elsewhere_can_be_retrained_again_and_comes_from_where_it_was_found(results: Path) -> None:
    first = opened(results, "finder")
    second = opened(results, "elsewhere", "further")
    assert second.source == first.source and second.genotype() == first.genotype()


@pytest.mark.parametrize("name", ["DSARA", "P-DARTS"])
def test_a_published_architecture_and_a_file_give_theirs(results: Path, name: str) -> None:
    published, path = opened(results, name), results / "mine.json"
    assert published.genotype().cells == zoo.load(name).genotype.cells
    assert published.preset.search.space == zoo.load(name).space
    zoo.load(name).genotype.save(path)
    of_file = opened(results, str(path), "of-a-file")
    assert of_file.network_to_train("found")[0].space == zoo.load(name).space
    assert name not in published.preset.baselines
    chosen = open_experiment("chosen", changes="baselines=AdvRush", source=name, limit=4, results=results, device="cpu")
    assert chosen.preset.baselines == ("AdvRush",)


def test_a_run_without_a_search_searches_nothing_and_says_from_where_it_has_its_architecture(results: Path) -> None:
    experiment = opened(results, "DSARA")
    with pytest.raises(WorkbookError, match="searches nothing: its architecture is that published as DSARA"):
        experiment.searcher()
    with pytest.raises(WorkbookError, match="other settings"):
        opened(results, "P-DARTS")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("DSAR", "unknown run or architecture 'DSAR'; did you mean 'DSARA'"),
        ("WideResNet-34-12", "not made of one genotype's cells"),
        ("nowhere.json", "nowhere.json"),
    ],
)
def test_what_is_no_source_is_told_before_a_folder_is_made(results: Path, source: str, sentence: str) -> None:
    with pytest.raises((WorkbookError, FileNotFoundError), match=sentence):
        opened(results, source)
    assert not (results / "elsewhere").exists()


@pytest.mark.parametrize(
    "told", [None, [], {"name": "x", "kind": "run"}, {"name": "x", "kind": "run", "opened": {}, "genotype": {}}]
)
def test_settings_that_do_not_say_from_where_are_refused(told: Any) -> None:
    with pytest.raises(WorkbookError, match="does not say from where its architecture comes"):
        recorded({"from": told}, "x")


# -- what the data decide ----------------------------------------------------------------------------------------------


def test_the_head_the_input_and_the_rate_are_those_of_the_data(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(toy_data(num_classes=7, size=8), learning_rate=0.01, flip=False)
    monkeypatch.setattr("dsara_lib.experiment.load", lambda *_, **__: data)
    experiment = opened(results, "DSARA", data="cifar100")
    (blueprint, training), job = experiment.network_to_train("found"), experiment.trainer("found")
    assert (blueprint.num_classes, blueprint.in_channels) == (7, 3)
    assert training.learning_rate == pytest.approx(0.01) and training.attack.eps == pytest.approx(data.eps)
    assert not job.augmentation.flip and job.augmentation.crop_padding == data.crop_padding
    told = {what: here for what, (here, _) in decided_by(data, experiment.preset).items()}
    assert (told["outputs of the head"], told["input"], told["horizontal flip"]) == ("7", "3 channels, 8x8", "no")
    assert (told["learning rate"], told["random crop after padding"]) == ("0.01", str(data.crop_padding))


def test_svhn_in_its_official_files_is_learnt_at_its_own_rate_without_flips_and_attacked(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_svhn(results, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", lambda *_: None)  # the files are there
    experiment = open_experiment(
        "svhn", changes=TINY, source="finder", data="svhn", results=results, data_root=results, device="cpu"
    )
    trainer = experiment.trainer("found")
    assert trainer.config.learning_rate == 0.01 and not trainer.augmentation.flip and trainer.augmentation.crop_padding == 4
    for job, folder in ((trainer, experiment.network_folder("found")), (None, experiment.run.path("evaluation", "found"))):
        job = job or experiment.white_box("found", experiment.networks()["found"])
        assert [event.kind for event in run_epochs(job, folder)][-1] == "done"
    found = job.evaluation("found", eps=experiment.data.eps, classes=experiment.data.classes)
    assert found.labels.max() <= 9 and found.accuracy("PGD20") <= found.accuracy()


def test_beside_it_stand_the_networks_of_table_3() -> None:
    assert beside_on("cifar100") == beside_on("svhn") == beside_on("folder:x") == ("ResNet-18", "P-DARTS")
    assert beside_on("tiny-imagenet") == ("WideResNet-34-12", "P-DARTS")
    assert DATASETS["svhn"].learning_rate == 0.01 and not DATASETS["svhn"].flip


@pytest.mark.parametrize("profile", PRESETS)
def test_on_tiny_imagenet_the_papers_scale_has_14_cells_84_channels_and_90_epochs(profile: str) -> None:
    data, preset = replace(toy_data(), name="tiny-imagenet"), PRESETS[profile]
    sized = at_the_size_for(preset, data)
    if (preset.num_cells, preset.channels) != (20, 64):
        assert sized == preset
        return
    assert (sized.num_cells, sized.channels) == (14, 84)
    schedule = Drops(milestones=(30, 60))
    expected = replace(PAPER.training, epochs=90, schedule=schedule) if preset.training == PAPER.training else preset.training
    assert sized.training == expected
    assert at_the_size_for(preset, toy_data()) == preset
    other = replace(preset, training=replace(preset.training, batch_size=7, held_out=0.3))
    assert at_the_size_for(other, data).training == replace(sized.training, batch_size=7, held_out=0.3)


def test_resnet_has_the_stem_for_the_size_of_the_images() -> None:
    source = source_of("DSARA", "nowhere")
    for size, name in ((8, "ResNet-18-32x32"), (96, "ResNet-18-32x32"), (128, "ResNet-18"), (224, "ResNet-18")):
        assert name in source.applied(PRESETS["demo"], toy_data(size=size)).baselines


# -- the command line --------------------------------------------------------------------------------------------------


def test_run_from_runs_notebook_07_and_those_after_it_and_waits_for_no_search(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(notebooks, "one_kernel", nullcontext)
    monkeypatch.setattr(notebooks, "execute", lambda path, target, given, kernel: done.append((path.stem[:2], given)))
    monkeypatch.setattr(side_by_side, "run_commands", lambda todo, at_once: done.extend(todo))
    command = ["run", "--from", "DSARA", "--limit", "4", "--set", TINY, "--results", str(results), "--device", "cpu"]
    assert cli.main([*command, "--jobs", "2"]) == 0
    assert "horizontal flip           no" in capsys.readouterr().out
    commands = [each for each in done if isinstance(each, side_by_side.Command)]
    assert not any(each.name == "search" or "search" in each.after for each in commands) and len(commands) > 3
    run = [(number, given) for number, given in done[len(commands) :]]
    assert [number for number, _ in run] == ["07", "04", "05", "09"]
    assert run[0][1]["FROM"] == "DSARA" and run[0][1]["RUN"] == "demo-digits-from-DSARA" and "VARIANT" not in run[0][1]
    assert set(run[0][1]) <= set(notebooks.parameters_of(notebooks.find("07")))
    zoo.load("DSARA").genotype.save(results / "mine.json")
    for more in ([], ["--jobs", "2"]):  # notebooks run in their own folder, and a run keeps the file's name alone
        done.clear()
        monkeypatch.chdir(results)
        assert cli.main(["run", "--from", "mine.json", *command[3:], *more]) == 0
        given = next(given for number, given in (each for each in done if isinstance(each, tuple)) if number == "07")
        monkeypatch.chdir(notebooks.FOLDER)
        source = opened(results, given["FROM"], given["RUN"]).source
        assert (source.name, source.genotype) == ("mine.json", zoo.load("DSARA").genotype)
    assert cli.main([*command, "--variant", "advrush"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_published_architecture_stands_in_the_tables_under_its_own_name(tmp_path: Path) -> None:
    for name, kind in (("published", "published"), ("of-a-run", "run")):
        card = write_run(tmp_path, name, data="cifar100") / "run.json"
        written = read_json(card)
        written["settings"]["from"] = {"name": "P-DARTS", "kind": kind, "genotype": {}, "opened": {}}
        write_json(card, written)
    write_run(tmp_path, "beside", data="cifar100", network="ResNet-18-32x32")
    found = {
        each.run: (each.system, {place for place in each.places if place[0] == "table3"}) for each in collect(tmp_path).measured
    }
    assert found["published"] == ("P-DARTS", {("table3", "CIFAR-100: P-DARTS")})
    assert found["of-a-run"] == ("DSARA", {("table3", "CIFAR-100: DSARA")})
    assert found["beside"] == ("ResNet-18-32x32", {("table3", "CIFAR-100: ResNet-18")})
