"""The checks of the soundness board, one function each: it reads the evidence and gives (verdict, number, sentence).

To add one, write a function and its line in `CHECKS`. "fail" means that the numbers are no measure of robustness, "warn" that they
may be none; thresholds stand where they are used, each with its reason. Table 1 of the paper is the yardstick: ten networks that
behave, and ABanditNAS, whose 81 % under FGSM are 16 % under AutoAttack. Evidence that is missing makes a check "skipped".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from ..data import eps_text
from ..evaluation import NATURAL, Evaluation, TransferMatrix, paired, wilson

VERDICTS = ("pass", "skipped", "warn", "fail")  # from best to worst
ORDER = (NATURAL, "FGSM", "PGD20", "PGD100", "APGD-CE", "+APGD-T", "+FAB-T", "AutoAttack")  # each at least as strong as the last
Found = tuple[str, str, str]  # verdict, number, sentence


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the board."""

    name: str
    verdict: str
    number: str  # "" where there is none
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is to judge by."""

    evaluation: Evaluation
    probes: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[Mapping[str, Any]] = ()
    transfer: TransferMatrix | None = None

    def probe(self, measure: str) -> Mapping[str, Any]:
        """What a measure found."""
        if measure in self.probes.get("failed", {}):
            raise Failed(f"The measurement itself failed: {self.probes['failed'][measure].rstrip('.')}.")
        if measure not in self.probes:
            raise Missing(f"Needs the probe {measure!r} (soundness.probe).")
        found: Mapping[str, Any] = self.probes[measure]
        if None in found.values():
            absent = ", ".join(name for name, value in found.items() if value is None)
            raise Failed(f"The probe {measure!r} found no finite number for {absent}.")
        return found

    @property
    def count(self) -> str:
        """Such as "64 images", on which the probes were made."""
        return f"{len(self.probes.get('at', {}).get('indices', ()))} images"

    def rows(self, *names: str) -> list[str]:
        """Those of these rows that were evaluated."""
        return [name for name in names if name in self.evaluation.predictions]

    def accuracies(self, *names: str) -> str:
        """Of these rows, each with its number of images."""
        shares, counts = [f"{name} {self.evaluation.accuracy(name):.1%}" for name in names], self.counts(names)
        if len(set(counts)) == 1:
            return f"{', '.join(shares)} (of {counts[0]} images)"
        return ", ".join(f"{share} of {count}" for share, count in zip(shares, counts, strict=True)) + " images"

    def counts(self, names: Iterable[str]) -> list[int]:
        """Of how many images each of these rows was asked."""
        return [self.evaluation.count(name) for name in names]

    def need(self, *names: str) -> None:
        """Skip the check unless all of these rows were evaluated."""
        absent = [name for name in names if name not in self.evaluation.predictions]
        if absent:
            raise Missing(f"Needs the evaluation's row {' and '.join(absent)}.")


class Missing(Exception):
    """Evidence is missing; the message says which."""


class Failed(Exception):
    """A measurement failed; the message says how."""


def check(name: str, evidence: Evidence) -> Check:
    """One check of `CHECKS`."""
    try:
        verdict, number, sentence = CHECKS[name](evidence)
    except Missing as missing:
        verdict, number, sentence = "skipped", "", str(missing)
    except Failed as failed:
        verdict, number, sentence = "fail", "", str(failed)
    return Check(name=name, verdict=verdict, number=number, sentence=sentence)


# ------------------------------------------------------------------------------------------------- what the network does


def evaluation_mode(e: Evidence) -> Found:
    """A query must not change the network."""
    m = e.probe("modes")
    if m["still_training"] or m["num_changed"]:
        what = f"{m['still_training']} modules stay in training mode and a forward pass changes {m['num_changed']} tensors"
        names = f" ({', '.join(m['changed'])})" if m["changed"] else ""
        return "fail", str(m["num_changed"]), f"In evaluation mode {what}{names}: each query changes the network that is measured."
    if m["found_training"]:
        sentence = "modules were handed over in training mode; this evaluation switched them, another tool may not."
        return "warn", str(m["found_training"]), f"{m['found_training']} {sentence}"
    return "pass", "0", "All modules are in evaluation mode, and a forward pass changes neither parameters nor buffers."


def image_range(e: Evidence) -> Found:
    """Eps means pixels only for images in [0, 1]."""
    m = e.probe("pixels")
    number = f"{m['low']:.3g} to {m['high']:.3g}"
    if m["low"] < 0 or m["high"] > 1:
        return "fail", number, f"Pixels of {e.count} are {number}, outside [0, 1]: eps does not mean pixels."
    if m["high"] - m["low"] < 0.1:  # such as images divided by 255 twice
        return "warn", number, f"Pixels of {e.count} span only {number}: eps is large beside that; perhaps they were scaled twice."
    if m["off_grid"]:
        share = f"{m['off_grid']:.1%}"
        return "warn", share, f"{share} of the pixels of {e.count} are no multiples of 1/255: no 8-bit images."
    return "pass", number, f"Pixels of {e.count} are {number} and multiples of 1/255, as of 8-bit images."


def randomised(e: Evidence) -> Found:
    """One answer for one image."""
    m = e.probe("repetition")
    apart = max(m["logits"], m["gradients"])
    logits, gradients = f"{m['logits']:.1e} of the largest logit", f"gradients by {m['gradients']:.1e}"
    sentence = f"Two passes over the same images differ by {logits}, {gradients}, on {e.count}"
    if m["logits"] > 1e-3 or m["gradients"] > 1e-1:  # kernels that sum in any order stay below 1e-5 and, in gradients, 1e-3
        return "fail", f"{apart:.1e}", f"{sentence}: attacks must average over the randomness (EOT), and these did not."
    return "pass", f"{apart:.1e}", f"{sentence}: nothing is drawn."


def softmaxed(e: Evidence) -> Found:
    """The losses of attacks expect logits."""
    m = e.probe("output")
    if m["softmaxed"]:
        return (
            "fail",
            "",
            f"All outputs on {e.count} lie in [0, 1] and sum to 1: losses that expect logits saturate on probabilities.",
        )
    if m["log_softmaxed"]:  # cross-entropy and margins are the same; other losses and clamped logarithms are not
        return "warn", "", f"Outputs on {e.count} are logarithms of probabilities, not logits."
    return "pass", "", f"Outputs on {e.count} are logits, neither probabilities nor their logarithms."


def finite(e: Evidence) -> Found:
    """No NaN or infinity to follow or to judge."""
    shares = e.probe("finiteness")
    name, share = max(shares.items(), key=lambda item: item[1])
    if share:
        kind, _, what = name.rpartition("_")
        sentence = f"The {what} of {share:.0%} of {e.count} ({kind.replace('_', ' ')}) are not finite"
        return "fail", f"{share:.0%}", f"{sentence}: attacks can neither follow nor judge them."
    return "pass", "0", f"Logits and gradients are finite on {e.count}: natural, noisy and off the 8-bit grid."


def zero_gradients(e: Evidence) -> Found:
    """White-box attacks have something to follow."""
    m = e.probe("zeros")
    images = max(m["natural_images"], m["start_images"], m["margin_images"])
    elements = max(m["natural_elements"], m["start_elements"], m["margin_elements"])
    sentence = f"Of {e.count} {images:.0%} have a zero input gradient, and {elements:.0%} of the others' elements are zero"
    # On such an image a white-box attack stands still. Honest networks, ReLU and pooling included, have none and few.
    if images > 0.05:
        return "fail", f"{images:.0%}", f"{sentence}: white-box attacks stand still there."
    if images or elements > 0.5:
        return "warn", f"{max(images, elements):.0%}", f"{sentence}: more than an honest network shows."
    return "pass", f"{elements:.0%}", f"{sentence}."


def logit_scale(e: Evidence) -> Found:
    """Cross-entropy in float32 can still tell logits apart."""
    m = e.probe("scale")
    losses = f"float32 cross-entropy is exactly 0 for {m['loss_zero']:.0%} and its gradient underflows for {m['underflow']:.0%}"
    sentence = f"The two largest logits lie {m['gap']:.3g} apart (median on {e.count}); {losses}"
    # exp(-104) is 0 in float32, so only logits blown up underflow; 1 + exp(-17) is 1, which a very sure network may reach.
    if m["underflow"] > 0.05:
        return "fail", f"{m['gap']:.3g}", f"{sentence}: attacks on the cross-entropy see nothing."
    if m["loss_zero"] > 0.2 or m["underflow"]:
        return "warn", f"{m['gap']:.3g}", f"{sentence}: attacks on the cross-entropy see little; margin losses still see."
    return "pass", f"{m['gap']:.3g}", f"{sentence}."


def gradient_agrees(e: Evidence) -> Found:
    """Following the gradient raises the loss."""
    m = e.probe("agreement")
    length = max("long", "short", key=lambda each: m[f"{each}_wins"])
    wins, ratio = m[f"{length}_wins"], m[f"{length}_ratio"]
    beats = f"A step along the gradient raises the loss more than the best of 8 random steps for {wins:.0%} of {e.count}"
    sentence = f"{beats}, {ratio:.2g} times as much in the median"
    # Of nine equal directions one wins for 11 %; an honest gradient wins by about the root of the number of pixels.
    if wins < 0.5:
        return "fail", f"{wins:.0%}", f"{sentence}: the gradient does not belong to the loss."
    if wins < 0.9:
        return "warn", f"{wins:.0%}", f"{sentence}: it belongs to the loss in part."
    return "pass", f"{wins:.0%}", f"{sentence}."


def gradients_inside(e: Evidence) -> Found:
    """The network does not adapt to its input."""
    called = e.probe("inside")["called"]
    if called:
        sentence = "the network adapts to each input, which white-box attacks see only if they differentiate through that."
        return "fail", str(len(called)), f"One forward pass takes gradients ({', '.join(called)}): {sentence}"
    return "pass", "0", "One forward pass takes no gradients."


def batch_dependence(e: Evidence) -> Found:
    """An image's logits are its own."""
    m = e.probe("company")
    apart = max(m["alone"], m["shuffled"])
    sentence = f"Logits of an image alone or among others differ by {apart:.1e} of the largest logit on {e.count}"
    if apart > 1e-2:  # other batch sizes take other kernels, which differ by 1e-6 in float32 and 1e-3 in TensorFloat-32
        return "fail", f"{apart:.1e}", f"{sentence}: an answer depends on the batch, which attacks change."
    if apart > 1e-3:
        return "warn", f"{apart:.1e}", f"{sentence}: more than rounding in float32."
    return "pass", f"{apart:.1e}", f"{sentence}, which is rounding."


