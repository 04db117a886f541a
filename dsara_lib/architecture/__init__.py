"""The search space, its cells, the two networks made of them, and what they cost (Section 4.2)."""

from .cost import Cost, cost, edge_costs
from .genotype import Edge, Genotype, discretise
from .networks import Blueprint, Network, Supernet
from .operations import OPERATIONS, make_operation
from .prepared import Prepared, prepare
from .space import KINDS, SearchSpace, Slot

__all__ = [
    "KINDS",
    "OPERATIONS",
    "Blueprint",
    "Cost",
    "Edge",
    "Genotype",
    "Network",
    "Prepared",
    "SearchSpace",
    "Slot",
    "Supernet",
    "cost",
    "discretise",
    "edge_costs",
    "make_operation",
    "prepare",
]
