"""The architecture explorer of notebook 01: cells, placement and size, and what a network made of them costs.

Networks of the zoo that are not made of one genotype's cells are shown beside them: their stack, their cells where they have some,
and their cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from ..architecture import Blueprint, Cost, DesignBlueprint, Genotype, SearchSpace, Slot, blueprint_cost, cost, zoo
from ..drawing import cell_graphs, draw_cell, network_svg
from ..errors import WorkbookError
from ..experiment import FOUND, Experiment
from ..paper import table1
from ..report.sections import amount
from .choices import Choice, Shown, View, explore
from .pictures import drawing, notes, row, table
from .views import cell_graph

if TYPE_CHECKING:
    from .explorer import Explorer

PLACEMENTS = tuple("-".join(letters) for letters in product("AR", repeat=3))
FILTERS = ((1, 2, 2), (1, 2, 4), (1, 1, 1), (1, 1, 2), (2, 2, 1))
MOST_CELLS, MOST_CHANNELS = 30, 64
PRINTED_FOR = (32, 3, 10)  # Table 1: pixels, channels and classes
COLORS = {"accurate": "--blue", "robust": "--vermillion", "reduction": "--green"}
LETTERS = {"accurate": "A", "robust": "R", "reduction": "↓"}
Images = tuple[int, int, int]  # pixels to a side, channels, classes


def explore_architectures(experiment: Experiment, *, interactive: bool = True) -> Shown | Explorer:
    """Choose cells, placement, filters and size, or another network of the zoo; see the graphs, the stack and the cost."""
    genotypes, sizes = architectures(experiment)
    others = designs()
    channels = {name: {"channels": each.channels} for name, each in others.items()}
    first = sizes[next(iter(genotypes))]
    ours: Images = (experiment.data.image_size, experiment.data.channels, experiment.data.num_classes)
    filters = dict.fromkeys((*FILTERS, *(size["filters"] for size in sizes.values())))
    choices = {
        "name": Choice(name="architecture", options={name: name for name in (*genotypes, *others)}, first=next(iter(genotypes))),
        "placement": Choice(name="placement", options={each: each for each in PLACEMENTS}, first=first["placement"]),
        "filters": Choice(name="filters", options={_dashed(each): each for each in filters}, first=first["filters"]),
        "num_cells": Choice(name="cells", options=_range(MOST_CELLS, sizes, "num_cells"), first=first["num_cells"]),
        "channels": Choice(name="channels C", options=_range(MOST_CHANNELS, sizes | channels, "channels"), first=first["channels"]),
        "images": Choice(name="images", options={_said(each): each for each in (PRINTED_FOR, ours)}, first=PRINTED_FOR),
    }

    def draw(name: str, **size: Any) -> View:
        if name in others:
            return designed(others[name], channels=size["channels"], images=size["images"])
        return architecture(genotypes[name], sizes[name], **size)

    own = sizes | channels
    buttons = {"As published or trained": lambda explorer: explorer.choose(**own[explorer.chosen["name"]])}
    return explore(choices, draw, buttons=buttons, interactive=interactive)


def architectures(experiment: Experiment) -> tuple[dict[str, Genotype], dict[str, dict[str, Any]]]:
    """What this run has found, if it has, and the published genotypes; of each its own placement, filters and size."""
    preset, entries = experiment.preset, {name: zoo.load(name) for name in zoo.genotypes()}
    genotypes: dict[str, Genotype] = {}
    sizes: dict[str, dict[str, Any]] = {}
    if (experiment.search_folder / "genotype.json").is_file():
        genotypes[FOUND] = experiment.genotype()
        sizes[FOUND] = _size(preset.search.space, preset.num_cells, preset.channels)
    for name in sorted(entries, key=lambda name: name != "DSARA"):
        genotypes[name] = entries[name].genotype
        sizes[name] = _size(entries[name].space, entries[name].num_cells, entries[name].channels)
    return genotypes, sizes


def designs() -> dict[str, DesignBlueprint]:
    """The networks of the zoo that are not made of one genotype's cells, at their published size."""
    published = {name: zoo.load(name).published for name in zoo.names()}
    return {name: each for name, each in published.items() if isinstance(each, DesignBlueprint)}


def designed(published: DesignBlueprint, *, channels: int, images: Images) -> View:
    """Cost, stack and cells of such a network. Placement, filters and number of cells are its own."""
    size, in_channels, num_classes = images
    blueprint = published.with_options(channels=channels, in_channels=in_channels, num_classes=num_classes)
    chosen = f"{blueprint.name}, C = {channels}, {_said(images)}"
    as_printed = images == PRINTED_FOR and channels == published.channels
    head, lines, words = _counted(chosen, _designed_cost(blueprint, size), blueprint.name if as_printed else "")
    note = zoo.load(published.name).note
    html = (
        table(chosen, head, lines)
        + row([("the network, from the image to the classes", _designed_stack(blueprint, size))], "wide")
        + row(_cells(published), "cell")
        + notes([note] if note else [])
    )
    return View(html, words, idle=("placement", "filters", "num_cells"))


@lru_cache(maxsize=32)
def _cells(blueprint: DesignBlueprint) -> list[tuple[str, str]]:
    """A network of blocks has none."""
    try:
        names = list(cell_graphs(blueprint))
    except WorkbookError:
        return []
    return [(name, _inline(draw_cell(blueprint, name).decode())) for name in names]