# ------------------------------------------------------------------------------------------------- what the attacks found


def ball_and_box(e: Evidence) -> Found:
    """The attacked images are allowed ones."""
    if not e.evaluation.reached:
        raise Missing("Needs the evaluation's `reached`: largest change, least and largest pixel of each attack.")
    over: dict[str, float] = {}
    for name, at in e.evaluation.reached.items():
        radius = 0.0 if name == NATURAL else float((e.evaluation.attacks.get(name) or {}).get("eps", e.evaluation.eps))
        beyond = (at["change"] - radius, -at["low"], at["high"] - 1)
        over[name] = max(beyond) if all(map(math.isfinite, beyond)) else math.inf
    row, count = max(over, key=lambda name: over[name]), len(over)
    images = " or ".join(map(str, sorted({*e.counts(e.rows(*over))} or {len(e.evaluation.labels)})))
    if over[row] > 1e-6:  # float32 rounds x + eps by less than 1e-7
        sentence = f"{row} leaves the ball of radius eps or [0, 1] by {over[row]:.1e}"
        return "fail", f"{over[row]:.1e}", f"{sentence}: what it found does not count."
    left_out = [name for name in e.evaluation.predictions if name not in over and name != NATURAL]
    if left_out:
        return (
            "warn",
            str(len(left_out)),
            f"Whether {' and '.join(left_out)} stayed in the ball and in [0, 1] was not written down.",
        )
    return "pass", "0", f"What {count} rows made of {images} images lies in the ball of radius eps and in [0, 1]."


