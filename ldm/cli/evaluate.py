"""Measure a model: patches of every scale, large images, super-resolution, memorisation; or anyone's images: passport.

Without arguments each command measures the bundled demo model, or --model satellite, on held-out slides of the demo
world, in the feature space of the model's own encoder: minutes on a laptop. Running the same command again continues an
interrupted one.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ldm.cli.options import (
    Add,
    add_batch_size,
    add_cdm,
    add_compile,
    add_machines,
    add_model,
    add_model_out,
    add_patch_sampling,
    add_scales,
    add_seed,
    check_guidance,
)
from ldm.evaluation.experiments.names import LARGE, SUPERRES
from ldm.support.arguments import Parser, device, integer, output_folder, positive_int
from ldm.support.typed import typed

COUNTS = {"patches": 128, "large": 16, "superres": 8, "memorization": 64}
"""images of each method"""
PASSPORT = "any folder of generated images against one of real ones: distances, copies, leaks, file formats"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("evaluate", description="Measure a model.", example="patches --scales 5x --count 512")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about, options in (
        (
            "patches",
            "patches at every scale: Frechet distance, KID, precision, recall and more",
            (_slides, add_patch_sampling, _patches),
        ),
        ("large", "large images: whole, in crops, constraint, seams, texture", (_pictures, _large)),
        ("superres", "super-resolution against the truth", (_pictures, _superres)),
        ("memorization", "whether samples are copies of training images", (_slides, add_patch_sampling, _memorization)),
    ):
        command = commands.add_parser(name, help=about, description=f"Measure {about}.")
        for add in (_common, *options):
            add(command.add_argument)
        command.set_defaults(count=COUNTS[name])
    _passport(commands.add_parser("passport", help=PASSPORT, description=f"Measure {PASSPORT}.").add_argument)
    return check_guidance(parser.parse_args(argv))


def _passport(add: Add) -> None:
    add(
        "--real",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="real images; subfolders are labels, or train and test",
    )
    add("--generated", type=Path, required=True, metavar="FOLDER", help="generated images, in the same subfolders")
    add("--train", type=Path, metavar="FOLDER", help="real images that the generator was trained on; --real was not")
    add("--space", default="demo", metavar="NAME", help="feature space: demo, inception, dinov2-l ... (%(default)s)")
    add("--weights", nargs="+", default=[], metavar="NAME=PATH", help="local files of its weights")
    add("--count", type=integer(2), default=2000, help="at most so many images of each folder (%(default)s)")
    add_seed(add, "which images are taken where there are more")
    add_batch_size(add, "images")
    add("--device", type=device, default="auto", help="auto: cuda where there is a card, else cpu (%(default)s)")
    add("--out", type=output_folder, default="results/passport", help="folder of page and JSON (%(default)s)")


def _common(add: Add) -> None:
    add_model(add)
    add("--space", nargs="+", metavar="NAME", help="feature spaces: demo, inception, clip, uni, a timm model ...")
    add(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="local files of their weights (superres: also lpips)",
    )
    add("--count", type=positive_int, help="images of each method (%(default)s)")
    add_seed(add, "image i depends on seed + i")
    add_batch_size(add, "images")
    add_machines(add, "images")
    add_compile(add)
    add_model_out(add, "results", "folder of tables, pictures and images")


def _slides(add: Add) -> None:
    add_cdm(add)
    add("--real", type=Path, metavar="COHORT|FOLDER", help="prepared slides, held out (patches: or images, statistics)")
    add_scales(add, "scales to measure, separated by commas; default: all")


def _patches(add: Add) -> None:
    add("--generated", nargs="+", metavar="NAME=FOLDER", help="measure these images instead of sampling")
    add(
        "--statistics",
        type=output_folder,
        metavar="FOLDER",
        help="write statistics of the real images, to share or to use as --real",
    )


def _memorization(add: Add) -> None:
    add("--train", type=Path, metavar="COHORT", help="prepared slides that the model was trained on")


def _pictures(add: Add) -> None:
    add_scales(add, "finest and coarser ones; default: 20x,5x, of satellite models 1x,3x")
    add("--real", type=Path, metavar="FOLDER", help=f"real images at the finest scale ({typed('crops')} makes them)")


def _large(add: Add) -> None:
    add("--size", type=positive_int, default=512, help="of the demo's real images, in pixels (%(default)s)")
    usual = ["independent", "interpolated", "ours"]
    add("--methods", nargs="*", default=usual, choices=LARGE, help=f"({' '.join(usual)})")
    add("--generated", nargs="+", metavar="NAME=FOLDER", help="folders of other images, one row each")
    add("--crop-space", nargs="+", metavar="NAME", help="feature spaces for crops of a patch's size")


def _superres(add: Add) -> None:
    add("--size", type=positive_int, default=256, help="of the demo's real images, in pixels (%(default)s)")
    add("--methods", nargs="*", choices=SUPERRES, help="(all that there are)")
    add("--generated", nargs="+", metavar="NAME=FOLDER", help="folders of images named as the real ones, one row each")
    add("--superres-ldm", metavar="RUN", help="a run of configs/superres_baseline.yaml: a super-resolution LDM")
    add("--control", metavar="RUN", help="a run of configs/controlnet_sr.yaml; the demo model includes one")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    args.typed = f"{typed('evaluate')} {shlex.join(sys.argv[1:] if argv is None else argv)}"
    if args.command == "passport":
        from ldm.commands.passport import run as judge

        judge(args)
        return
    from ldm.commands.evaluate import run

    run(args)
