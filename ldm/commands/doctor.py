"""Run the checks that the options choose, and print one line per finding."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ldm.doctor.environment import accelerators, openslide, packages, python, room
from ldm.doctor.finding import Finding, checked
from ldm.support.bundled_models import BUNDLED


def environment() -> Iterator[Finding]:
    yield from checked("Python", python)
    yield from checked("packages", packages)
    yield from checked("OpenSlide", openslide)
    yield from checked("accelerators", accelerators)
    yield from checked("room", lambda: room(Path()))
    yield from checked("published weights", published_weights)


def published_weights() -> Iterator[Finding]:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    from ldm.doctor.published import HubWeights, elsewhere, published
    from ldm.encoders.conch import CONCH_FILE, CONCH_HUB
    from ldm.encoders.table import PUBLISHED
    from ldm.evaluation.metrics.extractors import inception_file
    from ldm.evaluation.metrics.fidelity import ALEXNET_URL, alexnet_file

    local = "set encoder.weights to a local file"
    vq = "https://ommer-lab.com/files/latent-diffusion/vq-f4.zip"
    yield from published(
        [
            *(HubWeights(name, of.hub, of.files, local) for name, of in PUBLISHED.items() if of.hub),
            HubWeights("conch", CONCH_HUB, (CONCH_FILE,), local),
            HubWeights("ZoomLDM", "StonyBrook-CVLab/ZoomLDM", ("brca/weights.ckpt",), "give --model a local path"),
        ]
    )
    yield elsewhere("VQ-f4", None, vq, "set autoencoder to the path of its model.ckpt")
    for name, file, url in (
        ("Inception", inception_file(), URL_INCEPTION_V3),
        ("LPIPS", alexnet_file(), ALEXNET_URL),
    ):
        yield elsewhere(name, file, url, f"put the file at {file}")


def bundled(name: str) -> Iterator[Finding]:
    """A model in the package, its tile encoder and its slide."""
    from ldm.data.h5 import SlideFile
    from ldm.doctor.finding import ok
    from ldm.doctor.slide_check import examine
    from ldm.doctor.weights_check import file, model

    yield from model(name)
    yield file(BUNDLED[name].encoder)
    slide = SlideFile(BUNDLED[name].slide)
    examine(slide)
    yield ok(f"{slide.path}: every checksum right, all values finite")


def one_model(source: str) -> Iterator[Finding]:
    from ldm.doctor.weights_check import model

    yield from bundled(source) if source in BUNDLED else model(source)


def one_cohort(folder: Path, source: str | None) -> Iterator[Finding]:
    from ldm.doctor.cohort_check import cohort
    from ldm.doctor.weights_check import wanted_by

    yield from cohort(folder, None if source is None else wanted_by(source))


def training_run(base: list[str]) -> Iterator[Finding]:
    from ldm.config.objects import load_config
    from ldm.doctor.needs import needs

    files = [item for item in base if "=" not in item]
    yield from needs(load_config(files, [item for item in base if "=" in item]))


def run(args: argparse.Namespace) -> int:
    """Print every finding; the exit status is 1 where something fails."""
    checks = []
    if args.model:
        checks.append((f"--model {args.model}", lambda: one_model(args.model)))
    if args.cohort:
        checks.append((f"--cohort {args.cohort}", lambda: one_cohort(args.cohort, args.model)))
    if args.config:
        checks.append((f"--config {args.config[0]}", lambda: training_run(args.config)))
    if not checks:
        checks = [("environment", environment)]
        checks += [(f"bundled model {name}", partial(bundled, name)) for name in BUNDLED]
    counts = {"ok": 0, "warn": 0, "FAIL": 0}
    for name, check in checks:
        for finding in checked(name, check):
            print(finding, flush=True)
            counts[finding.status] += 1
    print(f"{counts['ok']} ok, {counts['warn']} warnings, {counts['FAIL']} failures")
    return 1 if counts["FAIL"] else 0
