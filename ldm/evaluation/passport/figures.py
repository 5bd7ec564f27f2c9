"""The figures of a passport: each with its standard error, the same of real images, what it means, and a verdict."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldm.evaluation.metrics.frechet import frechet_distance, statistics_of
from ldm.evaluation.metrics.kid import Estimate, kid
from ldm.evaluation.metrics.nearest import Nearest, judge, nearer_by_patient, nearest
from ldm.evaluation.metrics.set_comparison import frechet_error, pair_figures
from ldm.evaluation.passport.duplicates import Pair, near_duplicates
from ldm.evaluation.passport.meanings import MEANINGS
from ldm.evaluation.passport.reading import Folder
from ldm.evaluation.passport.synthetic_training import Labelled, auc_on
from ldm.evaluation.tables import frechet_name, mmd_name

Features = NDArray[np.float64]
Verdict = Literal["as real", "look", "unknown"]
UNKNOWN = Estimate(math.nan, math.nan)
LIMIT = 0.01
"""p-value below which a difference is reported"""


@dataclass(frozen=True)
class PassportFigure:
    """One line of the passport; its key is one of MEANINGS."""

    key: str
    value: str
    real: str = "-"
    """the same of real images, where there is such a thing"""
    verdict: Verdict = "unknown"
    numbers: dict[str, float | int | str | None] = field(default_factory=dict)
    """for programs"""
    named: str = ""
    """a name that says more than that of MEANINGS"""

    @property
    def name(self) -> str:
        return self.named or MEANINGS[self.key][0]

    @property
    def says(self) -> str:
        return MEANINGS[self.key][1]


@dataclass(frozen=True)
class Sets:
    """Who is compared with whom. No patient is in two of the real ones."""

    generated: Folder
    reference: Folder
    """real images that distances are measured to"""
    other: Folder
    """real images of other patients, measured to the same; empty where there is one patient"""
    training: Folder
    """what the generator was trained on, where it is known; else the reference, which may be a part of it"""
    held_out: Folder
    """real images that it was not trained on; else `other`"""
    stated: bool
    """whether the training images are known"""


def told(estimate: Estimate, digits: int = 3) -> str:
    """Value and standard error; a dash for what is unknown."""
    value, error = estimate
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}g}" + ("" if math.isnan(error) else f" ± {error:.2g}")


FAR = ("frechet", "kid", "mmd")
"""figures that are larger where sets differ; the others are smaller"""


def similarity(sets: Sets, space: str) -> Iterator[PassportFigure]:
    """Distances and overlap with the reference, beside those of as many real images of other patients."""
    count = min(len(sets.generated), len(sets.other)) if len(sets.other) > 1 else len(sets.generated)
    ours = _compared(_some(sets.generated, count), sets.reference.features)
    theirs = _compared(_some(sets.other, count), sets.reference.features) if len(sets.other) > 1 else {}
    names = {"frechet": frechet_name(space), "kid": f"KID, {space}", "mmd": mmd_name(space)}
    for key, mine in ours.items():
        real = theirs.get(key, UNKNOWN)
        gap = (mine.value - real.value) * (1 if key in FAR else -1)
        numbers = {"value": mine.value, "error": mine.error, "real": real.value, "real_error": real.error}
        numbers |= {"n": count, "m": len(sets.reference)}
        yield PassportFigure(key, told(mine), told(real), worse(gap, mine, real), {**numbers}, names.get(key, ""))


def _some(folder: Folder, count: int) -> Features:
    """Features (count, d) of images drawn at random: the first ones of a folder are of its first labels or patients."""
    return folder.features[np.sort(np.random.default_rng(0).permutation(len(folder))[:count])]


def worse(gap: float, mine: Estimate, real: Estimate) -> Verdict:
    """Whether a gap is above twice its standard error."""
    error = math.hypot(mine.error, real.error)
    return "unknown" if math.isnan(gap) or math.isnan(error) else "look" if gap > 2 * error else "as real"


def _compared(features: Features, reference: Features) -> dict[str, Estimate]:
    distance = frechet_distance(statistics_of(features), statistics_of(reference))
    found = {"frechet": Estimate(distance, frechet_error(features, reference)), "kid": kid(features, reference)}
    return found | pair_figures(features, reference)


def memorisation(sets: Sets) -> tuple[list[PassportFigure], Nearest | None]:
    """Whether generated images lie nearer to training images than held-out real ones do; and the nearest of each."""
    if not len(sets.held_out):
        return [PassportFigure("memorisation", "-")], None
    near = nearest(sets.generated.features, sets.training.features)
    held = nearest(sets.held_out.features, sets.training.features)
    found = judge(near.distance, held.distance)
    by_patient = nearer_by_patient(near.distance, held.distance, [image.patient for image in sets.held_out.images])
    p = max(by_patient.p_value, found.p_value)
    verdict: Verdict = "unknown" if math.isnan(p) else "look" if p < LIMIT else "as real"
    numbers = {"value": found.nearer, "error": by_patient.error, "p_value": p, "p_value_of_images": found.p_value}
    numbers |= {"n": len(near.distance), "held_out": len(held.distance)}
    chances = "too few held-out patients or images for a p-value" if math.isnan(p) else f"p = {p:.2g}"
    value = f"{told(Estimate(found.nearer, by_patient.error), 2)}, {chances}"
    by_rank = PassportFigure("memorisation", value, "0.50", verdict, {**numbers})
    chance = chance_of_nearest(found.below, len(near.distance), len(held.distance))
    below = PassportFigure(
        "nearer_than_all",
        f"{found.below}, p = {chance:.2g}",
        f"{found.expected:.1f}",
        "look" if chance < LIMIT else "as real",
        {"value": found.below, "expected": found.expected, "p_value": chance},
    )
    return [by_rank, below], near


def chance_of_nearest(below: int, n: int, k: int) -> float:
    """Probability that the `below` smallest of n + k distances in random order are all of the first n."""
    return math.prod((n - i) / (n + k - i) for i in range(below))


def copies(generated: Folder, real: Folder) -> tuple[PassportFigure, list[Pair]]:
    """Generated images that are a real one, up to turning, mirroring, compression and size."""
    pairs = near_duplicates(signatures(generated), signatures(real))
    return counted("copies", len(pairs), f"{len(pairs)} of {len(generated)}"), pairs


def repeats(generated: Folder) -> tuple[PassportFigure, list[Pair]]:
    """Generated images that are alike."""
    pairs = near_duplicates(signatures(generated))
    return counted("repeats", len(pairs), f"{len(pairs)} of {len(generated)}"), pairs


def counted(key: str, count: int, value: str, **more: str | int) -> PassportFigure:
    """A figure that should be 0."""
    return PassportFigure(key, value, "0", "look" if count else "as real", {"value": count, **more})


def training_on_synthetic(sets: Sets) -> Iterator[PassportFigure]:
    """A classifier of the labels, trained on generated and on real images; none without labels."""
    labels = {image.label for image in sets.held_out.images} & {image.label for image in sets.generated.images}
    if len(labels - {""}) < 2:
        return
    tested, ours, theirs = (_labelled(folder) for folder in (sets.held_out, sets.generated, sets.training))
    mine, real = auc_on(tested, ours), auc_on(tested, theirs)
    numbers = {"value": mine.value, "error": mine.error, "real": real.value, "real_error": real.error}
    numbers |= {"generated": len(sets.generated), "training": len(sets.training), "tested": len(sets.held_out)}
    value, other = (f"{told(one)} ({len(of)} images)" for one, of in ((mine, sets.generated), (real, sets.training)))
    yield PassportFigure("synthetic_training", value, other, worse(real.value - mine.value, mine, real), {**numbers})


def _labelled(folder: Folder) -> Labelled:
    return Labelled(
        folder.features, [image.label for image in folder.images], [image.patient for image in folder.images]
    )


def signatures(folder: Folder) -> list[Features]:
    return [traces.signature for traces in folder.traces]
