"""From the smallest to the largest pictures, from two classes to a thousand, grey or colour: every part takes them."""

from __future__ import annotations

import pytest
import torch
from toys import SPACE

from dsara_lib.architecture import Blueprint, Classifier, Supernet, blueprint_cost, zoo
from dsara_lib.attacks import PGD, Attack, AutoAttack
from dsara_lib.data import Split
from dsara_lib.evaluation import evaluate

CHANNELS = (
    4  # torch 2.15 spoils memory on some CPUs in a convolution by steps of two to fewer than four channels at 56 pixels or more
)


@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 2), (9, 3, 1000), (224, 1, 1000), (224, 3, 2)])
def test_supernet_and_network_take_pictures_of_every_size_and_number_of_channels_and_classes(
    size: int, channels: int, classes: int
):
    torch.manual_seed(0)
    supernet = Supernet(SPACE, num_cells=5, channels=CHANNELS, num_classes=classes, in_channels=channels)
    size_of_it = {"num_cells": 5, "channels": CHANNELS, "num_classes": classes, "in_channels": channels}
    network = Blueprint(genotype=supernet.genotype("x"), space=SPACE, **size_of_it).build()
    images = torch.rand(2, channels, size, size, requires_grad=True)
    for model in (supernet, network):
        logits = model(images)
        (slope,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), images)
        assert logits.shape == (2, classes) and slope.isfinite().all() and slope.any()


@pytest.mark.parametrize("name", ["DSARA", "ResNet-18", "WideResNet-34-12", "P-DARTS"])
def test_published_networks_take_the_smallest_and_the_largest_grey_pictures(name: str):
    blueprint = zoo.load(name).resized(2, 1, 5, 2)
    assert blueprint_cost(blueprint, 8).multiply_adds < blueprint_cost(blueprint, 224).multiply_adds
    assert blueprint.build().eval()(torch.rand(1, 1, 8, 8)).shape == (1, 2)


@pytest.mark.parametrize("classes", [2, 1000])
def test_every_attack_of_a_table_runs_on_two_classes_and_on_a_thousand(classes: int):
    torch.manual_seed(0)
    network: Classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    answers = network(images.float() / 255).argmax(dim=1)
    attacks: dict[str, Attack] = {
        "PGD2": PGD(eps=0.3, step_size=0.2, steps=2),
        "AutoAttack": AutoAttack(eps=0.3, steps=3, targets=9, queries=4),
    }
    names = tuple(map(str, range(classes)))
    found = evaluate(network, Split(images=images, labels=answers), attacks, name="n", data="d", classes=names)
    assert found.accuracy() == 1 and found.accuracy("AutoAttack") <= found.accuracy("APGD-CE") < 1
