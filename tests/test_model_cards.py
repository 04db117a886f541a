"""Model cards, and the README's part of a run: what the folder says, no more, and nothing made of a stranger's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_report import CLASSES, NETWORKS, write_run

from dsara_lib import cli
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import read_csv
from dsara_lib.report import model_card, readme_part, write_model_cards, write_readme
from dsara_lib.report.model_cards import markdown_table
from dsara_lib.report.readme import BEGIN, END, FIGURES, draw, figures_of
from dsara_lib.report.record import Record, read
from dsara_lib.runs import read_json, write_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("results"))


@pytest.fixture
def record(run: Path) -> Record:
    return read(run)


def lines(text: str, first: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {first} |")]


def test_each_trained_network_has_a_card_with_the_numbers_of_the_table(run: Path) -> None:
    paths = write_model_cards(run)
    assert {path.parent.name for path in paths} == {*NETWORKS} - {"found-last"}
    for path in paths:
        text = path.read_text("utf-8")
        for row in read_csv(run / "evaluation" / "white_box.csv"):
            if row["network"] == path.parent.name:
                (line,) = lines(text, row["attack"])
                assert f"{row['correct']} of {row['images']}" in line and f"{100 * row['accuracy']:.1f} %" in line
        assert ", ".join(CLASSES) in text and f'load_network("results/fake/networks/{path.parent.name}/best")' in text
    clean = (run / "networks" / "found-natural" / "README.md").read_text("utf-8")
    assert "trained on clean images" in clean and "softmaxed output" in clean  # what its board says


def test_a_network_that_was_not_attacked_says_so(record: Record) -> None:
    record.white_box = []
    assert "not been attacked yet" in model_card(record, "found")


def test_the_readme_has_the_run_between_its_marks_and_all_else_as_it_was(run: Path, tmp_path: Path) -> None:
    readme, begin = tmp_path / "README.md", BEGIN.format(run="fake")
    readme.write_text(f"before\n{begin}\nold\n{END}\nafter\n", "utf-8")
    write_readme(run, readme, tmp_path / "docs")
    text = readme.read_text("utf-8")
    assert text.startswith(f"before\n{begin}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert readme_part(read(run), Path("docs")) in text
    assert all((tmp_path / "docs" / f"{name}.png").stat().st_size for name in FIGURES)
    found = [row for row in read_csv(run / "evaluation" / "white_box.csv") if row["network"] == "found"]
    (line,) = (line for line in lines(text, "found") if "k |" in line)
    assert all(f"{100 * row['accuracy']:.1f} % (" in line for row in found)
    again = readme.read_bytes()
    write_readme(run, readme, tmp_path / "docs")
    assert readme.read_bytes() == again


def test_of_a_run_that_searched_nothing_the_readme_shows_where_it_is_from_and_who_is_better(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    card = read_json(run / "run.json")
    told = {"name": "DSARA", "kind": "published", "genotype": read_json(run / "search" / "genotype.json"), "opened": {}}
    write_json(run / "run.json", card | {"settings": card["settings"] | {"from": told}})
    record, docs = read(run), tmp_path / "docs"
    assert "not to be compared under PGD20" in readme_part(record, Path("docs"))  # it is not said on which images they stand
    told = {"dtype": "float32", "image_checksum": "0123"}
    record.evaluations = {name: replace(each, provenance=told) for name, each in record.evaluations.items()}
    text = readme_part(record, Path("docs"))
    assert "published as DSARA; no weight comes from there" in text and "Search:" not in text
    assert list(figures_of(record)) == ["fake"] and draw(record, "fake", docs).stat().st_size and "](docs/fake.png)" in text
    for name, other in record.evaluations.items():
        counts = record.evaluations["found"].compare(other, "PGD20")
        (line,) = [each for each in text.splitlines() if each.startswith(f"- beside {name}:")] or [""]
        assert (f"under PGD20 (p = {counts.p_value:.2g})" in line) is not name.startswith("found")


def test_a_readme_without_the_marks_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("my own", "utf-8")
    with pytest.raises(WorkbookError, match="has not the lines"):
        write_readme(run, readme, tmp_path / "docs")
    assert readme.read_text("utf-8") == "my own" and not (tmp_path / "docs").exists()


def test_words_of_a_strangers_folder_make_no_markup(record: Record) -> None:
    assert markdown_table(["a|b"], [["<img src=x>\n# [x](y)"]]).splitlines()[2] == r"| &lt;img src=x&gt; # \[x\](y) |"
    record.cards["found"]["data"]["classes"] = ["<script>", "b`", "c"]
    assert "<script>" not in model_card(record, "found")


def test_the_report_command_writes_the_cards(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsara_lib.report.write_report", lambda folder: folder / "report.html")
    assert cli.main(["report", "--run", "fake", "--results", str(run.parent)]) == 0
    assert f"written: {run / 'networks' / 'found' / 'README.md'}" in capsys.readouterr().out


def test_numbers_of_other_runs_are_not_judged_with_this_one(run: Path, record: Record) -> None:
    card = read_json(run / "run.json")
    (run.parent / "damaged").mkdir()
    write_json(run.parent / "damaged" / "run.json", card)
    assert readme_part(read(run), Path("docs")) == readme_part(record, Path("docs"))
