"""What operations, edges and kinds of cell are called in every picture, and their colours: one legend for all of them.

The colours are those of Okabe and Ito, which stay apart for colour-blind eyes; related operations have related hues,
and every picture also says in words what a colour says.
"""

from __future__ import annotations

from collections.abc import Iterable

BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, GREY, PALE = "#222222", "#8A8A8A", "#E4E4E4"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

OPERATION_COLORS = {
    "sep_conv_3x3": SKY,
    "sep_conv_5x5": BLUE,
    "dil_conv_3x3": ORANGE,
    "dil_conv_5x5": VERMILLION,
    "max_pool_3x3": GREEN,
    "avg_pool_3x3": PURPLE,
    "skip_connect": "#4D4D4D",
}
KIND_COLORS = {"accurate": BLUE, "robust": VERMILLION, "reduction": GREEN}
INPUTS = ("k-2", "k-1")
OUTPUT = "k"


def short(operation: str) -> str:
    """'sep_conv_3x3' as 'sep 3x3', 'skip_connect' as 'skip'; the name of an operation nobody foresaw, in words."""
    for word in ("_conv", "_pool", "_connect"):
        operation = operation.replace(word, "")
    return operation.replace("_", " ")


def operation_color(operation: str) -> str:
    """The operation's own colour; grey for one that is not in the table."""
    return OPERATION_COLORS.get(operation, GREY)


def darker(color: str, share: float = 0.3) -> str:
    """The colour mixed with black, for letters on white."""
    return mix(color, "#000000", share)


def paler(color: str, share: float = 0.75) -> str:
    """The colour mixed with white, for areas under letters."""
    return mix(color, "#FFFFFF", share)


def mix(color: str, other: str, share: float) -> str:
    """The two '#RRGGBB' colours, `share` of it from the second."""
    pairs = ((int(color[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(one * (1 - share) + two * share):02X}" for one, two in pairs)


def node_name(number: int) -> str:
    """Nodes 0 and 1 are the outputs of the two cells before, 'k-2' and 'k-1'; the others have their numbers."""
    return INPUTS[number] if number < len(INPUTS) else str(number)


def edge_name(source: int, node: int) -> str:
    """'k-2→2' for the edge from node 0 to node 2."""
    return f"{node_name(source)}→{node_name(node)}"


def edges_of(names: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Edges stored as '0->2' (or '0→2') as pairs of node numbers."""
    pairs = (str(name).replace("→", "->").split("->") for name in names)
    return tuple((int(source), int(node)) for source, node in pairs)
