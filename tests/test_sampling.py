"""Searches that restrict the supernet: shrinking candidates, paths that are drawn and ranked, bandits that abandon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from test_capture import META, NothingWaits, Rehearsal
from test_supernet import pair
from torch import Tensor
from toys import SEARCH, Noting, bits, numbers, search_outcome, toy_data

from dsara_lib import plots
from dsara_lib.architecture import Genotype, Network, SearchSpace, Supernet, discretise
from dsara_lib.attacks import PGD
from dsara_lib.engine import run_epochs
from dsara_lib.errors import WorkbookError
from dsara_lib.evaluation import load_arrays
from dsara_lib.history import read_history
from dsara_lib.runs import Checkpoints, generator, read_jsonl
from dsara_lib.search import AntiBandit, RandomPaths, Ranking, SearchConfig, Searcher, Selection, SingleObjective, Stage
from dsara_lib.search import ranking as ranking_module
from dsara_lib.search import searcher as searcher_module
from dsara_lib.search.paths import (
    DROPPED,
    Allowed,
    alphas_of,
    dropped_skips,
    everything,
    genotype_of,
    path_of,
    strongest,
)
from dsara_lib.search.ranking import PathScores, best_of, flow_of_solution, throw_out
from dsara_lib.search.sampling import LEFT, PERFORMANCE, TRIES
from tests.reference.plain_supernet import plain_state

DATA = toy_data()
SPACE = SearchSpace(operations=("max_pool_3x3", "skip_connect", "sep_conv_3x3"), num_nodes=2)
SKIP = SPACE.operations.index("skip_connect")
CHEAP = SearchSpace(operations=("max_pool_3x3", "skip_connect", "avg_pool_3x3"), num_nodes=2)
SMALL = replace(SEARCH, space=CHEAP)
DARTS = Stage(epochs=1, upper_level=SingleObjective(), architecture_lr=0.05)
RANDOM = Stage(epochs=2, upper_level=RandomPaths(), architecture_lr=0.0)
BANDIT = Stage(epochs=2, upper_level=AntiBandit(), architecture_lr=0.0)
CONFIGS = {
    "p-darts": replace(
        SMALL,
        stages=(
            DARTS,
            replace(DARTS, candidates=2, skip_dropout=0.5),
            replace(DARTS, num_cells=6, candidates=2, skip_dropout=0.5),
        ),
        most_skips=1,
        alphas_first=True,
    ),
    "abanditnas": replace(SMALL, stages=(BANDIT,)),
    "robnet": replace(SMALL, stages=(RANDOM,), selection=Ranking(samples=4, fsp_share=0.5, recalibration=3)),
    "random": replace(SMALL, stages=(replace(RANDOM, epochs=1),), selection=Ranking(samples=3, recalibration=1)),
}


def search(config: SearchConfig, **options: Any) -> Searcher:
    return Searcher(DATA, config, **options)


def a_path(seed: int = 0, space: SearchSpace = SPACE) -> dict[str, Tensor]:
    return RandomPaths().draw(space, everything(space), None, generator("path", seed))


def network_of(supernet: Supernet, genotype: Genotype) -> Network:
    """The network of a genotype with the supernet's weights and statistics."""
    space, state = supernet.space, plain_state(supernet, supernet.state_dict())
    size = {"num_cells": len(supernet.cells), "channels": 2, "num_classes": supernet.num_classes}
    network = Network(genotype, space, **size, searching=True)
    for number, slot in enumerate(supernet.slots):
        for node, kept in enumerate(genotype.cells[slot.kind]):
            for at, (operation, source) in enumerate(kept):
                edge = space.edges.index((source, node + 2))
                there = f"cells.{number}.edges.{edge}.candidates.{space.operations.index(operation)}."
                for name in [each for each in state if each.startswith(there)]:
                    state[f"cells.{number}.edges.{node}.{at}.{name.removeprefix(there)}"] = state[name]
    network = network.to(next(supernet.parameters()).dtype)
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    return network


# ---------------------------------------------------------------------------------------------------------- restriction


