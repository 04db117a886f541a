"""The parts of the report, in the order of the page: each takes the record of a run and returns markup, or says what is missing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from .. import drawing, paper, plots
from ..architecture import blueprint_cost, blueprint_from_dict
from ..data import eps_text
from ..evaluation import NATURAL, images_told, mean_and_spread, paired, wilson
from ..presets import PAPER
from ..runs import describe
from ..soundness import marked, remark
from .page import (
    Markup,
    amount,
    interval,
    join,
    missing,
    p_text,
    paragraph,
    percent,
    picture,
    plot,
    printed_transfer,
    saved_plot,
    section,
    table,
    tag,
    text_cell,
)
from .record import LAST, Record

FOUND, TWIN = "found", "found-natural"
PAGE = "comparison.html"  # of all runs, beside their folders
MAIN_ATTACK = "PGD20"
STEPS_OF = "PGD100"  # whose steps are drawn
CLOSE_UPS = {
    "worst_images": f"The images that fell furthest to {MAIN_ATTACK}",
    "loss_surface": "The loss around one test image, along the sign of its gradient and along random signs",
    "accuracy_by_class": "Accuracy by class, natural and under Square",
    "confusion": "What each class is taken for under Square",
}
NOT_EVALUATED = "not evaluated here"
UPPER_LEVELS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "SingleObjective": lambda level: f"the {level.get('objective')} loss alone",
    "SumOfLosses": lambda level: f"the sum of {losses_of(level)}",
    "MGDA": lambda level: f"MGDA on {losses_of(level)}",
    "AdvRush": lambda level: "the natural loss and its curvature (AdvRush)",
    "DSRNA": lambda level: "the natural loss and the norm of the Jacobian (after DSRNA)",
    "NADAR": lambda level: f"the adversarial loss while the natural loss is at most {level.get('bound')} (after NADAR)",
    "RACL": lambda level: f"the natural loss while the Lipschitz bound's logarithm is at most {level.get('bound')} (after RACL)",
    "RandomPaths": lambda level: "nothing while random paths are trained",
    "AntiBandit": lambda level: "the rewards of sampled operations, the worst of which are abandoned (after ABanditNAS)",
}

# -- headline ----------------------------------------------------------------------------------------------------------


def headline(record: Record) -> Markup:
    """What was searched and what came out, in sentences."""
    settings = record.settings
    read = how_read(settings)
    about = (
        f"Data {record.data}{read} · profile {settings.get('profile')} · seed {settings.get('seed')} · linf eps {eps_of(record)}"
    )
    created = str(record.card.get("created", ""))[:16].replace("T", " ")
    made = f"begun {created} UTC with dsara_lib {record.card.get('library', '')}"
    sentences = [*searched(record), *measured(record)]
    return join(
        paragraph(f"{about} · {made}", class_="soft"),
        tag("div", *(paragraph(each) for each in sentences), class_="headline"),
        tiles(record),
        *(paragraph(f"Could not be read: {each}", class_="warning") for each in record.troubles),
    )


def losses_of(level: Mapping[str, Any]) -> str:
    """The objectives of an upper level in words; settings of older runs do not name the usual two."""
    *most, last = level.get("objectives") or (NATURAL, "adversarial")
    return f"{', '.join(most)} and {last} loss" if most else f"{last} loss"


def how_read(settings: Mapping[str, Any]) -> str:
    """What was read of a data set's images, and what became of them."""
    size = settings.get("size")
    limit = f", {settings.get('limit')} images per class" if settings.get("limit") else ""
    brought = f", pictures brought to {size}x{size}" if size else ""
    return limit + brought + (", unreadable files left out" if settings.get("skip_unreadable") else "")


def searched(record: Record) -> Iterator[str]:
    """What was searched."""
    if record.source is not None:
        yield f"Nothing was searched here: the architecture is that {record.source.about}."
        return
    search = record.preset["search"]
    parts = []
    for stage in search["stages"]:
        level = stage["upper_level"]
        told = UPPER_LEVELS.get(level.get("type"), lambda level: str(level.get("type")))(level)
        parts.append(f"{plural(stage['epochs'], 'epoch')} in which the alphas follow {told}")
    learned = f" on {search['images']:,} of the training images" if search.get("images") else ""
    size = f"a supernet of {search['num_cells']} cells and {search['channels']} channels{learned}"
    wanted = sum(stage["epochs"] for stage in search["stages"])
    done = len(record.search.epochs)
    if not done:
        yield f"The search on {record.data} has not been run yet; planned is {size} with {', then '.join(parts)}."
        return
    yield f"An architecture was searched on {record.data} in {size}: {', then '.join(parts)}. Seed {record.settings['seed']}." + (
        f" So far {done} of the {wanted} epochs are done." if done < wanted else ""
    )
    if record.chosen_epoch:
        yield f"Of the {wanted} epochs' architectures that of epoch {record.chosen_epoch} was taken."


