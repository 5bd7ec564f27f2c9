"""Ablations on the demo world: does sharing one model over scales help where a scale is scarce, and what else matters?

    python benchmarks/ablations.py --out docs/results/ablations.md

(paper, Tables 1 and 7.) Trains what configs/ablations/demo says, into --runs; samples each model under the embeddings
of held-out regions (the CDM's row: under contexts that it draws) and compares with the pixels there. Finished runs and
scores are kept, so an interrupted command is continued by typing it again. A table goes to --out, a picture beside it.
"""

import argparse
import csv
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from data_prep.encoders import load_encoder
from ldm.batch import Stream
from ldm.data.dataset import image_batch, latent_batch
from ldm.errors import UserError, cli
from ldm.evaluation.frechet import frechet_distance, statistics_of
from ldm.evaluation.kid import kid
from ldm.files import whole
from ldm.io import contact_sheet
from ldm.pipeline import ZoomLDM, to_uint8
from ldm.runs import open_data

ROOT = Path(__file__).parents[1]
SCALES = ("20x", "10x", "5x", "2.5x", "1.25x")
REAL, SAMPLES, SHOWN = 256, 32, 8
"""images a scale: held-out patches (fewer where there are fewer), samples under some of those, and in the picture"""
SAMPLING: dict[str, Any] = {"sampler": "dpmpp", "steps": 10}


