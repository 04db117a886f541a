"""The command line: costs by name, sentences for wrong input, and the whole chain in one kernel."""

from __future__ import annotations

import json

import pytest
from test_presets import TINY

from dsara_lib.architecture import zoo
from dsara_lib.cli import main


@pytest.mark.parametrize("name", zoo.names())
def test_cost_prints_one_line_of_json(name, capsys):
    assert main(["cost", name, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert printed["name"] == name
    assert set(printed) - {"note"} == {"name", "parameters", "multiply_adds", "table1_flops"}
    assert printed["parameters"] > 3e6 and min(printed["table1_flops"], printed["multiply_adds"]) > 3e7
    assert printed.get("note", "") == zoo.load(name).note


def test_cost_of_a_genotype_file_equals_that_of_the_zoo(tmp_path, capsys):
    zoo.load("DSARA").genotype.save(tmp_path / "mine.json")
    assert main(["cost", str(tmp_path / "mine.json"), "--json"]) == 0
    assert main(["cost", "DSARA", "--json"]) == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cost", "DSRA"], "did you mean 'DSARA'"),
        (["cost", "missing.json"], "no file missing.json"),
        (["nb", "17"], "unknown notebook '17'"),
        (["nb", "02", "-p", "PROFIL", "demo"], "did you mean 'PROFILE'"),
        (["nb", "02", "-p", "SEED", "one"], "SEED of 02_search is a int; got 'one'"),
        (["bench", "--only", "serch_step"], "did you mean 'search_step'"),
        (["report", "--run", "nowhere", "--results", "nowhere"], "no run 'nowhere'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error
    assert len(error.splitlines()) == 1


def test_the_whole_chain_runs_headlessly_and_again_from_what_is_done(tmp_path, capsys):
    command = ["run", "--profile", "demo", "--limit", "20", "--run", "chain", "--set", TINY, "--results", str(tmp_path)]
    assert main([*command, "--device", "cpu"]) == 0, capsys.readouterr().err
    run = tmp_path / "chain"
    made = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    for expected in (
        "settings.json",
        "environment.json",
        "search/alphas.npz",
        "search/genotype.json",
        "search/history.jsonl",
        "networks/found/best/weights.safetensors",
        "networks/found/last/card.json",
        "evaluation/white_box.csv",
        "evaluation/transfer-PGD20.npz",
        "evaluation/found-soundness.json",
        "report.html",
    ):
        assert expected in made, sorted(made)
    assert sum(name.startswith("notebooks/") for name in made) == 7
    assert {f"figures/cell_{kind}.svg" for kind in ("accurate", "robust", "reduction")} <= made
    before = (run / "evaluation/white_box.csv").read_bytes(), (run / "search/genotype.json").read_bytes()
    assert main(["nb", "04", "-p", "RUN", "chain", "-p", "DEVICE", "cpu", "--results", str(tmp_path)]) == 0
    assert before == ((run / "evaluation/white_box.csv").read_bytes(), (run / "search/genotype.json").read_bytes())
    assert main([*command[:-2], "--results", str(tmp_path), "--seed", "1"]) == 2
    assert "made with other settings" in capsys.readouterr().err