def measured(record: Record) -> Iterator[str]:
    """What the found network is worth, against chance and against its naturally trained twin."""
    natural, robust = record.row(FOUND, NATURAL), record.row(FOUND, MAIN_ATTACK)
    if natural is None or robust is None:
        yield "The found network has not been evaluated yet."
        return
    card = record.cards.get(FOUND, {})
    if card:
        training, size = card["training"], card["blueprint"]
        yield (
            f"Retrained as a network of {size['num_cells']} cells and {size['channels']} channels for "
            f"{plural(training['epochs'], 'epoch')} on adversarial images (eps {eps_text(training['attack']['eps'])}), "
            f"with the weights of epoch {card['epoch']}, the best on held-out images,"
            f" the found network is right on {told(natural)} of the {natural['images']:,} test images as they are, and on "
            f"{told(robust)} of them under {with_eps(robust)}. In brackets: Wilson intervals at 95 %."
        )
    strongest = record.row(FOUND, "AutoAttack")
    if strongest is not None:
        of = "" if strongest["images"] == natural["images"] else f" of the first {strongest['images']:,}"
        yield f"Under {with_eps(strongest)}, the strongest attack here, {told(strongest)}{of} are left."
    if words := remark(record.boards.get(FOUND, [])):
        yield f"Beside these numbers stands what the soundness board says: {words}."
    if record.classes:
        yield against_chance(robust, guessing(record))
    twin, twin_natural = record.row(TWIN, MAIN_ATTACK), record.row(TWIN, NATURAL)
    if twin is not None and twin_natural is not None:
        yield (
            f"The same architecture trained on natural images only is right on {told(twin_natural)} of them as they are and on "
            f"{told(twin)} under {with_eps(twin)}: {compared(record, robust, twin)}."
        )


def is_unbalanced(record: Record) -> bool:
    """Whether the classes of the evaluated images are."""
    return any(each.unbalanced for each in record.evaluations.values())


def guessing(record: Record) -> float:
    """The share of images that one answer to all is right on."""
    evaluation = record.evaluations.get(FOUND)
    return 1 / len(record.classes) if evaluation is None else evaluation.guessing


def against_chance(row: Mapping[str, Any], chance: float) -> str:
    """Where an interval lies from guessing."""
    guessing = f"Guessing would be right on {percent(chance)}"
    if row["low"] > chance:
        return f"{guessing}; the interval under {with_eps(row)} lies above that."
    return f"{guessing}; the interval under {with_eps(row)} does not lie above that, so no robustness is shown."


