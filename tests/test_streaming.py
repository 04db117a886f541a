"""Images that are too many for a GPU's memory: the same batches and bits, and the images in memory once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import ATTACK, SEARCH, TRAIN, bits, search_outcome, toy_blueprint, toy_data

from dsara_lib import data as module
from dsara_lib import streaming
from dsara_lib.data import Augmentation, Batches, DataSet, Split, halves, hold_out
from dsara_lib.engine import Job, run_epochs
from dsara_lib.evaluation import evaluate
from dsara_lib.experiment import Experiment, checksum_of
from dsara_lib.runs import Checkpoints
from dsara_lib.search import Searcher
from dsara_lib.streaming import memory_of, stage, stays_on_host, stream
from dsara_lib.training import Trainer, measure

CPU, META = torch.device("cpu"), torch.device("meta")
DATA = toy_data()
JOBS = {
    "search": lambda: Searcher(DATA, replace(SEARCH, stages=SEARCH.stages[1:])),
    "training": lambda: Trainer(toy_blueprint(), DATA, replace(TRAIN, epochs=1)),
}


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device has a byte of memory: whatever is brought to one streams."""
    monkeypatch.setattr(module, "memory_of", lambda device: 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def streamed(split: Split) -> Split:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "memory_of", lambda device: 1)
        return split.to(CPU)


def images_of(count: int, size: int = 6) -> Split:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator())
    return Split(images=images, labels=torch.arange(count) % 3)


# ------------------------------------------------------------------------------------------------------- what is decided


def test_images_of_more_than_a_tenth_of_a_devices_memory_stay_on_the_host():
    tiny_imagenet = 100_000 * 3 * 64 * 64
    assert stays_on_host(tiny_imagenet, 8 * 2**30) and not stays_on_host(tiny_imagenet, 80 * 2**30)
    assert stays_on_host(11, 100) and not stays_on_host(10, 100)


def test_nothing_streams_on_a_device_without_memory_of_its_own():
    assert memory_of(CPU) is None and not stays_on_host(10**15, None)
    split = images_of(4)
    assert split.to("cpu") is split and split.placement == "images in the memory of cpu"


@pytest.mark.usefixtures("scarce")
def test_where_images_lie_is_told_and_what_is_asked_for_comes_to_the_device():
    split = images_of(9).to("cpu")
    assert split.placement.startswith("images stay on the host and stream to cpu")
    part = split.part(torch.tensor([4, 2]))
    assert part.placement == split.placement and part.device == CPU
    assert torch.equal(part.images, split.images[[4, 2]]) and part.labels.tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------ the same batches, the same bits


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("augmentation", [None, Augmentation(2, True)])
def test_streamed_batches_have_the_same_bits_and_draw_the_same_numbers(drop_last, augmentation):
    half, _ = hold_out(images_of(41), 0.3, generator())
    drawn, passes = [], []
    for split in (half, streamed(half)):
        source = generator(5)
        batches = Batches(split, 4, source, augmentation, drop_last)
        passes.append(bits([list(batches), list(batches)]))
        drawn.append(source.get_state())
    assert passes[0] == passes[1] and torch.equal(*drawn)


def test_a_pass_that_is_left_in_the_middle_has_drawn_all_it_needs_and_leaves_no_thread():
    states, before = [], threading.active_count()
    for split in (images_of(20), streamed(images_of(20))):
        source = generator()
        begun = iter(Batches(split, 4, source, Augmentation(1, True)))
        next(begun)
        states.append(source.get_state())
        del begun
    assert torch.equal(*states) and threading.active_count() == before


@pytest.mark.parametrize("name", JOBS)
def test_a_streamed_job_ends_with_the_same_bits_also_when_it_is_stopped_within_an_epoch(name, tmp_path, monkeypatch):
    finish(JOBS[name](), tmp_path / "plain")
    monkeypatch.setattr(module, "memory_of", lambda device: 1)
    begin(JOBS[name](), tmp_path / "streamed", steps=1)
    finish(JOBS[name](), tmp_path / "streamed")
    assert outcome(tmp_path / "plain") == outcome(tmp_path / "streamed")


def finish(job: Job, folder: Path) -> None:
    for _ in run_epochs(job, folder):
        pass


def begin(job: Job, folder: Path, steps: int) -> None:
    events = run_epochs(job, folder)
    while steps:
        steps -= next(events).kind == "step"
    events.close()


def outcome(folder: Path) -> Any:
    if (folder / "alphas.npz").exists():
        return search_outcome(folder)
    state, _ = Checkpoints(folder).load()
    assert state is not None
    return bits(state["job"])


def test_streamed_images_are_measured_and_evaluated_alike():
    network = toy_blueprint().build().eval()
    some = DATA.test.part(torch.randperm(len(DATA.test), generator=generator())[:10])
    found = []
    for split in (some, streamed(some)):
        evaluation = evaluate(network, split, {"attack": ATTACK}, batch_size=4)
        found.append(bits([measure(network, split, ATTACK, 4, 0), evaluation.predictions, evaluation.provenance]))
    assert found[0] == found[1]