def test_a_supernet_restricted_to_a_path_is_the_network_of_its_genotype():
    _, supernet = pair(SPACE)
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64)
    for path in (a_path(0), a_path(1)):
        supernet.restrict(path)
        network = network_of(supernet, supernet.genotype())
        assert network_of(supernet, genotype_of(path, SPACE, "x")).state_dict().keys() == network.state_dict().keys()
        for each in (supernet.eval(), supernet.folded()):
            torch.testing.assert_close(each(images), network.eval()(images), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(supernet.train()(images), network.train()(images), rtol=1e-9, atol=1e-9)


def test_mixing_weights_are_a_softmax_over_what_is_allowed_and_0_elsewhere():
    supernet = Supernet(SPACE, num_cells=5, channels=2, num_classes=3)
    free = supernet.mixing_weights()
    allowed = everything(SPACE)
    allowed["robust"][0, 1], allowed["robust"][1] = False, False
    supernet.restrict(allowed)
    found = supernet.mixing_weights()["robust"]
    few = supernet.alphas["robust"][0, [0, 2]].softmax(-1)
    torch.testing.assert_close(found[0], torch.stack([few[0], few[0] * 0, few[1]]))
    assert (found[1] == 0).all() and torch.equal(found[2:], free["robust"][2:])
    (gradient,) = torch.autograd.grad(found.square().sum(), supernet.alphas["robust"])
    assert gradient.isfinite().all() and gradient[0, 1] == 0 and (gradient[1] == 0).all() and gradient[0, 0] != 0
    supernet.restrict(None)
    assert bits(supernet.mixing_weights()) == bits(free)


def test_a_restriction_is_no_part_of_the_state_and_changes_in_place():
    supernet = Supernet(SPACE, num_cells=5, channels=2, num_classes=3)
    names = supernet.state_dict().keys()
    supernet.restrict(a_path(0))
    supernet.damp(dropped_skips(SPACE, 0.5, generator(0)))
    assert supernet.state_dict().keys() == names
    before = supernet.allowed()
    supernet.restrict(a_path(1))
    assert before is not None and all(torch.equal(before[kind], table) for kind, table in a_path(1).items())


def test_a_genotype_is_made_of_what_is_allowed_whatever_the_alphas_say():
    alphas = {kind: torch.randn(5, 3, generator=generator(3)) * 30 for kind in SPACE.kinds}
    for seed in range(5):
        path = a_path(seed)
        found = discretise(alphas, SPACE, allowed=path)
        assert bits(path_of(found, SPACE)) == bits(path)
        assert found.same_cells(genotype_of(path, SPACE, "x")) and found.same_cells(discretise(alphas_of(path), SPACE))


def test_identities_are_dropped_from_the_weakest_on_until_few_enough_are_left():
    for seed in range(10):
        alphas = {kind: torch.randn(5, 3, generator=generator(seed)) for kind in SPACE.kinds}
        for table in alphas.values():
            table[:, SKIP] += 1.5
        free = discretise(alphas, SPACE)
        for most in range(5):
            found = discretise(alphas, SPACE, most_skips=most)
            assert all(found.skips(kind) <= most for kind in SPACE.kinds)
            for kind in SPACE.kinds:
                if free.skips(kind) <= most:
                    assert found.cells[kind] == free.cells[kind]
                else:
                    assert found.skips(kind) == most or not most, "more was struck out than had to be"
    strong = torch.full((5, 3), -5.0)
    strong[:, SKIP] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    strong[0, 2] = -1.0
    found = discretise(dict.fromkeys(SPACE.kinds, strong), SPACE, most_skips=2)
    # Node 3 has the two strongest identities, on the edges from 1 and 2; node 2 takes what comes next on its edges.
    assert [edge.operation == "skip_connect" for node in found.cells["robust"] for edge in node] == [False, False, True, True]
    assert found.cells["robust"][0][0].operation == "sep_conv_3x3"


def test_a_dropped_identity_keeps_its_mean_and_is_dropped_in_training_only(monkeypatch):
    drawn_from, total = generator(0), torch.zeros(())
    for _ in range(400):
        factors = dropped_skips(SPACE, 0.6, drawn_from)["accurate"]
        assert (factors[:, [0, 2]] == 1).all() and set(factors[:, SKIP].unique().tolist()) <= {0.0, 2.5}
        total = total + factors[:, SKIP].mean() / 400
    assert total.item() == pytest.approx(1, abs=0.15)
    supernet = Supernet(SPACE, num_cells=5, channels=2, num_classes=3)
    images = torch.rand(4, 3, 4, 4)
    plain = supernet.eval()(images)
    supernet.damp({kind: table.float() * 3 for kind, table in everything(SPACE).items()})
    assert torch.equal(supernet.eval()(images), plain)
    torch.testing.assert_close(supernet.folded()(images), plain)
    trained = supernet.train()(images)
    supernet.damp(None)
    assert not torch.equal(supernet(images), trained)


# -------------------------------------------------------------------------------------------------------------- P-DARTS


def test_identities_are_dropped_less_and_less_over_a_stage(monkeypatch):
    seen: list[float] = []
    drop = lambda space, probability, noise_from: (seen.append(probability), dropped_skips(space, probability, noise_from))[1]  # noqa: E731
    searcher = search(replace(SMALL, stages=(DARTS, replace(DARTS, epochs=4, skip_dropout=0.8))))
    monkeypatch.setattr(searcher_module, "dropped_skips", drop)
    for searcher.epoch in range(5):
        searcher._draw()
    assert seen == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_the_candidates_of_a_stage_are_the_best_of_the_one_before():
    alphas = {kind: torch.randn(5, 3, generator=generator(1)) for kind in SPACE.kinds}
    left = everything(SPACE)
    left["robust"][:, 0] = False
    found = strongest(alphas, left, 2)
    for kind, table in found.items():
        expected = alphas[kind].masked_fill(~left[kind], -99).argmin(-1)
        assert (table.sum(-1) == 2).all() and not table.gather(1, expected[:, None]).any()
    assert all((table.sum(-1) == 1).all() for table in strongest(alphas, found, 1).values())
    equal = strongest({kind: torch.zeros(5, 3) for kind in SPACE.kinds}, everything(SPACE), 1)["robust"]
    assert equal[:, 0].all() and not equal[:, 1:].any()


def test_p_darts_deepens_anew_and_keeps_its_candidates(outcomes):
    config, searcher, folder = outcomes("p-darts")
    history = read_history(folder)
    alphas = [each["robust"] for each in searcher.alphas_by_epoch]
    dropped = [(each == DROPPED).sum(-1).tolist() for each in alphas]
    assert dropped == [[0] * 5, [0] * 5, [1] * 5, [1] * 5]
    assert torch.equal(alphas[1].argmin(-1), alphas[2].argmin(-1)) and torch.equal(alphas[2] == DROPPED, alphas[3] == DROPPED)
    assert len(searcher.supernet.cells) == 6 and not isinstance(config.stages[0].num_cells, int)
    # Cosine over the two epochs at five cells, then anew over that at six.
    assert [row["weights_lr"] for row in history.epochs] == pytest.approx([0.025, 0.0125, 0.025])
    assert all(max(row[f"skips/{kind}"] for kind in SPACE.kinds) <= 1 for row in history.epochs)
    states = Checkpoints(folder).load()[0]["job"]
    assert states["stage"] == 3 and [len(each["state"]) > 0 for each in (states["weights_optimizer"], states["alphas_optimizer"])]


def test_a_search_of_one_depth_keeps_its_supernet_from_stage_to_stage(monkeypatch):
    searcher = search(CONFIGS["p-darts"])
    monkeypatch.setattr(searcher, "step", Noting())
    seen = []
    for _ in range(3):
        list(searcher.run_epoch())
        seen.append(searcher.supernet)
    assert seen[0] is seen[1] and seen[1] is not seen[2]
    assert not torch.equal(seen[1].stem[0].weight, seen[2].stem[0].weight)


# ------------------------------------------------------------------------------------------------------------- sampling


def test_random_paths_are_paths_and_all_equally_likely():
    space, drawn_from, counts = SearchSpace(operations=SPACE.operations[:2], num_nodes=2), generator(0), Counter[Any]()
    for _ in range(800):
        path = RandomPaths().draw(space, everything(space), None, drawn_from)
        counts.update(tuple(table.flatten().tolist()) for table in path.values())
        assert all((table.sum(-1) <= 1).all() and table[:2].sum() == table[2:].sum() == 2 for table in path.values())
    assert len(counts) == 3 * 2**4
    expected = 3 * 800 / len(counts)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 100, "one in 100,000 for 47 degrees of freedom"


def test_paths_are_drawn_of_what_is_allowed():
    allowed = strongest({kind: torch.randn(5, 3, generator=generator(5)) for kind in SPACE.kinds}, everything(SPACE), 1)
    for level in (RandomPaths(), AntiBandit()):
        for seed in range(5):
            path = level.draw(SPACE, allowed, None, generator(seed))
            assert not any((table & ~allowed[kind]).any() for kind, table in path.items())


def feed(level: AntiBandit, reward: Any, steps: int, allowed: Allowed | None = None) -> Iterator[Tensor]:
    """What a bandit remembers after each step."""
    allowed = everything(SPACE) if allowed is None else allowed
    memory, drawn_from = level.start(SPACE, allowed), generator("bandit")
    for _ in range(steps):
        path = level.draw(SPACE, allowed, memory, drawn_from)
        memory = level.learn(SPACE, allowed, memory, path, reward(path), steps)
        yield memory


def test_a_bandit_abandons_the_planted_worst_operation_first_and_ends_with_the_best():
    def reward(path: Allowed) -> float:
        """Each edge with the identity costs, and each with the convolution pays."""
        table = torch.cat(list(path.values()))
        return 0.5 + 0.5 * (table[:, 2].sum() - table[:, SKIP].sum()).item() / len(table)

    memories = list(feed(AntiBandit(), reward, 600))
    left = torch.stack([memory[:, LEFT].sum(-1) for memory in memories])
    assert (left[298] == 3).all() and (left[299] == 2).all() and (left[-2] == 2).all() and (left[-1] == 1).all()
    gone = (memories[300][:, LEFT] == 0).double().mean(dim=(0, 1))
    assert gone[SKIP] >= 0.8 and gone[2] == 0, "the planted worst is not what goes"
    assert (memories[-1][:, LEFT, :, 2] == 1).double().mean() >= 0.8
    alphas = AntiBandit().alphas(SPACE, memories[-1])
    weights = torch.stack([alphas[kind] for kind in SPACE.kinds])
    assert ((weights == DROPPED) == (memories[-1][:, LEFT] == 0)).all()
    # Of each node the two edges with the largest m.
    kept = path_of(discretise(alphas, SPACE), SPACE)["robust"].any(-1)[2:]
    best = memories[-1][SPACE.kinds.index("robust"), PERFORMANCE].masked_fill(weights[1] == DROPPED, -1).amax(-1)[2:]
    assert best[kept].min() >= best[~kept].max()


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_a_bandit_ends_with_one_operation_on_each_edge_however_few_the_steps(steps):
    allowed = everything(SPACE)
    allowed["robust"][:3, 0] = False
    *_, memory = feed(AntiBandit(), lambda path: 0.5, steps, allowed)
    assert (memory[:, LEFT].sum(-1) == 1).all() and (memory[:, TRIES].sum(-1) == steps).all()


def test_a_bandit_tries_all_then_prefers_the_lower_bound_and_smooths_what_it_is_told():
    level = AntiBandit(smoothing=0.25)
    memories = list(feed(level, lambda path: 1.0, 3))
    allowed = everything(SPACE)
    assert (list(feed(level, lambda path: 1.0, 300))[2][:, TRIES] == 1).all(), "each operation once, before any twice"
    assert (memories[0][:, PERFORMANCE].amax(-1) == 1).all(), "the first reward is taken whole"
    memory = torch.zeros(3, 3, 5, 3, dtype=torch.float64)
    memory[:, LEFT], memory[:, TRIES], memory[:, PERFORMANCE] = 1, torch.tensor([100.0, 100.0, 4.0]), 0.5
    learnt = level.learn(
        SPACE, allowed, memory, {k: t.clone().fill_(False) | torch.eye(3).bool()[0] for k, t in allowed.items()}, 1, 999
    )
    assert learnt[0, PERFORMANCE, 0].tolist() == [0.625, 0.5, 0.5] and learnt[0, TRIES, 0].tolist() == [101, 100, 4]
    drawn_from = generator(1)
    drawn = torch.stack([level.draw(SPACE, allowed, memory, drawn_from)["robust"] for _ in range(100)]).double().mean((0, 1))
    expected = torch.softmax(torch.tensor([(2 * torch.tensor(204.0).log() / n).sqrt() for n in (100, 100, 4)]), 0)
    assert drawn.tolist() == pytest.approx(expected.tolist(), abs=0.08)


class Spied(PGD):
    """Notes which images are attacked, and whether the model was in evaluation mode."""

    seen: ClassVar[list[Any]] = []

    def __call__(self, model: Any, images: Tensor, labels: Tensor, *rest: Any, **more: Any) -> Tensor:
        self.seen.append((numbers(images), model.training))
        return super().__call__(model, images, labels, *rest, **more)


@pytest.mark.parametrize("level", [RandomPaths(), AntiBandit()], ids=["random paths", "bandit"])
def test_a_step_trains_its_path_and_rewards_it_on_the_alphas_batch_alone(level, monkeypatch):
    monkeypatch.setattr(Spied, "seen", [])
    stage, attack = replace(RANDOM, upper_level=level), Spied(eps=0.0, step_size=0.0, steps=1)
    searcher = search(replace(SMALL, stages=(stage,), attack=attack))
    weights_batch, alphas_batch = (
        (half.images[:6].float() / 255, half.labels[:6]) for half in (searcher.weights_half, searcher.alphas_half)
    )
    searcher._draw()
    unread = searcher.step_weights(*weights_batch)
    frozen = bits([[*searcher.supernet.weights()], [*searcher.supernet.buffers()]])
    metrics = searcher.step_architecture(*alphas_batch, weights_batch, unread)
    assert bits([[*searcher.supernet.weights()], [*searcher.supernet.buffers()]]) == frozen, "the alphas' half moved them"
    rewarded = isinstance(level, AntiBandit)
    assert ("validation/adversarial_accuracy" in metrics) == rewarded and "train/adversarial_loss" in metrics
    halves = [
        set(images) <= set(numbers(half.images))
        for images, _ in Spied.seen
        for half in (searcher.weights_half, searcher.alphas_half)
    ]
    assert halves == [True, False] + [False, True] * rewarded
    if rewarded:
        logits = searcher.supernet.eval()(alphas_batch[0])
        assert metrics["validation/adversarial_accuracy"] == pytest.approx(
            (logits.argmax(1) == alphas_batch[1]).float().mean().item()
        )
        assert (searcher.memories[1][:, TRIES].sum(-1) == 1).all() and searcher.supernet.alphas["robust"].max() <= 1
    else:
        assert searcher.memories == {}


def test_only_operations_on_the_path_get_a_gradient():
    searcher = search(replace(SMALL, space=SPACE, stages=(RANDOM,)))
    searcher._draw()
    before = {name: tensor.clone() for name, tensor in plain_state(searcher.supernet, searcher.supernet.state_dict()).items()}
    for group in searcher.weights_optimizer.param_groups:
        group["weight_decay"] = 0.0
    searcher.step_weights(searcher.weights_half.images[:6].float() / 255, searcher.weights_half.labels[:6])
    after = plain_state(searcher.supernet, searcher.supernet.state_dict())
    for name, tensor in before.items():
        if "candidates.2" in name and name.endswith("weight"):
            cell, edge = int(name.split(".")[1]), int(name.split(".")[3])
            on_path = bool(searcher.path[searcher.supernet.slots[cell].kind][edge, 2])
            assert on_path or torch.equal(after[name], tensor), name
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert any("candidates.2" in name and name.endswith("weight") for name in changed)


# -------------------------------------------------------------------------------------------------------------- ranking


@pytest.fixture
def scored() -> tuple[Searcher, PathScores]:
    """A search whose statistics have moved."""
    searcher = search(replace(CONFIGS["robnet"], space=SPACE))
    list(islice(searcher.run_epoch(), 2))
    return searcher, searcher._path_scores()


def test_measuring_a_path_recalibrates_on_the_weights_half_and_puts_all_back(scored, monkeypatch):
    searcher, scores = scored
    monkeypatch.setattr(Spied, "seen", [])
    monkeypatch.setattr(searcher.passes, "attack", Spied(eps=0.0, step_size=0.0, steps=1))
    recalibrated: list[Any] = []
    logits = searcher.passes.training_logits
    monkeypatch.setattr(
        searcher.passes, "training_logits", lambda images: (recalibrated.append(numbers(images)), logits(images))[1]
    )
    searcher.supernet.damp({kind: table * 3.0 for kind, table in everything(SPACE).items()})  # for steps, not for this
    before = bits([searcher.supernet.state_dict(), [*searcher.supernet.buffers()]])
    path, measured, measuring = a_path(), None, scores.measuring(a_path())
    try:
        while True:
            assert next(measuring) == {}
            assert bits([searcher.supernet.state_dict(), [*searcher.supernet.buffers()]]) == before, "between two batches"
    except StopIteration as stop:
        measured = stop.value
    assert len(recalibrated) == 3 and {n for each in recalibrated for n in each} <= set(numbers(searcher.weights_half.images))
    assert {n for images, _ in Spied.seen for n in images} == set(numbers(searcher.validation.images))
    assert not any(training for _, training in Spied.seen), "crafted in training mode"
    assert {norm.momentum for norm in scores.norms} == {0.1}
    # The same by hand: the path's own network with the means of the batches' statistics.
    network = network_of(searcher.supernet, genotype_of(path, SPACE, "x")).train()
    batches = [
        searcher.weights_half.images[[numbers(searcher.weights_half.images).index(n) for n in each]] for each in recalibrated
    ]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # torch's word for the mean of all
    for images in batches:
        network(images.float() / 255)
    shown = network.eval()(searcher.validation.images.float() / 255)
    assert measured is not None
    assert measured["natural_loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(shown, searcher.validation.labels).item(), rel=1e-4
    )


def test_the_flow_of_solution_is_a_mean_of_outer_products_and_its_distance_0_without_an_attack(scored, monkeypatch):
    inputs, outputs = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    found = flow_of_solution(inputs, outputs)
    assert found.shape == (2, 3, 6)
    assert found[1, 2, 4].item() == pytest.approx((inputs[1, 2] * outputs[1, 4]).mean().item(), rel=1e-5)
    searcher, scores = scored
    before = bits([*searcher.supernet.buffers()])
    assert scores.flow_distance(a_path()) > 0 and scores.flow_distance(a_path()) == scores.flow_distance(a_path())
    assert bits([*searcher.supernet.buffers()]) == before
    monkeypatch.setattr(searcher.passes, "attack", PGD(eps=0.0, step_size=0.0, steps=1))
    assert scores.flow_distance(a_path()) == 0


def test_those_of_the_largest_distance_are_thrown_out_and_the_best_of_the_rest_is_taken():
    rows: list[dict[str, Any]] = [{"fsp_distance": value, "filtered": False} for value in (1.0, 5.0, 2.0, 4.0, 3.0)]
    throw_out(rows, 0.5)
    assert [row["filtered"] for row in rows] == [False, True, False, True, False]
    for row, score in zip(rows, (0.5, 0.9, 0.6, 0.9, 0.6), strict=True):
        if not row["filtered"]:
            row |= {"adversarial_accuracy": score, "natural_accuracy": 0.7}
    assert best_of(rows) == 2, "of equal ones the first"
    rows[4]["natural_accuracy"] = 0.8
    assert best_of(rows) == 4


@pytest.mark.parametrize(("rule", "count"), [(Ranking(), 6), (Ranking(samples=7), 7)])
def test_by_default_as_many_paths_are_measured_as_a_gradient_search_could_attack(rule, count):
    assert rule.num_samples(attacked=3 * 2 * 6, images=6) == count
    assert Ranking().num_samples(attacked=10, images=100) == 2


def test_the_ranked_best_is_written_chosen_and_said(outcomes):
    config, searcher, folder = outcomes("robnet")
    rows, found = read_jsonl(folder / "ranking.jsonl"), Genotype.load(folder / "genotype.json")
    assert [row["filtered"] for row in rows].count(True) == 2 and len(rows) == 4
    assert all(("adversarial_accuracy" in row) != row["filtered"] and row["fsp_distance"] >= 0 for row in rows)
    farthest = sorted(row["fsp_distance"] for row in rows)[2:]
    assert {row["fsp_distance"] for row in rows if row["filtered"]} == set(farthest)
    (best,) = (row for row in rows if row["chosen"])
    assert best["adversarial_accuracy"] == max(row.get("adversarial_accuracy", -1) for row in rows) == searcher.scores[-1]
    assert (
        found.same_cells(Genotype.from_dict(best["genotype"]))
        and found.source == "search on toy, best of 4 ranked paths, epoch 2 of 2"
    )
    assert searcher.chosen_epoch == config.epochs and "best" in config.selection.told(searcher.scores)
    last = read_history(folder).epochs[-1]
    assert Genotype.from_dict(last["genotype"]).same_cells(found) and last["validation/adversarial_accuracy"] == searcher.scores[-1]
    # What figures and the panel make of the alphas is the same architecture.
    assert discretise(searcher.alphas_by_epoch[-1], CHEAP).same_cells(found)


def test_measuring_many_paths_records_nothing_again():
    graphs = Rehearsal()
    config = replace(CONFIGS["random"], validation_images=8, selection=Ranking(samples=4, recalibration=1))
    searcher = search(config, graphs=graphs)
    list(searcher.run_epoch())
    assert graphs.noted.count("record") <= 3, "crafting at two sizes, and the weights' gradients"
    assert graphs.noted.count("replay") >= 7 and searcher.passes.num_graphs == 0


def test_no_pass_of_a_path_waits_for_the_device_or_brings_anything_there(monkeypatch):
    monkeypatch.setattr(searcher_module, "to_cpu", lambda state: state)
    config = replace(SMALL, stages=(replace(BANDIT, skip_dropout=0.5),))
    searcher, labels = search(config, device=META), torch.zeros(6, dtype=torch.int64, device=META)
    images = torch.zeros(6, 3, 4, 4, device=META)
    searcher._draw()
    with NothingWaits():
        attacked = searcher.passes.craft(images, labels, images)
        searcher.passes.weights_gradients(attacked, labels)
        searcher.passes.alphas_gradient(attacked, labels)
        loss, right = searcher.passes.judge(attacked, labels)
    assert loss.shape == right.shape == ()


# --------------------------------------------------------------------------------------------------- stopped and resumed


def run(searcher: Searcher, folder: Path) -> Searcher:
    for _ in run_epochs(searcher, folder):
        pass
    return searcher


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> Any:
    """Each search of the table, run once without a stop."""
    done: dict[str, tuple[SearchConfig, Searcher, Path]] = {}

    def of(name: str) -> tuple[SearchConfig, Searcher, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = CONFIGS[name], run(search(CONFIGS[name]), folder), folder
        return done[name]

    return of


# Events are steps (two an epoch), batches measured, epochs and commits.
@pytest.mark.parametrize(("name", "stop"), [("abanditnas", 5), ("robnet", 8)])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(name, stop, outcomes, tmp_path):
    config, _, folder = outcomes(name)
    list(islice(run_epochs(search(config), tmp_path), stop))
    torch.manual_seed(1)  # what else happens in the process must not matter
    run(search(config, graphs=Rehearsal()), tmp_path)  # as recorded as on a GPU
    assert search_outcome(tmp_path) == search_outcome(folder)


def test_stopped_where_the_depth_has_changed_equals_uninterrupted_to_the_bit(outcomes, tmp_path):
    """Also where the loop is begun again with the same search, while the one before was left standing, as in a notebook."""
    config, _, folder = outcomes("p-darts")
    searcher = search(config)
    left_standing = run_epochs(searcher, tmp_path)
    list(islice(left_standing, 9))
    assert len(searcher.supernet.cells) == 6, "at the first step of the deeper stage; committed is the end of the one before"
    list(islice(run_epochs(searcher, tmp_path), 1))
    assert len(searcher.supernet.cells) == 5
    list(islice(run_epochs(searcher, tmp_path), 3))
    left_standing.close()
    assert len(searcher.supernet.cells) == 6, "its first step was kept"
    run(search(config, graphs=Rehearsal()), tmp_path)
    assert search_outcome(tmp_path) == search_outcome(folder)


def test_a_ranking_goes_on_where_it_was_committed(outcomes, tmp_path, monkeypatch):
    config, _, folder = outcomes("random")
    monkeypatch.setattr(ranking_module, "COMMIT_EVERY", 2)
    list(islice(run_epochs(search(config), tmp_path), 2 + 1 + 2 + 1))  # steps, a commit, two paths, and the commit after them
    state = Checkpoints(tmp_path).load()[0]
    assert state is not None and state["job"]["epoch"] == 0
    assert sum("adversarial_accuracy" in row for row in state["job"]["ranked"]) == 2
    searcher = search(config)
    with monkeypatch.context() as patch:
        patch.setattr(searcher, "step", lambda *batches: pytest.fail("a step was taken again"))
        events = list(run_epochs(searcher, tmp_path))
    assert sum(event.kind == "measuring" for event in events) == 1
    assert search_outcome(tmp_path) == search_outcome(folder)


@pytest.mark.parametrize("name", ["p-darts", "robnet"])
def test_figures_can_be_drawn(name, outcomes):
    _, searcher, folder = outcomes(name)
    alphas, history = load_arrays(folder / "alphas.npz", "operations", "edges"), read_history(folder)
    for kind in SPACE.kinds:
        assert torch.isfinite(torch.as_tensor(alphas[kind])).all()
    plots.alpha_heatmaps(alphas)
    for epoch, genotype in enumerate(searcher.genotypes, 1):
        framed = {kind: len(edges) for kind, edges in plots.kept_edges(alphas, epoch).items()}
        assert framed == dict.fromkeys(SPACE.kinds, 4)
        skips = {kind: sum(at == SKIP for _, at in edges) for kind, edges in plots.kept_edges(alphas, epoch).items()}
        assert skips == {kind: genotype.skips(kind) for kind in SPACE.kinds}
    plots.alpha_lines(alphas, history.epochs)
    plots.search_losses(history.steps, history.epochs)
    plots.validation(history.epochs, searcher.chosen_epoch)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(DARTS, candidates=0), "at least one candidate"),
        (lambda: replace(DARTS, skip_dropout=1.0), "skip_dropout"),
        (lambda: replace(SMALL, stages=(replace(DARTS, candidates=2),)), "no alphas have ranked"),
        (lambda: replace(SMALL, stages=(DARTS, replace(DARTS, num_cells=4))), "at least 5 cells"),
        (lambda: replace(SMALL, most_skips=1, space=SearchSpace(operations=("skip_connect",))), "an operation beside"),
        (lambda: Ranking(samples=0), "at least one sample"),
        (lambda: Ranking(fsp_share=1.0), "fsp_share"),
        (lambda: AntiBandit(smoothing=0.0), "smoothing"),
    ],
)
def test_useless_settings_are_refused(make, said):
    with pytest.raises(WorkbookError, match=said):
        make()


def test_selection_tells_what_it_rests_on():
    told = Selection(window=1, tolerance=0.01).told([0.3, 0.5, 0.49, 0.48])
    assert "epoch 3" in told and "50.0%" in told
