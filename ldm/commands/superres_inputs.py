"""Which files super-resolution is given: options that belong to an image, and the truth of each."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ldm.commands.superres_layers import BESIDE
from ldm.errors import UserError
from ldm.images.pictures import listed


def check_given(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """UserError for options about an image where there is none, or several, a place without its slide, and images whose
    results would have the name of another's figures."""
    if args.slide and len(paths) > 1:
        raise UserError(f"--from: one place for {len(paths)} images; expected one image")
    stems = {path.stem for path in paths}
    for path in paths:
        for end in BESIDE:
            own = path.stem.removesuffix(Path(end).stem)
            if own != path.stem and own in stems:
                raise UserError(f"{path}: has the name of what is written beside the result of {own}; rename it")
    for option, value in (("--from", args.slide), ("--truth", args.truth)):
        if value and not paths:
            raise UserError(
                f"{option}: {value} belongs to an image, but none is given; name the image, or leave it out"
            )
    if args.place and not args.slide:
        raise UserError(f"--place: {args.place} names a base tile of a slide; give its --from, or leave it out")


def truths(args: argparse.Namespace, paths: Sequence[Path]) -> dict[Path, Path]:
    """Which file of --truth belongs to which image. UserError for an image without one."""
    if args.truth is None:
        return {}
    if not args.truth.is_dir():
        if len(paths) > 1:
            raise UserError(f"--truth: one image for {len(paths)}; expected a folder with files of the same names")
        return {paths[0]: args.truth}
    by_stem = {path.stem: path for path in listed([args.truth])}
    lacking = [path for path in paths if path.stem not in by_stem]
    if lacking:
        raise UserError(f"--truth: {args.truth} holds nothing named {lacking[0].stem}; expected a file for every image")
    return {path: by_stem[path.stem] for path in paths}
