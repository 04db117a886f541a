"""What all tests share: shapes are checked, one thread, repeatable numbers, and things small enough to try everything on."""

from __future__ import annotations

import sys

import hypothesis
import jaxtyping
import pytest
import torch

assert "dsara_lib" not in sys.modules, "the shapes of what is imported before this would go unchecked"
jaxtyping.install_import_hook("dsara_lib", "shape_checking.check_shapes")

from dsara_lib.architecture import Genotype, Network, SearchSpace, zoo  # noqa: E402

# Two threads on a loaded two-core machine make a forward pass up to sixty times slower, and sums depend on their number.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def without_shape_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users call the library, for what the shape check would be first to complain about."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def genotype() -> Genotype:
    """DSARA's own: it has a cell of each kind."""
    return zoo.load("DSARA").genotype


@pytest.fixture
def network(genotype: Genotype) -> Network:
    """A network of five cells and four classes, freshly drawn, in training mode."""
    return Network(genotype, SearchSpace(), num_cells=5, channels=2, num_classes=4)


@pytest.fixture
def images() -> torch.Tensor:
    """Six images of 8x8 with pixels in [0, 1]; the first is black and the second white."""
    drawn = torch.rand(6, 3, 8, 8)
    drawn[0], drawn[1] = 0, 1
    return drawn


@pytest.fixture
def labels() -> torch.Tensor:
    """A class for each image."""
    return torch.tensor([0, 1, 2, 3, 0, 1])