@lru_cache(maxsize=64)
def _designed_stack(blueprint: DesignBlueprint, image_size: int) -> str:
    return _inline(network_svg(blueprint, image_size))


@lru_cache(maxsize=64)
def _designed_cost(blueprint: DesignBlueprint, image_size: int) -> Cost:
    return blueprint_cost(blueprint, image_size)


def _inline(svg: str) -> str:
    """Without what stands before the picture in a file."""
    return svg[svg.index("<svg") :]


def _counted(chosen: str, counted: Cost, printed: str) -> tuple[tuple[str, ...], list[list[str]], str]:
    """Head and lines of the table of cost, beside the paper's where a name of its table is given, and the same in words."""
    numbers = [amount(each) for each in (counted.parameters, counted.multiply_adds, counted.table1_flops)]
    lines = [["counted here", *numbers]]
    lines += [["printed in Table 1", each["params"], "", each["flops"]] for each in _printed(printed)]
    words = f"{chosen}: {numbers[0]} parameters, {numbers[1]} multiply-adds, {numbers[2]} FLOPs as Table 1 counts"
    return ("", "parameters", "multiply-adds", "FLOPs as Table 1 counts"), lines, words


def architecture(
    genotype: Genotype,
    own: Mapping[str, Any],
    *,
    placement: str,
    filters: tuple[int, int, int],
    num_cells: int,
    channels: int,
    images: Images,
) -> View:
    """Cost, stack and cells. Raises WorkbookError where the genotype and the size do not go together."""
    size, in_channels, num_classes = images
    space = SearchSpace(placement=placement, filters=filters, num_nodes=genotype.num_nodes)
    blueprint = Blueprint(
        genotype=genotype, space=space, num_cells=num_cells, channels=channels, num_classes=num_classes, in_channels=in_channels
    )
    counted = _cost(blueprint, size)
    chosen = f"{genotype.name}, {placement} with filters {_dashed(filters)}, {num_cells} cells, C = {channels}, {_said(images)}"
    as_printed = images == PRINTED_FOR and _size(space, num_cells, channels) == own
    head, lines, words = _counted(chosen, counted, genotype.name if as_printed else "")
    unused = [kind for kind in genotype.cells if kind not in space.kinds]
    html = (
        table(chosen, head, lines)
        + row([("the stack, from the image to the classes", stack(space.slots(num_cells, channels), size))], "wide")
        + row([(f"{kind} cell", cell_graph(genotype, kind)) for kind in space.kinds], "cell")
        + notes(f"its {kind} cell stands nowhere in {placement}" for kind in unused)
    )
    return View(html, words)


WIDTH, HEIGHT, WORDS = 720, 70, 36


def stack(slots: Sequence[Slot], image_size: int) -> str:
    """Each cell as a box, as high as its output is large and as wide as it has channels; in words below."""
    widest = max(slot.channels for slot in slots)
    shares = [0.45 + 0.55 * slot.channels / widest for slot in slots]
    unit, parts, x = WIDTH / sum(shares), [], 0.0
    places = iter(shares)
    for (kind, divisor, channels), group in groupby(slots, key=lambda slot: (slot.kind, slot.resolution_divisor, slot.channels)):
        start, count, high = x, len(list(group)), HEIGHT / divisor
        for _ in range(count):
            width = unit * next(places)
            box = f'x="{x + 1.5:.1f}" y="{(HEIGHT - high) / 2:.1f}" width="{width - 3:.1f}" height="{high:.1f}" rx="2"'
            style = f'style="fill:var({COLORS[kind]});stroke:var({COLORS[kind]})" fill-opacity=".3"'
            parts.append(f"<rect {box} {style}/>")
            parts.append(f'<text x="{x + width / 2:.1f}" y="{HEIGHT / 2 + 3}" text-anchor="middle">{LETTERS[kind]}</text>')
            x += width
        pixels = -(-image_size // divisor)
        words = (f"{count}× {kind}" if count > 1 else kind, f"{channels} channels", f"{pixels}×{pixels}")
        for line, each in enumerate(words, 1):
            parts.append(f'<text x="{(start + x) / 2:.1f}" y="{HEIGHT + 11 * line}" text-anchor="middle">{each}</text>')
    return drawing(WIDTH, HEIGHT + WORDS, f"a stack of {len(slots)} cells", parts)


@lru_cache(maxsize=64)
def _cost(blueprint: Blueprint, image_size: int) -> Cost:
    return cost(blueprint.build(), image_size, blueprint.in_channels)


def _size(space: SearchSpace, num_cells: int, channels: int) -> dict[str, Any]:
    return {"placement": space.placement, "filters": space.filters, "num_cells": num_cells, "channels": channels}


def _printed(name: str) -> list[dict[str, Any]]:
    return [each for each in table1() if zoo.full_name(each["model"]) == name]


def _range(most: int, sizes: Mapping[str, Mapping[str, Any]], key: str) -> range:
    return range(1, max(most, *(size[key] for size in sizes.values())) + 1)


def _dashed(filters: Sequence[int]) -> str:
    return "-".join(map(str, filters))


def _said(images: Images) -> str:
    size, channels, classes = images
    return f"{size}×{size} pixels, {channels} channel{'s' if channels > 1 else ''}, {classes} classes"