def compared(record: Record, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How adversarial training changed the accuracy, and whether so many images can tell."""
    points = 100 * (one["accuracy"] - other["accuracy"])
    found = [record.evaluations.get(row["network"]) for row in (one, other)]
    if found[0] is None or found[1] is None:
        return f"adversarial training changes that by {points:+.1f} points"
    counts = paired(found[0].correct(one["attack"]), found[1].correct(other["attack"]))
    sure = "" if counts.verdict != "no evidence" else "; these images do not tell the two apart"
    test = f"McNemar's test on the same images: p = {counts.p_value:.2g}{sure}"
    return f"adversarial training changes that by {points:+.1f} points ({test})"


def tiles(record: Record) -> Markup | None:
    """The headline's numbers, large."""
    shown = []
    for network, attack, words in (
        (FOUND, NATURAL, "found, natural images"),
        (FOUND, MAIN_ATTACK, "found, {}"),
        (FOUND, "AutoAttack", "found, {}"),
        (TWIN, MAIN_ATTACK, "naturally trained twin, {}"),
    ):
        row = record.row(network, attack)
        if row is not None:
            small = f"95 %: {interval(row['low'], row['high'])}, n = {row['images']:,}"
            shown.append(
                tag("div", tag("b", percent(row["accuracy"])), words.format(with_eps(row)), tag("span", small), class_="tile")
            )
    if shown and record.classes:
        many = f"{len(record.classes):,} classes" + (", unbalanced" if is_unbalanced(record) else "")
        shown.append(tag("div", tag("b", percent(guessing(record))), "chance", tag("span", many), class_="tile"))
    return tag("div", *shown, class_="tiles") if shown else None


# -- search ------------------------------------------------------------------------------------------------------------


def the_search(record: Record) -> Markup:
    """Curves of the search and the alphas."""
    steps, epochs, left_out = record.search.steps, record.search.epochs, record.search.told
    if record.source is not None:
        return paragraph(f"Nothing was searched in this run: its architecture is that {record.source.about}.")
    if not epochs:
        return missing("the search", "notebook 02 (search)")
    show, number, chosen = partial(drawn, record, source="search/epochs.jsonl"), num_operations(record), record.chosen_epoch
    pieces = [
        show("search_losses", losses_told(epochs, left_out), lambda: plots.search_losses(steps, epochs)),
        show("validation", scores_told(record), lambda: plots.validation(epochs, chosen)),
        show("entropy", entropy_told(epochs, number), lambda: plots.entropy(epochs, number)),
        show("gamma_and_cosine", conflict_told(steps, left_out), lambda: plots.gamma_and_cosine(steps)),
    ]
    return join(tag("div", *pieces, class_="pair"), *the_alphas(record))


def the_alphas(record: Record) -> Iterator[Markup]:
    """How they went, and where they ended."""
    if not record.alphas:
        yield missing("the alphas", "notebook 02 (search)")
        return
    show, chosen = partial(drawn, record, source="search/alphas.npz"), record.chosen_epoch
    caption = "How the weight of each operation grew or fell, by kind of cell."
    yield show("alpha_lines", caption, lambda: plots.alpha_lines(record.alphas, record.search.epochs))
    epoch = len(next(iter(record.alphas.values()))) - 1 if chosen is None else chosen
    caption = (
        f"Softmaxed alphas after epoch {epoch}{'' if chosen is None else ', whose architecture was taken'}; framed: the kept edges."
    )
    yield show(f"alpha_heatmaps_{epoch:03d}", caption, lambda: plots.alpha_heatmaps(record.alphas, epoch))


def num_operations(record: Record) -> int:
    """Candidates on an edge."""
    return len(record.preset["search"]["space"]["operations"])


def losses_told(epochs: Sequence[Mapping[str, Any]], left_out: str = "") -> str:
    """How far the weights' loss fell."""
    key, about = "train/adversarial_loss", f"Losses of the search{left_out and f', {left_out}'}."
    first, last = epochs[0].get(key), epochs[-1].get(key)
    if first is None or last is None:
        return about
    return f"{about} The weights' adversarial loss went from {first:.2f} in the first epoch to {last:.2f} in the last."


def scores_told(record: Record) -> str:
    """The chosen epoch's scores on the alphas' half."""
    chosen = next((each for each in record.search.epochs if each["epoch"] == record.chosen_epoch), record.search.epochs[-1])
    scores = [
        f"{kind} {percent(chosen[key])}" for kind in (NATURAL, "adversarial") if (key := f"validation/{kind}_accuracy") in chosen
    ]
    eps = eps_text(record.preset["search"]["attack"]["eps"])
    return f"What the choice rests on. Supernet in epoch {chosen['epoch']}: {', '.join(scores)} (the search's attack, eps {eps})."


def entropy_told(epochs: Sequence[Mapping[str, Any]], operations: int) -> str:
    """How decided the alphas are."""
    last = {key.removeprefix("entropy/"): value for key, value in epochs[-1].items() if key.startswith("entropy/")}
    ends = ", ".join(f"{kind} {value:.3f}" for kind, value in last.items())
    return f"Entropy of the alphas at the end: {ends} nats per edge, of {math.log(operations):.3f} where nothing is decided."


def conflict_told(steps: Sequence[Mapping[str, Any]], left_out: str = "") -> str:
    """How often the objectives pulled apart."""
    cosines = [step["gradient_cosine"] for step in steps if step.get("gradient_cosine") is not None]
    gammas = [step["gamma"] for step in steps if step.get("gamma") is not None]
    if not cosines or not gammas:
        return "No stage of this search weighed two objectives."
    against = sum(cosine < 0 for cosine in cosines)
    return (
        f"The stage with two objectives{left_out and f', {left_out} of it'}: "
        f"mean gamma (weight of the natural one) {sum(gammas) / len(gammas):.2f}; "
        f"the gradients were in conflict in {against} of {len(cosines)} steps."
    )


def cells(record: Record) -> Markup:
    """The three cell graphs."""
    genotype = record.genotype
    if genotype is None:
        return missing("the architecture", "notebook 02 (search)")
    graphs = []
    for kind in genotype.cells:
        operations = [edge.operation for node in genotype.cells[kind] for edge in node]
        counts = ", ".join(f"{operations.count(name)} {name}" for name in dict.fromkeys(operations))
        saved = record.saved(f"cell_{kind}", "search/genotype.json")
        graph = drawing.cell_svg(genotype, kind).encode() if saved is None else saved.read_bytes()
        graphs.append(picture(graph, "image/svg+xml", f"{kind.capitalize()} cell: {counts}."))
    words = "An edge is as wide as the softmaxed alpha it was kept with." if genotype.strengths else ""
    return join(paragraph(f"Inputs k-2 and k-1 are the outputs of the two cells before, k is the output. {words}"), *graphs)


# -- training and evaluation -------------------------------------------------------------------------------------------


def training(record: Record) -> Markup:
    """Curves of each network; the found one open, the others folded."""
    trained = {name: epochs for name, epochs in record.training.items() if epochs}
    if not trained:
        return missing("the retraining", "notebook 03 (retrain)")
    pieces: list[Markup] = []
    for name, epochs in trained.items():
        best = next((each for each in epochs if each["epoch"] == epochs[-1].get("best_epoch")), epochs[-1])
        eps = eps_text(record.preset["training"]["held_out_attack"]["eps"])
        scores = [f"{k} {percent(best[key])}" for k in (NATURAL, "adversarial") if (key := f"validation/{k}_accuracy") in best]
        caption = f"{name}: best of {len(epochs)} epochs is {best['epoch']}; held out: {', '.join(scores)} (eps {eps})."
        saved = "training_curves" if name == FOUND else f"training_curves_{name}"
        make = partial(plots.training_curves, epochs)
        figure = drawn(record, saved, caption, make, source=f"networks/{name}/epochs.jsonl")
        pieces.append(figure if not pieces else tag("details", tag("summary", f"{name}: training curves"), figure))
    return join(*pieces)


def white_box(record: Record) -> Markup:
    """Each network under each attack, with what the soundness board has to say beside it."""
    rows = record.white_box
    if not rows:
        return missing("the white-box evaluation", "notebook 04 (white-box attacks)")
    attacks = {row["attack"]: row for row in rows}
    networks = list(dict.fromkeys(row["network"] for row in rows))
    head = ["network", "weights", "soundness", *(attack_head(row) for row in attacks.values())]
    worst = bool(record.evaluations)
    if worst:
        strongest = max(row["eps"] for row in rows)
        head.append(join("all attacks", tag("small", f"right under each, eps {eps_text(strongest)}")))
    body = []
    most = max(row["images"] for row in rows)
    for network in networks:
        cells = [accuracy_cell(record.row(network, attack), most, balanced(record, network, attack)) for attack in attacks]
        if worst:
            cells.append(worst_case_cell(record, network, most))
        body.append([network, text_cell(weights_told(record, network)), text_cell(remark_on(record, network)), *cells])
    engines = ", ".join(sorted({str(row["engine"]) for row in rows if row.get("engine")})) or "not known"
    about = (
        f"Accuracy with Wilson intervals at 95 %, data {record.data}, {images_told(rows)}; each attack made on the network itself "
        f"(engine {engines}). "
        "Columns with a plus count what the cascade has left so far; AutoAttack is what stands after all four parts."
        + " Classes are unbalanced: beside each accuracy stands the balanced one, the mean of the classes'."
        * is_unbalanced(record)
    )
    pieces = [table(head, body, about=about, classes=["ours" if name == FOUND else "" for name in networks])]
    shown = [marked(each, record.boards.get(name, [])) for name, each in record.evaluations.items()]
    if shown and record.classes:
        make = partial(plots.accuracy_by_attack, shown)
        caption = f"Accuracy by attack, {data_and_eps(record)}; bars are Wilson intervals at 95 %."
        pieces.append(drawn(record, "accuracy_by_attack", caption, make, source="evaluation/white_box.csv"))
    cascaded = [each for each in shown if "AutoAttack" in each.predictions]
    if cascaded and record.classes:
        caption = f"What each part of AutoAttack leaves, {data_and_eps(record)}."
        pieces.append(drawn(record, "cascade", caption, partial(plots.cascade, cascaded), source="evaluation/white_box.csv"))
    traces = {each.network: each.traces[STEPS_OF] for each in shown if STEPS_OF in each.traces}
    if traces:
        caption = f"Accuracy and loss against the steps of {STEPS_OF}, {data_and_eps(record)}."
        first = next(each for each in shown if each.network in traces)
        make = partial(plots.attack_steps, traces, STEPS_OF, first.eps, first.count(STEPS_OF))
        pieces.append(drawn(record, "attack_steps", caption, make, source="evaluation/white_box.csv"))
    return join(*pieces, pairs(record), over_seeds(record))


def remark_on(record: Record, network: str) -> Markup | str:
    """What the soundness board says of a network, in as few words as stand beside a number."""
    if network not in record.boards:
        return "not checked"
    words = remark(record.boards[network])
    return tag("span", words, class_="warning") if words else "all checks pass"


def soundness(record: Record) -> Markup:
    """The soundness board."""
    if not record.boards:
        return missing("the soundness board", "notebook 04 (white-box attacks)")
    caption = "What tells a robust network from an attack that fails: each check of each network."
    newest = max(
        (f"evaluation/{name}-soundness.json" for name in record.boards), key=lambda p: (record.folder / p).stat().st_mtime_ns
    )
    pieces = [drawn(record, "soundness_board", caption, partial(plots.soundness_board, record.boards), source=newest)]
    for network, checks in record.boards.items():
        told = [
            tag("li", tag("strong", f"{check.verdict}: {check.name}. "), check.sentence)
            for check in checks
            if check.verdict in ("warn", "fail")
        ]
        if told:
            pieces.append(join(tag("h3", network), tag("ul", *told)))
    head = ["check", "network", "verdict", "number", "what it says"]
    lines = [
        [check.name, text_cell(network), text_cell(check.verdict), check.number, text_cell(check.sentence)]
        for network, checks in record.boards.items()
        for check in checks
    ]
    whole = table(head, lines, about="Every check; skipped ones say what they would need.")
    return join(*pieces, tag("details", tag("summary", "All checks in words"), whole))


def pairs(record: Record) -> Markup | None:
    """The found network against each other one on the same images; "better" only where McNemar's test says so."""
    ours, told = record.evaluations.get(FOUND), []
    for name, other in record.evaluations.items():
        for attack in (NATURAL, MAIN_ATTACK, "AutoAttack"):
            if ours is None or name == FOUND or attack not in ours.predictions or attack not in other.predictions:
                continue
            if ours.count(attack) != other.count(attack):
                continue
            counts = paired(ours.correct(attack), other.correct(attack))
            verdict = {"better": "better than", "worse": "worse than"}.get(counts.verdict, "not shown to differ from")
            numbers = [ours.count(attack), counts.alone, counts.other_alone, counts.both, counts.neither]
            cells = [text_cell(attack), *(f"{number:,}" for number in numbers), p_text(counts.p_value)]
            told.append([f"{FOUND} is {verdict} {name}", *cells])
    if not told:
        return None
    head = ["in this comparison", "attack", "images", "right on found alone", "on the other alone", "on both", "on neither", "p"]
    about = f"Paired comparison on the same images, {data_and_eps(record)}; p by McNemar's exact test, level 5 %."
    return table(head, told, about=about)


def over_seeds(record: Record) -> Markup | None:
    """Mean and spread over runs with the same settings and other seeds."""
    if not record.seeds:
        return None
    values: dict[tuple[str, str], list[float]] = {}
    every = [row for rows in record.seeds.values() for row in rows]
    for row in every:
        values.setdefault((row["network"], row["attack"]), []).append(row["accuracy"])
    body = []
    for (network, attack), found in values.items():
        mean, deviation = mean_and_spread(found)
        body.append([network, text_cell(attack), len(found), percent(mean), f"{100 * deviation:.1f}"])
    seeds = ", ".join(map(str, sorted(record.seeds)))
    about = f"Over the seeds {seeds}: mean accuracy and standard deviation (n - 1) in points, {record.data}, {images_told(every)}."
    return table(["network", "attack", "seeds", "mean", "deviation"], body, about=about)


def attack_head(row: Mapping[str, Any]) -> Markup:
    """An attack with its settings, as a column's head."""
    if row["attack"] == NATURAL:
        return join(NATURAL, tag("small", "eps 0"))
    parts = [f"eps {eps_text(row['eps'])}"]
    if row.get("steps") is not None:
        step = f" of {eps_text(row['step_size'])}" if row.get("step_size") is not None else ""
        parts.append(f"{row['steps']} steps{step}")
    parts += [f"{row[key]:,} {key}" for key in ("targets", "queries") if row.get(key) is not None]
    parts += [str(row["engine"])] if row.get("engine") not in (None, "", "dsara") else []
    return join(row["attack"], tag("small", ", ".join(parts)))


def accuracy_cell(row: Mapping[str, Any] | None, usual: int | None = None, balanced: float | None = None) -> Markup:
    """An accuracy with its interval, the balanced one where given, and its number of images where that is not the usual one."""
    if row is None:
        return tag("td", NOT_EVALUATED)
    images = "" if usual in (None, row["images"]) else f", n = {row['images']:,}"
    beside = "" if balanced is None else f", balanced {percent(balanced)}"
    return tag("td", percent(row["accuracy"]), tag("small", interval(row["low"], row["high"]) + beside + images))


def balanced(record: Record, network: str, attack: str) -> float | None:
    """The balanced accuracy, where classes are unbalanced; also of runs whose tables have no such column."""
    evaluation = record.evaluations.get(network)
    if evaluation is None or not evaluation.unbalanced or attack not in evaluation.predictions:
        return None
    return evaluation.balanced_accuracy(attack)


def worst_case_cell(record: Record, network: str, usual: int) -> Markup:
    """Right under every attack of the table, image by image, of the images that all were asked of."""
    evaluation = record.evaluations.get(network)
    if evaluation is None:
        return tag("td", NOT_EVALUATED)
    right = evaluation.worst_case()
    low, high = wilson(int(right.sum()), len(right))
    row = {"accuracy": int(right.sum()) / len(right), "low": low, "high": high, "images": len(right)}
    return accuracy_cell(row, usual)


def weights_told(record: Record, network: str) -> str:
    """Which epoch's weights a network has."""
    card = record.cards.get(network)
    if card is None:
        return ""
    return f"{'last' if network.endswith(f'-{LAST}') else 'best'}, epoch {card['epoch']}"


def against_eps(record: Record) -> Markup:
    """Accuracy as the ball grows."""
    rows = record.curve
    if not rows:
        return missing("accuracy against eps", "notebook 04 (white-box attacks)")
    training_eps = record.preset["training"]["attack"]["eps"] if record.preset["training"].get("attack") else None
    chance = guessing(record) if record.classes else None
    largest = max(row["eps"] for row in rows)
    ends = ", ".join(f"{row['network']} {percent(row['accuracy'])}" for row in rows if row["eps"] == largest)
    caption = f"At eps {eps_text(largest)} are left: {ends}; {record.data}, {images_told(rows)}."
    sizes = sorted({row["eps"] for row in rows})
    head = ["network", *(f"eps {eps_text(eps)}" for eps in sizes)]
    body = []
    for network in dict.fromkeys(row["network"] for row in rows):
        at = {row["eps"]: row for row in rows if row["network"] == network}
        body.append([network, *(accuracy_cell(at.get(eps)) for eps in sizes)])
    words = "A curve that falls to nothing shows that the attack works; one that levels off would hint at masked gradients."
    attack = next((row["attack"] for row in rows if row["attack"] != NATURAL), "")
    about = f"Accuracy under {attack} with 95 % intervals, {record.data}, {images_told(rows)}."
    make = partial(plots.accuracy_against_eps, rows, training_eps, chance)
    figure = drawn(record, "accuracy_against_eps", caption, make, source="evaluation/accuracy_against_eps.csv")
    return join(figure, paragraph(words), table(head, body, about=about))


def examples(record: Record) -> Markup:
    """The figures of adversarial images that notebook 04 drew."""
    saved = [path for name, path in record.figures.items() if name.startswith("adversarial_examples")]
    if not saved:
        return missing("adversarial examples", "notebook 04 (white-box attacks)")
    pieces = []
    for path in sorted(saved, key=lambda path: (len(path.stem), path.stem)):
        network = path.stem.removeprefix("adversarial_examples").strip("_") or FOUND
        added = f"what {MAIN_ATTACK} with eps {eps_of(record)} adds (enlarged)"
        caption = f"Test images, {added}, and both together, with the answers of {network}."
        pieces.append(saved_plot(path, caption))
    for name, words in CLOSE_UPS.items():
        if name in record.figures:
            pieces.append(saved_plot(record.figures[name], f"{words}; {FOUND}, {data_and_eps(record)}."))
    return join(*pieces)


def transfer(record: Record) -> Markup:
    """Every network attacked with every other's images."""
    rows = record.transfer
    if not rows:
        return missing("the black-box evaluation", "notebook 05 (black-box attacks)")
    pieces = []
    for attack in dict.fromkeys(row["attack"] for row in rows):
        mine = [row for row in rows if row["attack"] == attack]
        sources, targets = (list(dict.fromkeys(row[key] for row in mine)) for key in ("source", "target"))
        by_pair = {(row["source"], row["target"]): row for row in mine}
        body = [[source, *(pair_cell(by_pair.get((source, target)), source == target) for target in targets)] for source in sources]
        about = (
            f"Accuracy of the target (column) on images attacked on the source (row): {with_eps(mine[0])}, data {record.data}, "
            f"{images_told(mine)}; framed: white box."
        )
        pieces.append(table(["source \\ target", *targets], body, about=about))
        if attack in record.matrices:
            caption = f"The same as a picture; {with_eps(mine[0])}, {record.data}."
            make = partial(plots.transfer_matrix, record.matrices[attack])
            pieces.append(drawn(record, f"transfer_matrix_{attack}", caption, make, source="evaluation/transfer.csv"))
        pieces.append(tag("ul", *(tag("li", each) for each in gaps(by_pair))))
    note = "Success rates as in Section 6.2, 100 % minus accuracy: images that the target gets wrong anyway count as successes."
    return join(*pieces, paragraph(note))


def pair_cell(row: Mapping[str, Any] | None, same: bool) -> Markup:
    """The accuracy of a pair; framed where source and target are one."""
    inner = accuracy_cell(row)
    return Markup(inner.replace("<td>", '<td class="same">', 1)) if same else inner


def gaps(by_pair: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """As Section 6.2: in each pair, who fools whom more often."""
    done = set()
    for (source, target), row in by_pair.items():
        back = by_pair.get((target, source))
        if source == target or back is None or (target, source) in done:
            continue
        done.add((source, target))
        forth, other = (1 - each["accuracy"] for each in (row, back))
        yield (
            f"{source} → {target}: success rate {percent(forth)}; {target} → {source}: {percent(other)}; "
            f"gap {abs(100 * (forth - other)):.1f} points (eps {eps_text(row['eps'])})."
        )


def pareto(record: Record) -> Markup:
    """Natural against robust accuracy, the paper's points hollow and ours filled."""
    points = pareto_points(record)
    if not points:
        return missing("natural and robust accuracy", "notebook 04 (white-box attacks)")
    data = points[0]["data"]
    theirs = paper.pareto_points(data if data in paper.DATA.values() else "CIFAR-10")
    caption = f"Hollow: reported in the paper ({theirs[0]['data']}, eps 8/255). Filled: measured here ({made_with(record)}). "
    caption += "Not comparable across panels." if theirs[0]["data"] != data else comparable(record)
    make = partial(plots.pareto, points, theirs, MAIN_ATTACK, f"measured here, profile {record.settings['profile']}")
    return drawn(record, "pareto", caption, make, source="evaluation/white_box.csv")


def pareto_points(record: Record) -> list[dict[str, Any]]:
    """Our networks as `plots.pareto` takes them."""
    points = []
    for network in dict.fromkeys(row["network"] for row in record.white_box):
        natural, robust = record.row(network, NATURAL), record.row(network, MAIN_ATTACK)
        if natural is not None and robust is not None:
            data = paper.DATA.get(natural["data"], natural["data"])
            failed = remark(check for check in record.boards.get(network, []) if check.verdict == "fail")
            name = f"{network} ({failed})" if failed else network
            points.append({"network": name, "data": data, "natural": natural["accuracy"], "robust": robust["accuracy"]})
    return points


# -- beside the paper --------------------------------------------------------------------------------------------------


def beside_the_paper(record: Record) -> Markup:
    """Tables 1 and 2 with our rows, and what the paper's text gets wrong."""
    slips = tag("ul", *(tag("li", slip) for slip in paper.SLIPS))
    return join(
        paragraph(tag("strong", comparable(record))),
        first_table(record),
        second_table(record),
        tag("details", tag("summary", "Known slips of the paper"), slips),
        all_runs(record),
    )


def all_runs(record: Record) -> Markup | None:
    """The way to the page on all runs, where it has been written."""
    if not (record.folder.parent / PAGE).is_file():
        return None
    words = "All runs of this folder beside Tables 1 to 5, and the paper's claims tested on them: "
    return paragraph(words, tag("a", "the comparison", href=f"../{PAGE}"), ".")


def comparable(record: Record) -> str:
    """Whether ours may be held against the paper's, said plainly."""
    ours, where = made_with(record), "the paper's are on CIFAR-10 with 10,000 test images, 200 epochs and eps 8/255"
    if record.data != "cifar10":
        return f"The rows measured here ({ours}) are not comparable with the paper's: {where}."
    differing = len(differing_settings(record))
    limited = f", only {record.settings['limit']} images per class" if record.settings.get("limit") else ""
    if differing or limited:
        return f"Same data, other conditions: ours are {ours}{limited} with {differing} settings that differ (below); {where}."
    return f"Measured here with the paper's settings: {ours}."


def made_with(record: Record) -> str:
    """Data, profile, epochs, attack radius and images of our numbers."""
    epochs = plural(record.preset["training"]["epochs"], "epoch")
    parts = [f"data {record.data}", f"profile {record.settings['profile']}", epochs, f"eps {eps_of(record)}"]
    return ", ".join([*parts, *([images_told(record.white_box)] if record.white_box else [])])


def first_table(record: Record) -> Markup:
    """Table 1."""
    columns = list(paper.COLUMNS)
    head = ["network", "numbers are", "params", "FLOPs", *columns]
    body, classes, most = [], [], max((row["images"] for row in record.white_box), default=0)
    for row in paper.table1():
        numbers = [f"{row[key]:.2f} %" for key in paper.COLUMNS.values()]
        conditions = text_cell("the paper's", tag("small", "CIFAR-10, eps 8/255"))
        body.append([row["model"], conditions, row["params"], row["flops"], *numbers])
        classes.append("")
    for network in dict.fromkeys(row["network"] for row in record.white_box):
        size = counted(record, network)
        cells: list[Any] = [accuracy_cell(record.row(network, name), most) for name in columns]
        images, eps = images_told(record.white_box), eps_of(record)
        small = f"{record.data}, {record.settings['profile']}, {epochs_of(record, network)}, eps {eps}, {images}"
        body.append([network, text_cell("measured here", tag("small", small)), *size, *cells])
        classes.append("ours")
    about = "Table 1 of the paper (white-box, CIFAR-10, linf eps 8/255) and below it, shaded, what was measured here."
    pieces = [table(head, body, about=about, classes=classes)]
    if not record.white_box:
        pieces.append(missing("the white-box evaluation", "notebook 04 (white-box attacks)"))
    return join(*pieces)


def epochs_of(record: Record, network: str) -> str:
    """How long a network was trained, and on what."""
    card = record.cards.get(network)
    if card is None:
        return "epochs unknown"
    kind = "adversarial" if card["training"].get("attack") else "natural"
    return f"{plural(card['training']['epochs'], kind + ' epoch')}"


def counted(record: Record, network: str) -> tuple[str, str]:
    """Parameters and FLOPs of a network in the convention of Table 1."""
    card = record.cards.get(network)
    if card is None:
        return "", ""
    blueprint = blueprint_from_dict(card["blueprint"], network)
    size = card["data"].get("image_size")
    found = blueprint_cost(blueprint, 32 if size is None else int(size))
    return amount(found.parameters), "" if size is None else amount(found.table1_flops)


def second_table(record: Record) -> Markup:
    """Table 2, theirs and ours."""
    words = "Ours in the same layout stands above under Black-box attacks."
    ours = paragraph(words) if record.transfer else missing("the black-box evaluation", "notebook 05 (black-box attacks)")
    return join(printed_transfer(), ours)


# -- how it was made ---------------------------------------------------------------------------------------------------


def settings(record: Record) -> Markup:
    """What differs from the paper's settings."""
    rows = differing_settings(record)
    if not rows:
        return paragraph("Search and retraining have the paper's settings throughout.")
    cells = [[name, text_cell(ours), text_cell(theirs)] for name, ours, theirs in rows]
    about = f"{plural(len(rows), 'setting')} of {count_settings(record.preset)} differ from the paper's (profile paper)."
    words = "All other settings are the paper's. Lengths are for images in [0, 1]; they grow in proportion to the data set's eps."
    return join(paragraph(words), table(["setting", "here", "paper"], cells, about=about))


def differing_settings(record: Record) -> list[tuple[str, str, str]]:
    """Name as `--set` takes it, ours, the paper's."""
    ours, theirs = flat(record.preset), flat(describe(PAPER))
    names = [name for name in dict.fromkeys([*theirs, *ours]) if name not in ("name", "about", "type", "threads")]
    return [
        (name, value_text(name, ours.get(name, "")), value_text(name, theirs.get(name, "")))
        for name in names
        if ours.get(name, "") != theirs.get(name, "")
    ]


def count_settings(preset: Mapping[str, Any]) -> int:
    """How many there are."""
    return len(flat(preset))


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; lists of plain values stay whole."""
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = {str(index): each for index, each in enumerate(value)}
    if not isinstance(value, dict):
        return {at: value}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= flat(each, f"{at}.{key}" if at else str(key))
    return found


def value_text(name: str, value: Any) -> str:
    """A setting's value; radii and steps in the fractions that people use."""
    if name.endswith(("eps", "step_size")) and isinstance(value, float) and 0 <= value <= 1:
        return eps_text(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def repeat(record: Record) -> Markup:
    """The command, and what it ran on."""
    given = record.settings
    parts = ["python3", "workbook.py", "run", "--run", record.name, "--profile", given["profile"], "--data", given["data"]]
    parts += ["--seed", str(given["seed"])]
    parts += ["--limit", str(given["limit"])] if given.get("limit") else []
    parts += ["--size", str(given["size"])] if given.get("size") else []
    parts += ["--skip-unreadable"] if given.get("skip_unreadable") else []
    parts += ["--set", given["changes"]] if given.get("changes") else []
    if record.source is not None:
        parts += ["--from", record.source.name]
    elif given.get("variant"):
        parts += ["--variant", given["variant"]]
    words = "Called again, it goes on where it stopped; under another run name it starts anew, on the CPU with the same bits."
    hint = "The path after folder: is as seen from the folder of all runs." if str(given["data"]).startswith("folder:") else None
    rows = [[key, text_cell(text_of(value))] for key, value in record.environment.items()]
    about = "Environment in which the run was opened."
    environment = table(["what", "version"], rows, about=about) if rows else missing("environment.json", "the run's first step")
    return join(tag("pre", shlex.join(map(str, parts))), paragraph(words), paragraph(hint) if hint else None, environment)


def text_of(value: Any) -> str:
    """A value of the environment."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def drawn(record: Record, name: str, caption: str, make: Callable[[], plots.Figure], *, source: str) -> Markup:
    """The figure that a notebook saved from the numbers in `source`, else drawn now from what was read."""
    saved = record.saved(name, source)
    return plot(make(), caption) if saved is None else saved_plot(saved, caption)


# -- words that several parts use --------------------------------------------------------------------------------------


def eps_of(record: Record) -> str:
    """The radius of this run's evaluation."""
    return eps_text(record.settings["eps"])


def told(row: Mapping[str, Any]) -> str:
    """An accuracy with its interval, in a sentence."""
    return f"{percent(row['accuracy'])} ({interval(row['low'], row['high'])})"


def with_eps(row: Mapping[str, Any]) -> str:
    """An attack with its radius; natural images have none."""
    return NATURAL if row["attack"] == NATURAL else f"{row['attack']} with eps {eps_text(row['eps'])}"


def data_and_eps(record: Record) -> str:
    """Data and radius, for captions."""
    return f"{record.data}, eps {eps_of(record)}"


def plural(count: Any, noun: str) -> str:
    """'1 epoch', '3 epochs'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


SECTIONS: dict[str, tuple[str, Callable[[Record], Markup]]] = {
    "search": ("Search", the_search),
    "cells": ("The found cells", cells),
    "training": ("Retraining", training),
    "white-box": ("White-box attacks", white_box),
    "soundness": ("Can the numbers be believed?", soundness),
    "eps": ("Accuracy against eps", against_eps),
    "examples": ("Adversarial examples", examples),
    "black-box": ("Black-box attacks", transfer),
    "pareto": ("Natural against robust accuracy", pareto),
    "paper": ("Beside the paper's tables", beside_the_paper),
    "settings": ("Settings that differ from the paper's", settings),
    "repeat": ("How to repeat it", repeat),
}


def body(record: Record) -> Markup:
    """All parts, below the headline and links to them."""
    pieces = [section(name, title, stand_alone(write, record)) for name, (title, write) in SECTIONS.items()]
    links = tag("ul", *(tag("li", tag("a", title, href=f"#{name}")) for name, (title, _) in SECTIONS.items()))
    head = tag("header", tag("h1", f"Run {record.name}"), stand_alone(headline, record))
    return join(head, tag("nav", links, aria_label="Contents"), tag("main", *pieces))


def stand_alone(write: Callable[[Record], Markup], record: Record) -> Markup:
    """A part; one that the run's files do not allow says so and leaves the others standing."""
    try:
        return write(record)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, ArithmeticError) as error:
        told = f"This part could not be made from the run's files ({type(error).__name__}: {error})."
        return paragraph(told, class_="warning")
