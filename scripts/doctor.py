"""Look at everything that a run stands on, and say what is wrong and what to do: one line a finding.

    python scripts/doctor.py                                        the environment, the bundled model and slide
    python scripts/doctor.py --cohort data/mine                     every checksum and value of a prepared cohort
    python scripts/doctor.py --model runs/NAME                      a run's checkpoints and weights, or a weights file
    python scripts/doctor.py --base configs/zoomldm_brca.yaml       memory, disk and data of a training run

Exit status: 0 nothing fails, warnings or not; 1 something fails; 2 wrong arguments.
"""

import argparse
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    from ldm.doctor.environment import accelerators, openslide, packages, python, room
    from ldm.doctor.finding import Finding, checked
    from ldm.errors import UserError, cli
    from ldm.support.arguments import Parser
except ImportError as error:
    told = f"{error.name} cannot be imported by {sys.executable}, Python {platform.python_version()}"
    sys.exit(f"FAIL  {told}; in an environment with Python 3.11 or later, pip install -e .")

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def environment() -> Iterator[Finding]:
    yield from checked("Python", lambda: python(PYPROJECT))
    yield from checked("packages", lambda: packages(PYPROJECT))
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


def bundled() -> Iterator[Finding]:
    from ldm.data.h5 import SlideFile
    from ldm.doctor.cohort_check import examine
    from ldm.doctor.finding import ok
    from ldm.doctor.weights_check import file, model
    from ldm.encoders.demo_encoder import DEMO_WEIGHTS
    from ldm.hub import BUNDLED

    yield from model("demo")
    yield file(DEMO_WEIGHTS)
    slide = SlideFile(BUNDLED / "slide.h5")
    examine(slide)
    yield ok(f"{slide.path}: every checksum right, all values finite")


def one_model(source: str) -> Iterator[Finding]:
    from ldm.doctor.weights_check import model

    yield from bundled() if source == "demo" else model(source)


def one_cohort(folder: Path, source: str | None) -> Iterator[Finding]:
    from ldm.doctor.cohort_check import cohort
    from ldm.doctor.weights_check import wanted_by

    yield from cohort(folder, None if source is None else wanted_by(source))


def training_run(base: list[str]) -> Iterator[Finding]:
    from ldm.config.objects import load_config
    from ldm.doctor.needs import needs

    files = [item for item in base if "=" not in item]
    yield from needs(load_config(files, [item for item in base if "=" in item]))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, metavar="FOLDER", help="prepared slides; all of them are read")
    parser.add_argument(
        "--model", metavar="demo | RUN | WEIGHTS | ORG/NAME", help="a model, as the other scripts take it"
    )
    parser.add_argument("--base", nargs="+", metavar="YAML", help="config files of main.py; then key=value overrides")
    args = parser.parse_args(argv)
    if args.cohort and not args.cohort.is_dir():
        raise UserError(f"--cohort: {args.cohort} is no folder; give one that data_prep/prepare.py wrote")
    if args.base and all("=" in item for item in args.base):
        raise UserError("--base: no config file among the arguments; name one, for example configs/demo/zoomldm.yaml")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    checks = []
    if args.model:
        checks.append((f"--model {args.model}", lambda: one_model(args.model)))
    if args.cohort:
        checks.append((f"--cohort {args.cohort}", lambda: one_cohort(args.cohort, args.model)))
    if args.base:
        checks.append((f"--base {args.base[0]}", lambda: training_run(args.base)))
    if not checks:
        checks = [("environment", environment), ("bundled model", bundled)]
    counts = {"ok": 0, "warn": 0, "FAIL": 0}
    for name, check in checks:
        for finding in checked(name, check):
            print(finding, flush=True)
            counts[finding.status] += 1
    print(f"{counts['ok']} ok, {counts['warn']} warnings, {counts['FAIL']} failures")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    cli(main)
