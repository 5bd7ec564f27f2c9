"""The runs of the ablations, and the table of finished runs. Trained and scored by benchmarks/ablations.py.

A run's folder holds the validation losses that training logged (metrics/*/metrics.csv) and the scores of its samples
(scores.json): for each scale the number of training regions, of real patches and of samples, and the Frechet distance
and KID of the two sets.
"""

import csv
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from benchmarks.hardware import processor
from ldm.errors import UserError

SCALES = ("20x", "10x", "5x", "2.5x", "1.25x")


@dataclass(frozen=True)
class Study:
    """A run to make, from a config in configs/ablations/demo."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    seed: int = 0
    sampled: bool = True


SHARED = tuple(Study(name, "shared", (), seed) for seed, name in enumerate(("shared", "shared-again")))
SINGLE = {
    scale: tuple(
        Study(f"single-{scale}{again}", "single_scale", (f"data.scales=[{scale}]",), seed)
        for seed, again in enumerate(("", "-again") if scale == SCALES[-1] else ("",))
    )
    for scale in SCALES
}
CNN = Study("cnn", "cnn_summarizer")
COLOURS = Study("colours", "colour_encoder")
NULL = Study("no-context", "no_context", sampled=False)  # without a context the scale is unknown
CDM = Study("cdm", "cdm")
STUDIES = (*SHARED, *chain(*SINGLE.values()), CNN, COLOURS, NULL, CDM)


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Validation losses of a run by step, then by scale; "" is their mean. UserError when it is not finished."""
    found: dict[int, dict[str, float]] = {}
    for path in sorted(run.glob("metrics/*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                named = {key: value for key, value in row.items() if key.startswith("val/loss") and value}
                if named:
                    values = {key.removeprefix("val/loss").removeprefix("/"): float(v) for key, v in named.items()}
                    found[int(row["step"]) + 1] = values
    if not found or not (run / "weights.safetensors").is_file():
        raise UserError(f"ablations: {run} is no finished run; python -m benchmarks.ablations makes or continues it")
    return found


def scores(run: Path) -> dict[str, dict[str, float]]:
    """Scores of the samples of a run, by scale. UserError when it was not scored."""
    if not (run / "scores.json").is_file():
        raise UserError(f"ablations: {run} has no scores.json; python -m benchmarks.ablations makes it")
    return json.loads((run / "scores.json").read_text())


def at_best(run: Path) -> dict[str, float]:
    return min(losses(run).values(), key=lambda values: values[""])


def at_end(run: Path) -> dict[str, float]:
    found = losses(run)
    return found[max(found)]


def scored(measure: str) -> Callable[[Path], dict[str, float]]:
    """A function from a run to its `measure`, "frechet" or "kid", by scale."""
    return lambda run: {scale: values[measure] for scale, values in scores(run).items()}


def everywhere(*studies: Study) -> dict[str, tuple[Study, ...]]:
    return dict.fromkeys(SCALES, studies)


Row = tuple[str, Mapping[str, tuple[Study, ...]], Callable[[Path], dict[str, float]]]
"""its name, the studies that fill each scale, one a seed, and what to read from a run"""
SHARING, ALONE, CONVOLUTION = "**one model for all scales**", "one model per scale, each at its best", "CNN Summarizer"
LOSSES: tuple[Row, ...] = (
    (SHARING, everywhere(*SHARED), at_best),
    (ALONE, SINGLE, at_best),
    ("one model per scale, each after all its steps", SINGLE, at_end),
    (CONVOLUTION, everywhere(CNN), at_best),
    ("weaker encoder: colour histograms", everywhere(COLOURS), at_best),
    ("no context", everywhere(NULL), at_best),
)


def sample_rows(measure: str) -> tuple[Row, ...]:
    """The rows of the table of `measure`, "frechet" or "kid"."""
    of = scored(measure)
    return (
        (SHARING, everywhere(*SHARED), of),
        (ALONE, SINGLE, of),
        ("the shared model under contexts of its CDM", everywhere(CDM), of),
        (CONVOLUTION, everywhere(CNN), of),
        ("weaker encoder: colour histograms", everywhere(COLOURS), of),
    )


Values = dict[str, dict[str, list[float]]]
"""by row, then by scale: one value a seed"""


def read(rows: Sequence[Row], runs: Path, studies: Collection[Study]) -> Values:
    """Results of the runs of `studies`; rows without any are left out. UserError names the first missing run."""
    found: Values = {}
    for name, filled, of in rows:
        own = {scale: [study for study in seeds if study in studies] for scale, seeds in filled.items()}
        if any(own.values()):
            found[name] = {s: [of(runs / study.name)[s] for study in seeds] for s, seeds in own.items() if seeds}
    return found


def cell(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, and where there are several their standard deviation; a dash without any."""
    spread = f" ± {np.std(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}" if values else "-"


def table(title: str, values: Values, digits: int, factor: float = 1) -> str:
    """Rows of values by scale as Markdown."""
    lines = [f"| {title} | {' | '.join(SCALES)} |", "|---" * (len(SCALES) + 1) + "|"]
    for name, own in values.items():
        cells = [cell([factor * value for value in own.get(scale, [])], digits) for scale in SCALES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(values: Values) -> str:
    """Scales at which the shared model is better than the single-scale ones, and the transformer than the CNN."""
    said = []
    for what, other in (("Sharing against one model per scale", ALONE), ("transformer against CNN", CONVOLUTION)):
        both = [scale for scale in SCALES if scale in values.get(other, {})]
        ahead = [scale for scale in both if np.mean(values[SHARING][scale]) < np.mean(values[other][scale])]
        behind = [scale for scale in both if scale not in ahead]
        places = [f"{word} at {', '.join(them)}" for word, them in (("ahead", ahead), ("behind", behind)) if them]
        if places:
            said.append(f"{what}: {', '.join(places)}")
    return "; ".join(said) + "."


def report(runs: Path, studies: Collection[Study] = STUDIES) -> str:
    """The tables of finished runs; `studies` holds the first of SHARED. UserError names the first that is missing."""
    first = scores(runs / SHARED[0].name)

    def counts(key: str) -> str:
        return ", ".join(f"{first[scale][key]:.0f} at {scale}" for scale in SCALES)

    errors = [by["kid error"] for s in studies if s.sampled for by in scores(runs / s.name).values()]
    steps = {study.name: max(losses(runs / study.name)) for study in studies if study is not CDM}
    names = [study.name for study in studies] if len(studies) < len(STUDIES) else []
    parts = [
        f"`{' '.join(['python -m benchmarks.ablations', *names])}`: {processor()}, "
        f"{len(os.sched_getaffinity(0))} cores; where there are two seeds, mean ± standard deviation.",
        f"Regions to train on: {counts('regions')}. Steps: {', '.join(f'{name} {n}' for name, n in steps.items())}. "
        "Models of one scale took as many steps of it as the shared one, so all of them together as much computing. "
        "Each model is taken where its validation loss was lowest.",
    ]
    validation = read(LOSSES, runs, studies)
    parts += [table("validation loss", validation, 3), verdict(validation)]
    parts += [
        f"Samples under the embeddings of held-out regions ({counts('n')}) against held-out patches "
        f"({counts('real')}), in the space of the demo encoder; no guidance."
    ]
    for title, measure, digits, factor in (("Frechet distance", "frechet", 1, 1), ("KID x 1000", "kid", 0, 1000)):
        found = read(sample_rows(measure), runs, studies)
        parts += [table(title, found, digits, factor), verdict(found)]
    parts += [f"Standard errors of a KID: {1000 * min(errors):.0f} to {1000 * max(errors):.0f}."]
    return "\n\n".join(parts)