def order(e: Evidence) -> Found:
    """No attack does worse than a weaker one, on the images that both were asked of."""
    rows = e.rows(*ORDER)
    if len(rows) < 2:
        raise Missing("Needs two rows of natural, FGSM, PGD20, PGD100, APGD-CE and AutoAttack.")
    shares = e.accuracies(*rows)
    for weaker, stronger in pairwise(rows):
        both = e.evaluation.together((weaker, stronger))
        found = paired(both.correct(stronger), both.correct(weaker))
        if found.verdict == "better":
            number = f"p = {found.p_value:.1e}"
            return (
                "fail",
                number,
                f"Accuracy rises from {weaker} to {stronger} beyond luck, so the stronger attack is hindered: {shares}.",
            )
    return "pass", "", f"No stronger attack leaves more images right, beyond luck: {shares}."


def convergence(e: Evidence) -> Found:
    """More steps find hardly more, on the images that both rows were asked of."""
    e.need("PGD20", "PGD100")
    rows = [row for row in ("PGD20", "PGD100", "APGD-CE") if row in e.evaluation.predictions]
    pairs = [(e.evaluation.together(names), *names) for names in pairwise(rows)]
    falls = [100 * (both.accuracy(one) - both.accuracy(other)) for both, one, other in pairs]
    luck = [paired(both.correct(one), both.correct(other)).verdict != "better" for both, one, other in pairs]
    images = " and ".join(dict.fromkeys(str(len(both.labels)) for both, *_ in pairs))
    number = " and ".join(f"{fall:.1f}" for fall in falls) + " points"
    sentence = f"From {' to '.join(rows)} accuracy falls by {number} on {images} images"
    rising = _rising(e.evaluation.traces.get("PGD100", {})) if e.evaluation.correct("PGD100").any() else None
    if rising is not None:
        sentence += f"; of the rise of PGD100's loss {rising:.1%} comes in the last tenth of its steps"
    # Table 1: at most 1.2 points twice, for ABanditNAS 4.8 and 16.4. A loss that rises evenly gains a tenth in its last tenth.
    if any(fall > 2 and not lucky for fall, lucky in zip(falls, luck, strict=True)):
        return "warn", number, f"{sentence}: PGD has not found what it should."
    if rising is not None and rising > 0.05:
        return "warn", f"{rising:.1%}", f"{sentence}: PGD still climbs."
    return "pass", number, f"{sentence}."


