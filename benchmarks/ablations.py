"""Ablations on the demo world: one model for all scales against one per scale, and other choices.

    python -m benchmarks.ablations --out docs/results/ablations.md
    python -m benchmarks.ablations single-1.25x           # some of the STUDIES of benchmarks/ablation_studies.py

(paper, Tables 1 and 7.) Trains what configs/ablations/demo says, into --runs; samples each model under the embeddings
of held-out regions (the CDM's row: under contexts that it draws) and compares with the pixels there. Finished runs and
scores are kept, so an interrupted command continues when it is run again. A table goes to --out, a picture beside it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from benchmarks.ablation_studies import CDM, SCALES, SHARED, SINGLE, STUDIES, Study, report, scores
from ldm.config.objects import load_config
from ldm.config.run_config import load_run_config
from ldm.data.batch import BatchRNG
from ldm.data.dataset import image_batch, latent_batch
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError, cli
from ldm.evaluation.metrics.frechet import frechet_distance, statistics_of
from ldm.evaluation.metrics.kid import kid
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.tensors import to_uint8
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, output_folder
from ldm.support.cache import Identity, content
from ldm.support.files import atomic_write, write_text
from ldm.training.systems import open_data

REAL, SAMPLES, SHOWN = 256, 64, 8
"""images per scale: held-out patches (or all if fewer), samples for some of them, and images in the picture"""
FILLED = ("run", "encoder", "zoomldm")
"""keys of a config that are set for a run"""
SAMPLING: dict[str, Any] = {"sampler": "dpmpp", "steps": 10, "guidance": 1.0}


def train(study: Study, run: Path, threads: int) -> int:
    """Train `run` to its end, from its last checkpoint; returns the exit status of main.py.

    UserError when it was started with other settings than the study's.
    """
    if (run / "config.yaml").is_file():
        refuse_others(study, run)
    if (run / "weights.safetensors").is_file():
        return 0
    if any(run.glob("checkpoints/step=*.ckpt")):
        arguments = ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)  # stopped before its first checkpoint
        shared = [f"zoomldm={run.parent / SHARED[0].name}"] if study is CDM else []
        arguments = ["--base", str(config_of(study)), f"run={run}", f"seed={study.seed}", *study.overrides, *shared]
    return command(["main.py", *arguments], threads)


def refuse_others(study: Study, run: Path) -> None:
    wanted = load_config([config_of(study)], [f"seed={study.seed}", *study.overrides])
    found = load_run_config(run)
    merged: Any = OmegaConf.merge(found, wanted)
    if other := [key for key in wanted if key not in FILLED and merged[key] != found.get(key)]:
        raise UserError(f"{run}: was trained with another {', '.join(map(str, other))}; remove it to train it again")


def config_of(study: Study) -> Path:
    return Path("configs/ablations/demo") / f"{study.config}.yaml"


def command(arguments: Sequence[str], threads: int) -> int:
    """Run a command of the project, `threads` wide; returns its exit status."""
    print(f"python {' '.join(arguments)}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, *arguments], env=environment).returncode


def make(studies: Sequence[Study], runs: Path) -> int:
    """Prepare what `studies` train on, then train them side by side, a core each; returns the first bad exit status."""
    cores = len(os.sched_getaffinity(0))
    for preparation in sorted({load_config([config_of(study)]).data.prepare for study in studies}):
        if status := command(["data_prep/prepare.py", "--config", preparation], cores):
            return status
    width = max(1, min(cores, len(studies)))
    with ThreadPoolExecutor(width) as pool:
        running: dict[Study, Future[int]] = {}

        def run(study: Study) -> int:
            needed = running[SHARED[0]].result() if study is CDM else 0
            return needed or train(study, runs / study.name, cores // width)

        for study in studies:  # the shared one first
            running[study] = pool.submit(run, study)
    return next((status for each in running.values() if (status := each.result())), 0)


def score(study: Study, run: Path) -> None:
    """Sample a finished run at each of its scales and compare; adds what scores.json lacks."""
    config = load_run_config(run)
    data, encoder = open_data(config), load_encoder("demo")
    model = ZoomLDM.load(config.zoomldm, cdm=run) if study is CDM else ZoomLDM.load(run)
    done = kept_scores(run, identity_of(study, config, model, encoder.id))
    for scale in data.validation.scales:
        if scale.name in done:
            continue
        real, picks = ([pick for pick in data.validation.spread(n) if pick[1] == scale] for n in (REAL, SAMPLES))
        conditions = None if study is CDM else latent_batch(picks, BatchRNG(0, 0, 0, len(picks))).embedding
        drawn = model.sample(scale.name, len(picks), conditions, seed=1000 * study.seed, **SAMPLING, progress=True)
        features = [encoder(torch.from_numpy(x)).numpy() for x in (to_uint8(image_batch(real)), drawn)]
        found: dict[str, float] = {"regions": data.training.count(scale), "real": len(real), "n": len(picks)}
        found["frechet"] = frechet_distance(*map(statistics_of, features))
        found["kid"], found["kid error"] = kid(*features)
        done[scale.name] = found
        keep(run, scale.name, to_uint8(image_batch(picks)), drawn)
        write_text(run / "scores.json", json.dumps(done, indent=1))
        print(f"{run}: {scale.name}: {found['frechet']:.1f}", flush=True)


def identity_of(study: Study, config: DictConfig, model: ZoomLDM, encoder: str) -> Identity:
    """Everything that the scores of a run depend on."""
    weights = {**model.weights, **(model.cdm_needed.weights if study is CDM else {}), "encoder": encoder}
    slides = sorted(Path(config.data.cohort).rglob("*.h5"))
    inputs = {str(path.relative_to(config.data.cohort)): content(path) for path in slides}
    if config.data.get("split"):
        inputs["split"] = content(config.data.split)
    settings = {"data": OmegaConf.to_container(config.data), "seed": study.seed, "sampling": SAMPLING}
    settings |= {"real": REAL, "samples": SAMPLES, "precision": model.precision}
    return Identity("scores", weights, inputs, settings)


def kept_scores(run: Path, identity: Identity) -> dict[str, dict[str, float]]:
    """Scores of an interrupted command; empty, with a message, where they depend on something else."""
    beside = run / "scores.identity.json"
    if (run / "scores.json").is_file():
        try:
            different = identity.differences(Identity.parse(beside.read_text()))
        except (OSError, ValueError):
            different = ["what they depend on was not kept"]
        if not different:
            return scores(run)
        print(f"{run}: scored anew ({'; '.join(different)})", flush=True)
        (run / "scores.json").unlink()
    write_text(beside, identity.text)
    return {}


def keep(run: Path, name: str, real: Pixels, drawn: Pixels) -> None:
    """The images that the picture shows: real patches (n, h, w, 3) and samples under their embeddings."""
    few = np.linspace(0, len(real) - 1, SHOWN).round().astype(int)
    with atomic_write(run / "shown" / f"{name}.npz") as partial, partial.open("wb") as file:
        np.savez(file, real=real[few], drawn=drawn[few])


def draw(runs: Path, studies: Sequence[Study], path: Path) -> None:
    """Real patches of the scarcest scale and of one between; those of the shared and lone models, and of the CDM."""
    rows, labels = [], []
    for scale in SCALES[2::2]:
        for label, study in (("shared", SHARED[0]), ("alone", SINGLE[scale][0]), ("shared, CDM", CDM)):
            if study not in studies:
                continue
            shown = np.load(runs / study.name / "shown" / f"{scale}.npz")
            rows += [list(shown["real"]), list(shown["drawn"])] if study is SHARED[0] else [list(shown["drawn"])]
            labels += [scale, label] if study is SHARED[0] else [label]
    contact_sheet(rows, labels, [""] * SHOWN, path)


def main(argv: Sequence[str] | None = None) -> int:
    known = {study.name: study for study in STUDIES}
    parser = Parser(description="Train and compare the ablations; writes a table and a picture.")
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"some of {', '.join(known)} (all); shared is one")
    parser.add_argument("--runs", type=output_folder, default="runs/ablations", help="where runs go (%(default)s)")
    parser.add_argument("--out", type=output_file, default="docs/results/ablations.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    unknown = [name for name in args.studies if name not in known]
    if unknown:
        raise UserError(f"study: {unknown[0]} is unknown; it is one of {', '.join(known)}")
    studies = [study for study in STUDIES if not args.studies or study is SHARED[0] or study.name in args.studies]
    if status := make(studies, args.runs):
        return status
    for study in studies:
        if study.sampled:
            score(study, args.runs / study.name)
    write_text(args.out, report(args.runs, studies) + "\n")
    draw(args.runs, studies, args.out.with_suffix(".png"))
    print(args.out)
    return 0


if __name__ == "__main__":
    cli(main)
