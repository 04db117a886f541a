"""The search space, its cells, the two networks made of them, and what they cost (Section 4.2)."""

from .blueprints import AnyBlueprint, blueprint_cost, blueprint_from_dict, match_channels, require_at_most
from .cost import Cost, cost, edge_costs
from .designs import DESIGNS, DesignBlueprint, DesignNetwork
from .genotype import Edge, Genotype, discretise
from .networks import Blueprint, Classifier, Network, Supernet
from .operations import OPERATIONS, make_operation
from .prepared import Prepared, prepare
from .space import KINDS, SearchSpace, Slot

__all__ = [
    "DESIGNS",
    "KINDS",
    "OPERATIONS",
    "AnyBlueprint",
    "Blueprint",
    "Classifier",
    "Cost",
    "DesignBlueprint",
    "DesignNetwork",
    "Edge",
    "Genotype",
    "Network",
    "Prepared",
    "SearchSpace",
    "Slot",
    "Supernet",
    "blueprint_cost",
    "blueprint_from_dict",
    "cost",
    "discretise",
    "edge_costs",
    "make_operation",
    "match_channels",
    "prepare",
    "require_at_most",
]