def _rising(trace: Mapping[str, Any]) -> float | None:
    """The last tenth's share of the loss's rise; None where that is not known."""
    loss = [float(value) for value in trace.get("loss", ())]
    if len(loss) < 21 or not all(map(math.isfinite, loss)) or loss[-1] <= loss[0]:
        return None
    return (loss[-1] - loss[-1 - len(loss) // 10]) / (loss[-1] - loss[0])


def black_box(e: Evidence) -> Found:
    """What gradients missed is not found without them."""
    white = e.rows("PGD100", "APGD-CE") or e.rows("PGD20")
    if not white:
        raise Missing("Needs the evaluation's row PGD100 or APGD-CE.")
    found = []
    if e.rows("Square"):
        both = e.evaluation.together([*white, "Square"])
        found.append(("Square", int((both.worst_case(white) & ~both.correct("Square")).sum()), len(both.labels)))
    if len(e.rows("+FAB-T", "AutoAttack")) == 2:  # in the cascade, after the white-box parts
        both = e.evaluation.together([*white, "+FAB-T", "AutoAttack"])
        last = both.worst_case([*white, "+FAB-T"]) & ~both.correct("AutoAttack")
        found.append(("AutoAttack's Square", int(last.sum()), len(last)))
    at = e.probes.get("at", {})
    known = dict(enumerate(e.evaluation.labels.tolist()))
    # Noise was tried on images from all over the set, so only what was asked of all of them has seen the same.
    whole = [name for name in white if e.evaluation.count(name) == len(known)]
    if "noise" in e.probes and whole and [known.get(i) for i in at.get("indices", ())] == at.get("labels"):
        kept = e.evaluation.worst_case(whole)
        found.append(("noise", sum(bool(kept[i]) for i in e.probes["noise"]["fooled"]), len(at["labels"])))
    if not found:
        raise Missing("Needs the evaluation's row Square, or the probe 'noise' on the evaluated images.")
    name, fooled, count, verdict = _worst_share(found)
    sentence = f"Of {count} images {name} fools {fooled} that {' and '.join(whole if name == 'noise' else white)} left right"
    ending = "." if verdict == "pass" else ": an attack that sees no gradient should not find what gradients missed."
    return verdict, f"{fooled / count:.1%}", sentence + ending


def _worst_share(found: Iterable[tuple[str, int, int]]) -> tuple[str, int, int, str]:
    """The largest share, and its verdict by the lower end of its Wilson interval, so that a few images are no evidence.

    A white-box attack with one restart misses about 1 % of what another attack of its strength finds; 3 % is no accident.
    """
    name, fooled, count = max(found, key=lambda each: wilson(each[1], each[2])[0])
    low = wilson(fooled, count)[0]
    return name, fooled, count, "fail" if low > 0.03 else "warn" if low > 0.01 else "pass"


def transfer(e: Evidence) -> Found:
    """A stranger's gradient is no better than the network's own."""
    matrix, target = e.transfer, e.evaluation.network
    if matrix is None or target not in matrix.targets or target not in matrix.sources or len(matrix.sources) < 2:
        raise Missing(f"Needs a transfer matrix with {target} as target and source, and another source.")
    at = matrix.targets.index(target)
    right = {source: matrix.predictions[s, at] == matrix.labels for s, source in enumerate(matrix.sources)}
    own = right.pop(target)
    name, fooled, count, verdict = _worst_share((s, int((own & ~mask).sum()), len(own)) for s, mask in right.items())
    sentence = f"Of {count} images those of {name} fool {target} on {fooled} that {matrix.attack} on {target} itself left right"
    ending = "." if verdict == "pass" else ": a stranger's gradient should not be better."
    return verdict, f"{fooled / count:.1%}", sentence + ending


def gap(e: Evidence) -> Found:
    """One step says about as much as the strongest attack, on the images that both were asked of."""
    e.need("FGSM", "AutoAttack")
    both = e.evaluation.together(("FGSM", "AutoAttack"))
    first, last = both.accuracy("FGSM"), both.accuracy("AutoAttack")
    sentence = f"Accuracy falls from {first:.1%} under FGSM to {last:.1%} under AutoAttack on {len(both.labels)} images"
    # Table 1: 10 to 12 points, and at least 79 % of FGSM's accuracy are left; ABanditNAS lost 65 of 81 points. An undefended
    # network loses all it had too, so this is a hint only; of a few points a share means little.
    if first - last > 0.25 or (first - last > 0.1 and last < first / 2):
        return (
            "warn",
            f"{100 * (first - last):.0f} points",
            f"{sentence}: FGSM says little about this network, which is hardly defended or masks its gradients.",
        )
    return "pass", f"{100 * (first - last):.0f} points", f"{sentence}."


# ------------------------------------------------------------------------------------------------- accuracy against eps


def _curve(e: Evidence) -> list[tuple[float, int, int]]:
    """(eps, correct, images) of this network, by eps."""
    rows = [row for row in e.curve if row.get("network", e.evaluation.network) == e.evaluation.network]
    if not rows:
        raise Missing("Needs accuracies at several eps.")
    return sorted((float(row["eps"]), int(row["correct"]), int(row["images"])) for row in rows)


def falls_with_eps(e: Evidence) -> Found:
    """A larger ball holds the smaller one."""
    points = _curve(e)
    if len(points) < 2:
        raise Missing("Needs accuracies at two eps or more.")
    least, rise, beyond = points[0], 0.0, False
    for eps, correct, images in points[1:]:
        rise = max(rise, correct / images - least[1] / least[2])
        beyond |= wilson(correct, images)[0] > wilson(least[1], least[2])[1]
        least = min(least, (eps, correct, images), key=lambda point: point[1] / point[2])
    sentence = f"Over {len(points)} radii up to {eps_text(points[-1][0])} accuracy rises by at most {100 * rise:.1f} points"
    if beyond:  # the intervals do not overlap
        return "fail", f"{100 * rise:.1f} points", f"{sentence}: a larger ball holds the smaller, so the attack fails there."
    # The same images: what is lost in a ball is lost in a larger one, and one restart differs by a point or so.
    if rise > 0.02:
        return "warn", f"{100 * rise:.1f} points", f"{sentence}: the attack weakens as the ball grows."
    return "pass", f"{100 * rise:.1f} points", f"{sentence}."


def begins_at_natural(e: Evidence) -> Found:
    """A ball of radius 0 holds the image alone."""
    e.need(NATURAL)
    eps, correct, images = _curve(e)[0]
    if eps != 0:
        raise Missing("Needs an accuracy at eps 0.")
    natural, share, asked = e.evaluation.accuracy(), correct / images, e.evaluation.count()
    low, high = wilson(correct, images)
    same = correct == int(e.evaluation.correct().sum()) if images == asked else low <= natural <= high
    sentence = f"At eps 0 accuracy is {share:.1%} on {images} images, and {natural:.1%} without attack" + (
        "" if images == asked else f" on {asked}"
    )
    if not same:
        return "fail", f"{share:.1%}", f"{sentence}: the two are not of one network."
    return "pass", f"{share:.1%}", f"{sentence}."


def ends_at_chance(e: Evidence) -> Found:
    """A large enough ball holds images of any class."""
    eps, correct, images = _curve(e)[-1]
    # 64/255 for networks trained at 8/255. In a ball of 0.5 every image may become the same grey, whatever the training.
    needed = min(0.5, max(64 / 255, 8 * e.evaluation.eps))
    if eps < needed - 1e-6:
        raise Missing(f"Needs an accuracy at eps {eps_text(needed)} or more; the largest is {eps_text(eps)}.")
    # Generous: the most frequent class's share, and the lower end of the interval. An attack that works gets to 0.
    counts = torch.bincount(e.evaluation.labels)
    chance = max(1 / max(1, len(e.evaluation.classes)), int(counts.max()) / int(counts.sum()))
    sentence = f"At eps {eps_text(eps)} accuracy is {correct / images:.1%} on {images} images; guessing gets {chance:.1%}"
    if wilson(correct, images)[0] > chance:
        return "fail", f"{correct / images:.1%}", f"{sentence}: images changed this much hold no class, so the attack failed."
    return "pass", f"{correct / images:.1%}", f"{sentence}."


# ------------------------------------------------------------------------------------------------- what is known of the rows


def provenance(e: Evidence) -> Found:
    """What made each row is known, so that it can be compared."""
    rows = e.evaluation.rows()
    unknown: dict[str, None] = {}
    for row in rows:
        settings = e.evaluation.attacks.get(row["attack"]) or {}
        wanted = ["dtype", "image_checksum", "seed"]
        if row["attack"] != NATURAL:
            stepping = settings.get("type") in ("BIM", "PGD", "MIFGSM")  # AutoAttack's parts choose their own steps
            wanted += ["eps", "start", "loss", "engine", *(["step_size", "steps"] if stepping else [])]
        unknown |= dict.fromkeys(f"{key} of {row['attack']}" for key in wanted if row[key] in (None, ""))
        if row["attack"] != NATURAL and "eps" not in settings:
            unknown[f"eps of {row['attack']}"] = None
        elif row["attack"] != NATURAL and abs(row["eps"] - e.evaluation.eps) > 1e-9:
            return (
                "fail",
                eps_text(row["eps"]),
                f"{row['attack']} has eps {eps_text(row['eps'])}, the others {eps_text(e.evaluation.eps)}.",
            )
    dtype = str(e.evaluation.provenance.get("dtype", "")).removeprefix("torch.")
    if dtype not in ("", "float32", "float64"):  # bfloat16 changes verdicts: 61 robust images for 59
        return "fail", dtype, f"Computed in {dtype}, which changes verdicts; reported numbers are float32 or float64."
    if unknown:
        few = ", ".join(list(unknown)[:4]) + (", ..." if len(unknown) > 4 else "")
        verdict = "fail" if any(name.startswith(("eps ", "image_checksum ", "step_size ")) for name in unknown) else "warn"
        return verdict, str(len(unknown)), f"Not known: {few}; such rows cannot be compared with others."
    return "pass", "0", f"Eps, step, start, loss, engine, dtype, seed and images of all {len(rows)} rows are known."


CHECKS: dict[str, Callable[[Evidence], Found]] = {
    "evaluation mode": evaluation_mode,
    "image range": image_range,
    "ball and box": ball_and_box,
    "randomised forward pass": randomised,
    "softmaxed output": softmaxed,
    "finite numbers": finite,
    "zero gradients": zero_gradients,
    "logit scale": logit_scale,
    "gradient and loss": gradient_agrees,
    "gradients inside the forward pass": gradients_inside,
    "batch dependence": batch_dependence,
    "order of attacks": order,
    "convergence": convergence,
    "black box or noise": black_box,
    "transfer": transfer,
    "accuracy against eps": falls_with_eps,
    "natural at eps 0": begins_at_natural,
    "chance at a large eps": ends_at_chance,
    "gap from FGSM to AutoAttack": gap,
    "provenance": provenance,
}