@dataclass(frozen=True)
class Study:
    """A run to make: its config in configs/ablations/demo, trained once for each of the seeds 0, 1, ..."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    seeds: int = 1

    def runs(self, folder: Path) -> list[Path]:
        return [folder / f"{self.name}-{seed}" for seed in range(self.seeds)]


SHARED = Study("shared", "shared", seeds=2)
SINGLE = {
    scale: Study(f"single-{scale}", "single_scale", (f"data.scales=[{scale}]",), 2 if scale == SCALES[-1] else 1)
    for scale in SCALES
}
CNN = Study("cnn", "cnn_summarizer")
COLOURS = Study("colours", "colour_encoder")
NULL = Study("no-context", "no_context")
CDM = Study("cdm", "cdm")
STUDIES = (SHARED, *SINGLE.values(), CNN, COLOURS, NULL, CDM)
SAMPLED = tuple(study for study in STUDIES if study is not NULL)
"""without a context the scale to paint is not known"""


def train(study: Study, run: Path, seed: int) -> int:
    """Train `run` to its end, from where it stands; returns the exit status of main.py."""
    if (run / "weights.safetensors").is_file():
        return 0
    if any(run.glob("checkpoints/step=*.ckpt")):
        arguments = ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
        config = f"configs/ablations/demo/{study.config}.yaml"
        shared = [f"zoomldm={run.parent / 'shared-0'}"] if study is CDM else []
        arguments = ["--base", config, f"run={run}", f"seed={seed}", *study.overrides, *shared]
    print(f"{run}: main.py {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, str(ROOT / "main.py"), *arguments]).returncode


def score(run: Path, seed: int) -> None:
    """Sample a finished run at each of its scales and compare: run/scores.json, and the images shown, run/shown.npz."""
    if (run / "scores.json").is_file():
        return
    config: Any = OmegaConf.load(run / "config.yaml")
    data, encoder = open_data(config), load_encoder("demo")
    is_cdm = config.system == "cdm"
    model = ZoomLDM.load(config.zoomldm, cdm=run) if is_cdm else ZoomLDM.load(run)
    scores: dict[str, dict[str, float]] = {}
    shown: dict[str, Any] = {}
    for scale in data.validation.scales:
        real, picks = ([p for p in data.validation.spread(n) if p[1] == scale] for n in (REAL, SAMPLES))
        pixels = to_uint8(image_batch(real))
        conditions = None if is_cdm else latent_batch(picks, Stream(0, 0, 0, len(picks))).embedding
        drawn = model.sample(scale.name, len(picks), conditions, seed=1000 * seed, **SAMPLING, progress=True)
        features = [encoder(torch.from_numpy(images)).numpy() for images in (pixels, drawn)]
        scores[scale.name] = {
            "regions": data.training.count(scale),
            "real": len(real),
            "n": len(picks),
            "frechet": frechet_distance(*map(statistics_of, features)),
            "kid": kid(*features).value,
        }
        few = np.linspace(0, len(picks) - 1, SHOWN).round().astype(int)
        shown |= {scale.name: drawn[few], f"real {scale.name}": to_uint8(image_batch([picks[i] for i in few]))}
        print(f"{run}: {scale.name} {scores[scale.name]}", flush=True)
    with whole(run / "shown.npz") as partial, partial.open("wb") as file:
        np.savez(file, **shown)
    with whole(run / "scores.json") as partial:
        partial.write_text(json.dumps(scores, indent=1))


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Validation losses of a run by step, then by scale; "" is their mean. UserError when there is none."""
    found: dict[int, dict[str, float]] = {}
    for path in sorted(run.glob("metrics/*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                named = {key: value for key, value in row.items() if key.startswith("val/loss") and value}
                if named:
                    values = {key.removeprefix("val/loss").removeprefix("/"): float(v) for key, v in named.items()}
                    found[int(row["step"]) + 1] = values
    if not found or not (run / "weights.safetensors").is_file():
        raise UserError(f"ablations: {run} is no finished run; python benchmarks/ablations.py makes it, or goes on")
    return found


def scores(run: Path) -> dict[str, dict[str, float]]:
    """What `score` wrote. UserError when it did not."""
    if not (run / "scores.json").is_file():
        raise UserError(f"ablations: {run} has no scores.json; python benchmarks/ablations.py makes it")
    return json.loads((run / "scores.json").read_text())


def at_best(run: Path) -> dict[str, float]:
    return min(losses(run).values(), key=lambda values: values[""])


def at_end(run: Path) -> dict[str, float]:
    found = losses(run)
    return found[max(found)]


def at_share(run: Path) -> dict[str, float]:
    """After a fifth of the shared model's steps: five such models cost what it costs."""
    found, share = losses(run), max(losses(SHARED.runs(run.parent)[0])) // len(SCALES)
    return found[max(step for step in found if step <= share)]


Values = dict[str, list[float]]
"""by scale: one value a seed"""


def loss_rows(runs: Path) -> dict[str, Values]:
    """The rows of the table of validation losses. UserError names the first run that is missing."""

    def of(study: Study, when: Callable[[Path], dict[str, float]]) -> Values:
        found = [when(run) for run in study.runs(runs)]
        return {scale: [values[scale] for values in found if scale in values] for scale in SCALES}

    def alone(when: Callable[[Path], dict[str, float]]) -> Values:
        return {scale: of(study, when)[scale] for scale, study in SINGLE.items()}

    return {
        "**one model for all scales**": of(SHARED, at_best),
        "a model a scale, each at its best": alone(at_best),
        "a model a scale, the compute of one in all": alone(at_share),
        "a model a scale, each after all its steps": alone(at_end),
        "CNN Summarizer": of(CNN, at_best),
        "weaker encoder (colour histograms)": of(COLOURS, at_best),
        "no context": of(NULL, at_best),
    }


def sample_rows(runs: Path, measure: str) -> dict[str, Values]:
    """The rows of the table of `measure`, "frechet" or "kid". UserError names the first run that is missing."""

    def of(study: Study, scale: str) -> list[float]:
        return [scores(run)[scale][measure] for run in study.runs(runs)]

    def everywhere(study: Study) -> Values:
        return {scale: of(study, scale) for scale in SCALES}

    return {
        "**one model for all scales**": everywhere(SHARED),
        "the same under contexts of the CDM": everywhere(CDM),
        "a model a scale, each at its best": {scale: of(study, scale) for scale, study in SINGLE.items()},
        "CNN Summarizer": everywhere(CNN),
        "weaker encoder (colour histograms)": everywhere(COLOURS),
    }


def cell(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, and where there are several their standard deviation; a dash without any."""
    if not values:
        return "-"
    spread = f" ± {np.std(values):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table(title: str, rows: dict[str, Values], digits: int, factor: float = 1) -> str:
    """Rows of values by scale as Markdown."""
    lines = [f"| {title} | {' | '.join(SCALES)} |", "|---" * (len(SCALES) + 1) + "|"]
    for name, values in rows.items():
        cells = [cell([factor * value for value in values[scale]], digits) for scale in SCALES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdict(what: str, rows: dict[str, Values]) -> str:
    """Where the shared model beats the lone ones, and the transformer the CNN."""

    def ahead(row: str, other: str) -> str:
        better = [s for s in SCALES if np.mean(rows[row][s]) < np.mean(rows[other][s])]
        return ", ".join(better) or "no scale"

    shared, alone = "**one model for all scales**", "a model a scale, each at its best"
    return (
        f"{what}: sharing is ahead of a model a scale at {ahead(shared, alone)}; "
        f"the transformer is ahead of the CNN at {ahead(shared, 'CNN Summarizer')}."
    )


def report(runs: Path) -> str:
    """The whole table from finished runs. UserError names the first that is missing."""
    first = scores(SHARED.runs(runs)[0])
    validation, frechet, inner = loss_rows(runs), sample_rows(runs, "frechet"), sample_rows(runs, "kid")

    def counts(key: str) -> str:
        return ", ".join(f"{first[scale][key]:.0f} at {scale}" for scale in SCALES)

    seeds = ", ".join(f"{study.name} {study.seeds}" for study in STUDIES if study.seeds > 1)
    return "\n\n".join(
        [
            f"`make ablations`: {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; "
            f"seeds: {seeds}, the others 1 (mean ± standard deviation over seeds).",
            f"Regions to train on: {counts('regions')}.",
            table("validation loss", validation, 3),
            verdict("Validation loss", validation),
            f"Samples ({counts('n')}) against held-out patches ({counts('real')}), in the space of the demo encoder:",
            table("Frechet distance", frechet, 1),
            verdict("Frechet distance", frechet),
            table("KID x 1000", inner, 1, factor=1000),
            verdict("KID", inner),
        ]
    )


def draw(runs: Path, path: Path) -> None:
    """Real patches of two scales, the shared model's, the same under the CDM, the lone model's."""
    rows, labels = [], []
    for scale in SCALES[2::2]:
        shared = np.load(SHARED.runs(runs)[0] / "shown.npz")
        rows += [list(shared[f"real {scale}"]), list(shared[scale])]
        rows += [list(np.load(study.runs(runs)[0] / "shown.npz")[scale]) for study in (CDM, SINGLE[scale])]
        labels += [scale, "shared", "shared, CDM", "alone"]
    contact_sheet(rows, labels, [""] * SHOWN, path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train and compare the ablations; writes a table and a picture.")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), help="where runs go (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs/results/ablations.md"), help="(%(default)s)")
    args = parser.parse_args(argv)
    for study in STUDIES:
        for seed, run in enumerate(study.runs(args.runs)):
            if status := train(study, run, seed):
                return status
            if study in SAMPLED:
                score(run, seed)
    with whole(args.out) as partial:
        partial.write_text(report(args.runs) + "\n")
    draw(args.runs, args.out.with_suffix(".png"))
    print(args.out)
    return 0


if __name__ == "__main__":
    cli(main)
