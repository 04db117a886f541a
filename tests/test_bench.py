"""`bench` runs from end to end at tiny sizes, writes what it says, and loses nothing. Its times and ratios are never tested."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dsara_lib import bench, plots
from dsara_lib.architecture import SearchSpace, zoo
from dsara_lib.attacks import PGD
from dsara_lib.bench import NAMES, QUICK, Bench, contests, make_bench
from dsara_lib.bench.contests import CONTESTS, Contest, First, Setting, same_images, same_losses, same_start, same_verdicts
from dsara_lib.bench.entries import COUNTED, REQUIRED, Entry, put, read, slug, table
from dsara_lib.bench.timing import Paired, one_thread, paired, prepare, seconds
from dsara_lib.cli import main
from dsara_lib.errors import WorkbookError
from dsara_lib.plots.speed import plain_and_fast, scaling
from dsara_lib.runs import generator
from tests.reference.plain_network import PlainNetwork, PlainSearcher, plain_attack, settle

CPU = torch.device("cpu")
FEW = SearchSpace(operations=("max_pool_3x3", "skip_connect"), num_nodes=2)
ATTACK = replace(QUICK.autoattack, steps=2, targets=1, queries=2)
TINY = replace(QUICK, space=FEW, counted_batch=2, autoattack=ATTACK, sweep_images=(2, 4), sweep_cells=(5,), sweep_steps=(1, 2))


def tiny(path: Path, *names: str, **changes: Any) -> Bench:
    """A bench of the tiniest sizes."""
    return Bench(device=CPU, sizes=TINY, path=path, names=names or NAMES, **changes)


def entry(**changes: Any) -> Entry:
    """Some measured entry."""
    made = {"name": "search_step", "device": "cpu-x", "dtype": "float32", "batch": 8, "plain": 4.0, "fast": 1.0, "unit": "seconds"}
    return made | {"ratio": 4.0, "ratio_min": 3.5, "ratio_max": 4.2} | changes


def swept(what: str, *values: int) -> list[Entry]:
    """Entries of the sweep that grow in proportion."""
    return [
        entry(name="scaling", what=what, value=value, plain=2.0 * value, fast=0.5 * value, seconds=0.5 * value) for value in values
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Entry], list[str]]:
    """Everything measured once: the file, the entries as they came, and what was said."""
    path, said = tmp_path_factory.mktemp("bench") / "benchmarks" / "cpu-x.json", list[str]()
    return path, list(tiny(path).run(said.append)), said


# ------------------------------------------------------------------------------------------------------------ end to end


def test_every_benchmark_is_written_with_its_schema(whole: tuple[Path, list[Entry], list[str]]) -> None:
    path, entries, _ = whole
    assert json.loads(path.read_text()) == entries
    assert {each["name"] for each in entries} == set(NAMES)
    for each in entries:
        assert set(REQUIRED) <= set(each)
        assert each["plain"] > 0 and each["fast"] > 0 and each["ratio"] > 0
        assert (each["device"] == COUNTED) == (each["name"] in bench.COUNTS)
        assert {"image_size", "num_cells", "channels", "torch"} <= set(each)


def test_timed_entries_say_how_they_were_timed(whole: tuple[Path, list[Entry], list[str]]) -> None:
    for each in whole[1]:
        if each["device"] != COUNTED:
            assert {"rounds", "threads", "checked", "ratio_min", "ratio_max", "device_name", "memory", "steps"} <= set(each)
            assert each["threads"] == 1 and each["rounds"] == 1
            assert each["plain_operations"] > 0 and each["fast_operations"] > 0
            assert each["plain_memory"] > 0 and each["fast_memory"] > 0
            assert each["unit"] == "seconds of process CPU time, one thread"


def test_it_says_that_both_sides_compute_the_same(whole: tuple[Path, list[Entry], list[str]]) -> None:
    said = "\n".join(whole[2])
    assert "losses to a share" in said and "pixels alike" in said and "images survive" in said


def test_counts_come_with_the_limits_of_a_gpu(whole: tuple[Path, list[Entry], list[str]]) -> None:
    _, entries, said = whole
    (counted,) = (each for each in entries if each["name"] == "dispatched_operations")
    assert counted["plain_weight_gradients_crafting"] == counted["fast_weight_gradients_crafting"] == 0
    assert counted["plain_operations"] > counted["plain"] > counted["fast"]
    assert counted["plain_bytes_moved"] > 0 and counted["plain_flops"] > 0
    (roofline,) = (words for words in said if "H200" in words)
    assert "whole search of 30 epochs" in roofline


def test_the_sweep_varies_one_thing_at_a_time(whole: tuple[Path, list[Entry], list[str]]) -> None:
    sweep = [each for each in whole[1] if each["name"] == "scaling"]
    assert [(each["what"], each["value"]) for each in sweep] == [
        *(("images", value) for value in TINY.sweep_images),
        *(("cells", value) for value in TINY.sweep_cells),
        *(("steps", value) for value in TINY.sweep_steps),
    ]
    for each in sweep:
        assert each["seconds"] == each["fast"]
        kept = {"images": each["batch"], "cells": each["num_cells"], "steps": each["steps"]}
        assert kept == {"images": 4, "cells": 5, "steps": 2} | {each["what"]: each["value"]}


def test_the_command_measures_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bench, "QUICK", TINY)
    command = ["bench", "--quick", "--device", "cpu", "--only", "craft_supernet,saved_bytes,scaling", "--results", str(tmp_path)]
    assert main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "craft_supernet, float32, batch 4" in printed and "saved_bytes" in printed
    (file,) = tmp_path.glob("benchmarks/cpu*-quick.json")
    assert {each["name"] for each in read(file)} == {"craft_supernet", "saved_bytes", "scaling"}
    for figure in ("scaling", "ratios"):
        assert (file.parent / f"{file.stem}-{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_count_only_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bench, "FULL", TINY)
    assert main(["bench", "--count", "--device", "cpu", "--results", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("benchmarks/*.json")
    assert [each["name"] for each in read(file)] == list(bench.COUNTS)
    assert "as a graph" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- nothing is left of the entry before


@pytest.mark.parametrize(("name", "maker"), [("search_step", "searchers"), ("retrain_step", "Trainer"), ("pgd20_eval", "networks")])
def test_nothing_of_the_entry_before_is_left_when_the_next_is_made(name: str, maker: str, tmp_path: Path, monkeypatch) -> None:
    made, left = list[Any](), list[int]()
    make = getattr(contests, maker)

    def noting(*arguments: Any, **settings: Any) -> Any:
        left.append(sum(each() is not None for each in made))
        result = make(*arguments, **settings)
        made.extend(weakref.ref(getattr(each, "supernet", each)) for each in (result if isinstance(result, tuple) else (result,)))
        return result

    monkeypatch.setattr(contests, maker, noting)
    gc.disable()
    try:
        list(tiny(tmp_path / "cpu.json", name, batches=(2, 4)).run(lambda words: None))
    finally:
        gc.enable()
    assert left == [0, 0]


def test_on_a_gpu_memory_is_given_back_when_all_is_done_and_peaks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = list[str]()
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: noted.append(name))
    monkeypatch.setattr(contests.gc, "collect", lambda: noted.append("collect"))
    contests.clear(CPU)
    assert noted == ["collect"]
    contests.clear(torch.device("cuda"))
    assert noted[1:] == ["synchronize", "collect", "empty_cache", "reset_peak_memory_stats"]


# ------------------------------------------------------------------------------------------------- entries are not lost


def test_only_the_named_entries_are_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    for each in (entry(batch=4, plain=-1), entry(name="craft_supernet", batch=4), entry(batch=99), *swept("images", 1)):
        put(path, each)
    kept = read(path)
    (new,) = tiny(path, "search_step").run(lambda words: None)
    assert read(path) == [new, *kept[1:]], "in the place of the old one"
    assert new["plain"] > 0


def test_a_stop_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted(setting: Setting) -> Contest:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "QUICK", TINY)
    monkeypatch.setitem(CONTESTS, "search_step", interrupted)
    command = ["bench", "--quick", "--only", "saved_bytes,search_step", "--device", "cpu", "--results", str(tmp_path)]
    assert main(command) == 130
    (file,) = tmp_path.glob("benchmarks/*.json")
    assert [each["name"] for each in read(file)] == ["saved_bytes"]
    assert "what was measured is kept" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["{}", "[1]", '[{"name": "search_step"}]', "no json"])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, written: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(written)
    with pytest.raises(WorkbookError, match=r"cpu\.json"):
        put(path, entry())
    assert path.read_text() == written


# ----------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "serch_step"], "did you mean 'search_step'? known: search_step, craft_supernet"),
        (["--only", "search_step,everything"], "unknown benchmark 'everything'"),
        (["--device", "cuda"], "torch finds no GPU here"),
        (["--device", "cuda:3"], "torch finds no GPU here"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--device", "meta"], "unknown device 'meta'"),
        (["--batch", "1"], "a batch has at least 2 images"),
        (["--rounds", "-1"], "rounds are at least 1"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_a_checkout_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(contests.importlib, "import_module", missing)
    with pytest.raises(WorkbookError, match="only a checkout has"):
        list(tiny(tmp_path / "cpu.json", "saved_bytes").run())


def test_a_quick_look_has_a_file_of_its_own() -> None:
    whole, quick = (make_bench(Path("results"), device="cpu", quick=quick) for quick in (False, True))
    assert quick.path.stem == f"{whole.path.stem}-quick" and whole.path.parent == Path("results/benchmarks")
    assert quick.sizes == bench.QUICK and whole.sizes == bench.FULL


# ------------------------------------------------------------------------------------- nothing is timed that is not the same


def broken(make: Callable[[Setting], Contest], setting: Setting) -> Contest:
    """A contest whose fast side forgets half of what it does."""
    contest = make(setting)

    def forgetful() -> Any:
        result = contest.fast()
        return 1 - result if isinstance(result, Tensor) else {name: value * 0.5 for name, value in result.items()}

    return replace(contest, fast=forgetful)


@pytest.mark.parametrize("name", ["search_step", "craft_supernet", "retrain_step", "pgd20_eval"])
def test_a_fast_side_that_computes_something_else_is_not_timed(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(CONTESTS, name, partial(broken, CONTESTS[name]))
    with pytest.raises(WorkbookError, match="so nothing was timed"):
        list(tiny(tmp_path / "cpu.json", name).run(lambda words: None))
    assert not (tmp_path / "cpu.json").exists()


def test_agreement_forgives_rounding_only() -> None:
    images = torch.zeros(4, 3, 8, 8)
    turned = images.clone()
    turned[0, 0, 0, :4] = 0.1
    near = First(images, turned, images)
    assert "99.48% of the attacked pixels alike after one step" in same_images("cpu", near, images, images)
    same_losses("cpu", near, {"loss": torch.tensor(2.0)}, {"loss": 2.0001, "accuracy": 0.5})
    for first, last, loss in ((images, images + 0.1, 2.1), (images + 0.1, images, 2.0), (images, images + 0.1, float("nan"))):
        with pytest.raises(WorkbookError, match="pixels"):
            same_images("cpu", First(images, first, images), images, last)
        with pytest.raises(WorkbookError, match="so nothing was timed"):
            same_losses("cpu", First(images, first, images), {"loss": torch.tensor(2.0)}, {"loss": loss})


def test_where_the_plain_side_itself_is_inexact_the_fast_one_may_be_too() -> None:
    images = torch.zeros(4, 3, 8, 8)
    plain, fast, worse = (images.clone() for _ in range(3))
    plain[0, 0], fast[0, 1], worse[1] = 0.1, 0.1, 0.1  # a twelfth of the pixels, another twelfth, and a quarter
    assert "fast 91.67%" in same_start("cpu", First(plain, fast, images))
    with pytest.raises(WorkbookError, match="so nothing was timed"):
        same_start("cpu", First(plain, worse, images))


def test_verdicts_must_be_the_same() -> None:
    network = torch.nn.Flatten()
    labels, right = torch.tensor([0, 1]), torch.eye(2)
    assert same_verdicts(network, labels, right, right) == "the same 2 of 2 images survive"
    with pytest.raises(WorkbookError, match="other images survive"):
        same_verdicts(network, labels, right, right.flip(0))


# ------------------------------------------------------------------------------------------------------ the plain versions


def test_plain_network_equals_the_library_s() -> None:
    blueprint = zoo.load("DSARA").blueprint(num_cells=5, channels=2, normalisation=((0.5,) * 3, (0.2,) * 3))
    network, plain = blueprint.build().double(), PlainNetwork(blueprint).double()
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    settle(network, images)
    plain.load_state_dict(network.state_dict())
    for training in (True, False):
        torch.testing.assert_close(plain.train(training)(images), network.train(training)(images), rtol=1e-9, atol=1e-12)
    assert all(parameter.is_contiguous() for parameter in plain.parameters())


def test_plain_attack_equals_pgd_and_leaves_the_network_alone() -> None:
    network = PlainNetwork(zoo.load("DSARA").blueprint(num_cells=5, channels=2)).double()
    images, labels = torch.rand(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    settle(network, images)
    attack, noise = PGD(steps=3), 2 * torch.rand_like(images) - 1
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attacked = plain_attack(network, images, labels, noise, attack)
    torch.testing.assert_close(attacked, attack(network, images, labels, noise=noise))
    assert network.training and all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_plain_and_fast_searcher_stay_together_for_several_steps() -> None:
    plain, fast = contests.searchers(Setting(sizes=TINY, batch=4, device=CPU))
    assert isinstance(plain, PlainSearcher)
    batches = Setting(sizes=TINY, batch=4, device=CPU).images("weights"), Setting(sizes=TINY, batch=4, device=CPU).images("alphas")
    for _ in range(3):
        expected, found = plain.step(*batches), fast.step(*batches)
        for name, loss in expected.items():
            assert found[name] == pytest.approx(loss.item(), rel=1e-3)
    for kind, alphas in plain.supernet.alphas.items():
        torch.testing.assert_close(fast.supernet.alphas[kind], alphas, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------- timing


def test_sides_take_turns_and_each_begins_as_often() -> None:
    order: list[str] = []
    timed = paired(lambda: order.append("plain"), lambda: order.append("fast"), CPU, rounds=4)
    assert order == ["fast", "plain", "plain", "fast"] * 2
    assert len(timed.plain) == len(timed.fast) == 4


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    found = Paired(plain=(2.0, 9.0, 4.0), fast=(1.0, 3.0, 4.0)).summary()
    assert found == {"plain": 4.0, "fast": 3.0, "ratio": 2.0, "ratio_min": 1.0, "ratio_max": 3.0}


def test_time_of_other_processes_is_not_counted() -> None:
    import time

    assert seconds(lambda: time.sleep(0.2), CPU) < 0.1


def test_preparing_counts_operations_and_memory() -> None:
    a = torch.zeros(10)
    made = prepare(lambda: (a + 1).mul_(2), CPU)
    assert (made.operations, made.memory) == (2, 40)
    assert torch.equal(made.result, torch.full((10,), 2.0))


def test_one_thread_inside_and_as_many_as_before_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with one_thread():
        assert asked == [1]
    assert asked == [1, 7]


def test_results_come_from_a_repeatable_setting() -> None:
    one, other = (Setting(sizes=TINY, batch=4, device=CPU).images() for _ in range(2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert generator("bench").initial_seed() == generator("bench").initial_seed()


# ------------------------------------------------------------------------------------------------------ tables and figures


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("CPU Intel(R) Xeon(R) Processor @ 2.30GHz", "cpu-intel-xeon"),
        ("CPU Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "cpu-intel-core-i7-8700"),
        ("CPU AMD EPYC 7B12", "cpu-amd-epyc-7b12"),
        ("CPU x86_64", "cpu-x86-64"),
        ("CPU ", "cpu"),
    ],
)
def test_a_device_s_name_becomes_a_file_s(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_the_table_says_which_targets_are_met() -> None:
    counted = {"name": "dispatched_operations", "device": COUNTED, "unit": "operations", "plain": 189_000, "fast": 60_000}
    gpu = {"device": "nvidia-h200", "dtype": "bfloat16", "batch": 64, "ratio": 30.0, "search_minutes_fast": 20.0}
    lines = table([entry(), entry(**counted), entry(**gpu), entry(name="retrain_step", ratio=1.2), *swept("steps", 1)]).splitlines()
    assert len(lines) == 5, "a head, and a line for each but the sweep"
    assert "at least 3: met, aim 5: MISSED" in lines[1] and "(3.50-4.20)" in lines[1]
    assert "at most 80,000: met, aim 50,000: MISSED" in lines[2] and "189,000" in lines[2]
    assert "at least 12: met, aim 25: met; search 20 min, at most 28: met, aim 12: MISSED" in lines[3]
    assert "at least 1.5: MISSED" in lines[4]
    assert "met" not in table([entry()], with_targets=False)


def test_the_sweep_is_drawn_with_its_straight_lines() -> None:
    figure = scaling([*swept("images", 4, 8, 16), *swept("steps", 1, 3, 7)])
    for ax, last in zip(figure.axes[::2], (16, 7), strict=True):
        assert [line.get_ydata()[-1] for line in ax.lines] == pytest.approx([2.0 * last] * 2 + [0.5 * last] * 2)
        assert sum("R² = 1.000" in text.get_text() for text in ax.texts) == 2
    assert any("not measured" in text.get_text() for text in figure.axes[1].texts)
    assert plots.to_bytes(figure, "png").startswith(b"\x89PNG")


def test_bars_are_as_long_as_what_the_fast_way_takes() -> None:
    figure = plain_and_fast([entry(), entry(name="saved_bytes", unit="bytes", ratio=2.0)])
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [100, 25, 100, 50]
    assert [text.get_text() for text in ax.texts] == ["4.00× as fast", "2.00× less"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["search step, batch 8", "saved bytes, batch 8"]
