"""Whether the spread of several super-resolutions is right: how many true pixels lie inside their interval, per scale.

    python -m benchmarks.superres_spread --samples 4 --images 4 --out benchmarks/superres_spread.md

Patches of demo slides that the bundled model never saw are shrunk four times and enlarged by `zoomldm superres
--samples`. One number, by which the spread is multiplied, is fitted to those of validation slides; the table is of
other slides. The same command continues where it was interrupted: samples are kept beside --out.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm.cli import superres
from ldm.demo.histology import histology_slide
from ldm.errors import cli
from ldm.evaluation.experiments.image_sets import picture_loader
from ldm.evaluation.tables import markdown
from ldm.images.contact_sheet import Pixels, save_png
from ldm.multiscale.posterior import LEVEL, Load, covered, needed, posterior, shrunk
from ldm.support.arguments import Parser, integer, output_file
from ldm.support.files import write_text

FIRST_SEED, SLIDE_PX, PATCH_PX = 400, 1024, 256
"""seeds of slides: neither for training nor the held-out ones of other tables"""
SCALES = {"20x": 1, "10x": 2, "5x": 4}


class Enlarged(NamedTuple):
    """Samples of one patch, and the truth."""

    samples: list[Load]
    truth: Pixels


def patches(folder: Path, count: int) -> None:
    """Write `count` truths, each from the middle of a slide of its own, and their small versions."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        if not (folder / f"small/{seed}.png").is_file():
            middle = slice((SLIDE_PX - PATCH_PX) // 2, (SLIDE_PX + PATCH_PX) // 2)
            truth = np.ascontiguousarray(histology_slide(seed, SLIDE_PX)[middle, middle])
            save_png(folder / f"truth/{seed}.png", truth)
            save_png(folder / f"small/{seed}.png", shrunk(truth, 4).round().astype(np.uint8))


def enlarged(folder: Path, samples: int, options: Sequence[str]) -> list[Enlarged]:
    """By the command itself."""
    given = [str(folder / "small"), "--truth", str(folder / "truth"), "--out", str(folder / "out")]
    superres.main([*given, "--samples", str(samples), *options])
    found = []
    for image in json.loads((folder / "out/superres.json").read_text())["images"]:
        files = map(Path, image["files_of_samples"])
        truth = folder / f"truth/{Path(image['image']).name}"
        found.append(Enlarged([picture_loader(file) for file in files], picture_loader(truth)()))
    return found


def row(name: str, images: Sequence[Enlarged], multiplier: float) -> list[str]:
    """Mean share over the images, with its standard error, at every scale."""
    cells = []
    for factor in SCALES.values():
        shares = [covered(posterior(one.samples, factor), one.truth, factor, multiplier) for one in images]
        cells.append(f"{np.mean(shares):.1%} ± {np.std(shares, ddof=1) / np.sqrt(len(shares)):.1%}")
    return [name, *cells]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=integer(2), default=8, help="of each image (%(default)s)")
    parser.add_argument("--images", type=integer(2), default=8, help="for validation, and as many for the table")
    parser.add_argument("--condition", choices=("none", "inferred"), default="inferred", help="(%(default)s)")
    parser.add_argument("--out", type=output_file, default="benchmarks/superres_spread.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    folder = args.out.with_suffix("")
    patches(folder, 2 * args.images)
    images = enlarged(folder, args.samples, ["--condition", args.condition, "--precision", "fp32"])
    validation, tested = images[: args.images], images[args.images :]
    multiplier = float(np.quantile(np.concatenate([needed(posterior(i.samples), i.truth) for i in validation]), LEVEL))
    rows = [row("as sampled", tested, 1.0), row(f"spread times {multiplier:.2f}", tested, multiplier)]
    spread = np.mean([posterior(one.samples).spread.mean() for one in tested])
    about = (
        f"{args.samples} samples of each of {args.images} images of {PATCH_PX} px, enlarged 4x from 5x to 20x, with "
        f"{args.condition} conditions. Share of true values inside their {LEVEL:.0%} interval ± standard error over "
        f"images; mean spread {spread:.1f} of 255. The multiplier is fitted at 20x to {args.images} other slides."
    )
    command = f"python -m benchmarks.superres_spread --samples {args.samples} --images {args.images}"
    text = f"# Spread of super-resolution\n\n    {command}\n\n{about}\n\n{markdown(['', *SCALES], rows)}\n"
    write_text(args.out, text)
    print(text)


if __name__ == "__main__":
    cli(main)