# --------------------------------------------------------------------------------------------------------- a batch ahead


def test_one_batch_is_gathered_ahead_and_only_the_caller_asks_anything_of_the_device(monkeypatch):
    asked: list[int] = []

    def noting(images: Any, count: int, device: Any) -> Any:
        asked.append(threading.get_ident())
        return stage(images, count, device)

    monkeypatch.setattr(streaming, "stage", noting)
    places = torch.arange(10).split(2)
    begun = [len(asked) for _ in stream(images_of(10).images, places, CPU)]
    assert begun == [2, 3, 4, 5, 5] and {*asked} == {threading.get_ident()}


def test_what_goes_wrong_while_a_batch_is_gathered_is_raised_where_the_batch_is_asked_for():
    batches = stream(images_of(4).images, [torch.tensor([0]), torch.tensor([4])], CPU)
    assert len(next(batches)) == 1
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        next(batches)


def test_images_that_are_still_in_use_are_not_overwritten_by_later_batches():
    split = images_of(12)
    kept = [images for images, _ in streamed(split).in_batches(torch.arange(12), 2)]
    assert torch.equal(torch.cat(kept), split.images)


# ------------------------------------------------------------------------------------------------------ in memory once


def peak_bytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def forgetful() -> Iterator[None]:
    """The highest use of memory is that from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not say how much memory a process has used at most")
    yield


def of_one_level(count: int, size: int) -> DataSet:
    split = Split(images=torch.full((count, 3, size, size), 7, dtype=torch.uint8), labels=torch.arange(count) % 3)
    test = split.part(torch.arange(6))
    return DataSet(name="level", classes=("a", "b", "c"), train=split, test=test, eps=0.1, crop_padding=0, flip=False)


def use(data: DataSet) -> list[Any]:
    """What a run asks of its images; the objects that hold them."""
    searcher, trainers = Searcher(data, SEARCH), [Trainer(toy_blueprint(), data, TRAIN) for _ in range(2)]
    for split in (searcher.weights_half, searcher.alphas_half, *(trainer.train for trainer in trainers)):
        next(iter(Batches(split, 6, generator(), searcher.augmentation)))
    trainers[0].train.first(8)
    return [data.summary(), checksum_of(data), data.train.subset(torch.arange(len(data.train))), searcher, *trainers]


@pytest.mark.usefixtures("without_shape_check")
def test_a_search_and_two_trainings_hold_the_images_once(request):
    data = of_one_level(count=20_000, size=64)
    use(of_one_level(count=60, size=64))  # what is loaded with the first use
    request.getfixturevalue("forgetful")
    before = peak_bytes()
    held = use(data)
    assert peak_bytes() - before < 0.3 * data.train.images.nbytes and held


def test_halves_share_the_bytes_of_their_split_and_a_subset_has_its_own():
    split = images_of(10)
    before = split.images.clone()
    half, _ = halves(split, generator())
    subset, everything = split.subset(torch.tensor([3, 1])), split.subset(torch.arange(10))
    split.images[:] = 0
    assert half.images.max() == 0 and torch.equal(subset.images, before[[3, 1]]) and everything is split


def test_training_images_are_brought_to_an_experiments_device_once_and_stay_where_they_are_on_the_cpu():
    unused: Any = None
    here = Experiment(run=unused, preset=unused, data=DATA, seed=0, device=CPU)
    assert here.learnt_from.train is here.data.train
    there = replace(here, device=META)
    assert there.learnt_from.train.device == META and there.learnt_from.train is there.learnt_from.train
    assert there.learnt_from.test is here.data.test and here.test(3).device == CPU


def test_channel_statistics_are_those_of_all_images_however_many_are_looked_at_at_once(monkeypatch):
    whole = DATA.channel_statistics()
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 5)
    assert DATA.channel_statistics() == whole


# ------------------------------------------------------------------------------------------------------------ on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_stream_to_a_gpu_through_pinned_memory_with_the_same_bits(monkeypatch):
    half, _ = halves(images_of(200, size=32), generator())
    there = half.to("cuda")
    monkeypatch.setattr(module, "memory_of", lambda device: 1)
    streams = half.to("cuda")
    assert stage(half.images, 4, streams.device).is_pinned() and "stream to cuda" in streams.placement
    augmentation = Augmentation(4, True)
    passes = [Batches(split, 16, generator(5), augmentation) for split in (half, there, streams)]
    for (images, labels), *others in zip(*passes, strict=True):
        for its_images, its_labels in others:
            assert its_images.is_cuda and torch.equal(images, its_images.cpu()) and torch.equal(labels, its_labels.cpu())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_recorded_training_on_a_gpu_steps_alike_with_streamed_images(monkeypatch):
    def steps() -> list[dict[str, Any]]:
        return list(Trainer(toy_blueprint(), DATA, TRAIN, device="cuda").run_epoch())

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    there = steps()
    monkeypatch.setattr(module, "memory_of", lambda device: 1)
    for one, other in zip(there, steps(), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
