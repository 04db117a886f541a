"""Folders that really were made by earlier versions (`earlier/README.md`), and by versions that are still to come."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import TRAIN, toy_blueprint, toy_data

from dsara_lib import upgrades
from dsara_lib.data import load, unit_interval
from dsara_lib.engine import begin, run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import load_arrays
from dsara_lib.experiment import find_experiment
from dsara_lib.history import History, read_history
from dsara_lib.panel.runs import known_runs
from dsara_lib.report.collection import collect
from dsara_lib.report.record import read as read_record
from dsara_lib.runs import SCHEMA, Checkpoints, RunStore, changed_since, describe, generator, read_json, write_json
from dsara_lib.training import CARD_SCHEMA, Trainer, load_card, load_network

EARLIER = Path(__file__).parent / "earlier"
GO_ON = ("4178c60", "2f8051c", "ad99ff5")
FINISHED = ("86afedd", "4178c60", "ad99ff5")


def unpacked(commit: str, folder: Path) -> Path:
    """The folder of all runs of that commit's library."""
    with zipfile.ZipFile(EARLIER / f"{commit}.zip") as archive:
        archive.extractall(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- folders of earlier commits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", GO_ON)
def test_a_search_that_an_earlier_version_began_goes_on_to_its_end(commit: str, tmp_path: Path) -> None:
    results = unpacked(commit, tmp_path)
    experiment = find_experiment("stopped", device="cpu", results=results)
    history = History()
    kinds = [event.kind for event in run_epochs(experiment.searcher(), experiment.search_folder, history)]
    assert kinds[0] == "restored" and kinds.count("epoch") == 1 and kinds[-1] == "done"
    written = read_history(experiment.search_folder)
    assert [row["epoch"] for row in written.epochs] == [1, 2]
    assert [row["step"] for row in written.steps] == list(range(6))
    assert experiment.genotype().name == "found"


@pytest.mark.parametrize("commit", GO_ON)
def test_a_run_that_is_gone_on_with_is_written_anew_and_one_that_is_read_is_not(commit: str, tmp_path: Path) -> None:
    results = unpacked(commit, tmp_path)
    before = contents(results)
    run = RunStore(results).find("stopped")
    assert run.card()["schema"] == SCHEMA and read_json(run.path("run.json"))["schema"] == 1
    read_record(run.folder), known_runs(results), collect(results)
    assert contents(results) == before
    experiment = find_experiment("stopped", device="cpu", results=results)
    card = read_json(run.path("run.json"))
    assert card["schema"] == SCHEMA and card["settings"]["preset"] == describe(experiment.preset)
    assert read_json(run.path("settings.json")) == card["settings"]
    assert {name: card[name] for name in ("library", "created")} == {
        name: json.loads(before["stopped/run.json"])[name] for name in ("library", "created")
    }
    after = contents(results)
    find_experiment("stopped", device="cpu", results=results)
    assert contents(results) == after


@pytest.mark.parametrize("name", ["stopped", "finished"])
def test_a_run_whose_profile_has_other_settings_now_is_refused_with_a_sentence_and_left_as_it_is(name: str, tmp_path: Path) -> None:
    results = unpacked("86afedd", tmp_path)
    before = contents(results)
    with pytest.raises(WorkbookError) as refused:
        find_experiment(name, device="cpu", results=results)
    told = str(refused.value)
    assert 'preset.evaluation.black_box_attacks: ["PGD20"] here, ["PGD20", "MI-FGSM"] there' in told
    assert "go on with the version that made it" in told and "\n" not in told and "precision" not in told
    assert contents(results) == before


@pytest.mark.parametrize("commit", FINISHED)
def test_report_browser_and_comparison_show_what_an_earlier_version_found(commit: str, tmp_path: Path) -> None:
    results = unpacked(commit, tmp_path)
    record = read_record(results / "finished")
    assert record.troubles == [] and len(record.search.steps) == 6 and "found" in record.evaluations
    assert record.genotype is not None and record.chosen_epoch is not None and set(record.cards) >= {"found", "found-last"}
    shown = {run.name: run for run in known_runs(results)}
    assert shown["finished"].trouble == "" and shown["finished"].epochs == (2, 1) and "PGD20" in shown["finished"].found
    assert [each.run for each in collect(results).measured] == ["finished"]


@pytest.mark.parametrize("commit", FINISHED)
def test_a_network_of_an_earlier_version_says_what_it_said_then(commit: str, tmp_path: Path) -> None:
    run = unpacked(commit, tmp_path) / "finished"
    network, found = load_network(run / "networks" / "found" / "best"), load_arrays(run / "evaluation" / "found.npz")
    test = load("digits", limit=12).test
    test = test.subset(torch.randperm(len(test), generator=generator("test images"))[:20])
    with torch.no_grad():
        said = network(unit_interval(test.images)).argmax(dim=1)
    assert said.tolist() == found["natural"].tolist() and test.labels.tolist() == found["labels"].tolist()


@pytest.mark.parametrize("commit", ["4178c60", "ad99ff5"])
def test_an_evaluation_that_an_earlier_version_ended_is_not_done_again(commit: str, tmp_path: Path) -> None:
    results = unpacked(commit, tmp_path)
    experiment = find_experiment("finished", device="cpu", results=results)
    evaluator = experiment.white_box("found", load_network(results / "finished" / "networks" / "found" / "best"))
    kinds = [event.kind for event in run_epochs(evaluator, experiment.run.path("evaluation", "found"))]
    assert kinds == ["restored", "done"]


# -- settings that come and go -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inner:
    old: int
    new: float = 0.5
    made: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Outer:
    parts: tuple[Inner, ...] = (Inner(old=1), Inner(old=2))
    one: Inner | None = None


def test_a_setting_that_did_not_exist_has_its_default(tmp_path: Path) -> None:
    written = describe({"a": Outer()})
    for part in written["a"]["parts"]:
        del part["new"], part["made"]
    assert changed_since(written, {"a": Outer()}) == []
    other = Outer(parts=(Inner(old=1), Inner(old=2, new=0.75)))
    assert changed_since(written, {"a": other}) == ["a.parts.1.new: 0.5 here, 0.75 there"]
    del written["a"]["parts"][0]["old"]
    assert changed_since(written, {"a": Outer()}) == ["a.parts.0.old: null here, 1 there"]  # it never had a default


def test_a_setting_of_another_type_keeps_its_difference() -> None:
    assert changed_since({"a": {"type": "Else", "old": 1}}, {"a": Inner(old=1)})[0] == 'a.type: "Else" here, "Inner" there'
    assert changed_since({"a": None}, {"a": Inner(old=1)}) != []
    assert changed_since(describe({"a": Outer(one=Inner(old=1))}), {"a": Outer()}) != []


def test_a_setting_of_a_newer_version_is_refused_as_that(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = store.open("r", {"a": Outer()})
    card = run.card()
    card["settings"]["a"]["parts"][1]["invented"] = 3
    write_json(run.path("run.json"), card)
    with pytest.raises(WorkbookError, match=r"run 'r' .*does not know \(a\.parts\.1\.invented\): a newer version made it"):
        store.open("r", {"a": Outer()})


def test_a_checkpoint_of_a_newer_version_is_refused_as_that(tmp_path: Path) -> None:
    trainer = Trainer(toy_blueprint(), toy_data(), TRAIN)
    begin(trainer, tmp_path, History())
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None
    state["settings"]["config"]["invented"] = 1
    Checkpoints(tmp_path).save(0, state)
    with pytest.raises(WorkbookError, match=r"checkpoint .*does not know \(config\.invented\): a newer version made it"):
        begin(trainer, tmp_path, History())


@pytest.mark.parametrize("place", ["network", "optimizer", "epoch"])
def test_a_checkpoint_that_lacks_part_of_a_jobs_state_is_refused_with_a_sentence(place: str, tmp_path: Path) -> None:
    trainer = Trainer(toy_blueprint(), toy_data(), TRAIN)
    begin(trainer, tmp_path, History())
    state, _ = Checkpoints(tmp_path).load()
    assert state is not None
    del state["job"][place]
    Checkpoints(tmp_path).save(0, state)
    with pytest.raises(WorkbookError, match="does not hold the state of such a job") as refused:
        begin(trainer, tmp_path, History())
    assert "\n" not in str(refused.value)


# -- schemas -----------------------------------------------------------------------------------------------------------


def test_a_run_folder_of_a_newer_version_says_which_one(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = store.open("r", {})
    write_json(run.path("run.json"), run.card() | {"schema": SCHEMA + 1, "library": "9.8.7"})
    for read in (lambda: store.open("r", {}), lambda: store.find("r"), lambda: read_record(run.folder)):
        with pytest.raises(WorkbookError, match=rf"schema {SCHEMA + 1};.*use the newer version that made it, '9\.8\.7'"):
            read()


def test_a_network_card_of_a_newer_version_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"schema": CARD_SCHEMA + 1})
    with pytest.raises(WorkbookError, match="a newer version of this library made it"):
        load_card(tmp_path)


def test_every_schema_that_is_read_leads_to_the_present_one() -> None:
    assert sorted(upgrades.RUN_CARDS) == list(range(1, SCHEMA))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["settings", "preset", "search", "stages", "upper_level", "evaluation", "black_box_attack", "type"]),
            inner | st.just("MGDA"),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(anything)
def test_whatever_stands_in_an_older_card_passes_and_passes_a_second_time_as_it_is(value: Any) -> None:
    card = upgrades.run_card({"schema": 1, "settings": value}, SCHEMA)
    assert card["schema"] == SCHEMA and upgrades.run_card(card, SCHEMA) is card
    again = upgrades.job_settings({"config": value})
    assert upgrades.job_settings(again) == again
