"""Sample patches at every scale: PNGs and one contact sheet, real patches beside generated ones.

Without arguments, the bundled demo model paints under the conditions of the bundled held-out slide.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ldm.arguments import non_negative, positive_int, seed_int
from ldm.data.h5 import SlideFile
from ldm.errors import UserError, cli
from ldm.io import Pixels, contact_sheet, save_png
from ldm.pipeline import ZoomLDM
from ldm.precision import add_precision, announce
from ldm.sampling.samplers import DEFAULT_SAMPLER, SAMPLERS
from ldm.slides import has_pictures, matching_slide, pictures
from ldm.sources import BUNDLED

GOLDEN_RATIO = (5**0.5 - 1) / 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Sample patches at every scale of a model.",
        epilog="example: python scripts/sample_patches.py --scale 5x --count 8 --seed 3",
    )
    parser.add_argument("--model", default="demo", help="demo (the default), a run folder or a published weights file")
    parser.add_argument("--cdm", help="the model's CDM, named likewise; the demo model brings its own")
    parser.add_argument("--from", dest="origin", metavar="cdm|SLIDE.h5", help="conditions; default: the bundled slide")
    parser.add_argument("--scale", nargs="+", metavar="NAME", help="scales to sample; default: all")
    parser.add_argument("--count", type=positive_int, default=4, help="patches a scale (%(default)s)")
    parser.add_argument("--guidance", type=non_negative, default=2.0, help="1 is none (%(default)s)")
    parser.add_argument("--steps", type=positive_int, help="default: 20 of dpmpp, 100 of ddim")
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER, help="(%(default)s)")
    parser.add_argument("--seed", type=seed_int, default=0, help="patch i depends on seed + i alone (%(default)s)")
    add_precision(parser.add_argument)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("samples/patches"), help="folder of the pictures (%(default)s)"
    )
    return parser.parse_args(argv)


def origin_of(args: argparse.Namespace, model: ZoomLDM) -> SlideFile | None:
    """The slide that conditions come from, or None for the CDM. UserError when slide and model do not match."""
    origin = args.origin or (BUNDLED / "slide.h5" if args.model == "demo" else "cdm" if args.cdm else None)
    if origin is None:
        raise UserError(f"--from: no conditions for {args.model}; give --from SLIDE.h5 or --cdm RUN")
    if str(origin) == "cdm":
        return None
    return matching_slide(origin, model)


def regions(slide: SlideFile, scale: str, count: int, seed: int, model: ZoomLDM) -> tuple[list[Tensor], list[Pixels]]:
    """Embedding grids and, where the slide has them, pictures of `count` regions, spread over the slide.

    Region i depends on seed + i alone.
    """
    total = slide.count(scale) if scale in slide.ladder.names else 0
    if total == 0:
        raise UserError(f"{slide.path}: has no region at {scale}; choose other scales or another slide")
    rows = [int((seed + i) * GOLDEN_RATIO % 1 * total) for i in range(count)]
    grids = [slide.embedding(scale, row) for row in rows]
    return grids, pictures(slide, scale, rows, model) if has_pictures(slide, scale, model) else []


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    model = ZoomLDM.load(args.model, cdm=args.cdm, device=args.device, precision=args.precision)
    slide = origin_of(args, model)
    scales = [model.ladder[name].name for name in args.scale or model.ladder.names]
    announce(model.precision, model.device)
    rows: list[list[Pixels]] = []
    for scale in tqdm(scales, unit="scale"):
        grids, real = regions(slide, scale, args.count, args.seed, model) if slide else (None, [])
        images = model.sample(
            scale,
            args.count,
            grids,
            guidance=args.guidance,
            steps=args.steps,
            sampler=args.sampler,
            seed=args.seed,
            progress=True,
        )
        for i, image in enumerate(images):
            save_png(args.out / f"{scale}_{args.seed + i}.png", image)
        pairs = zip(real, images, strict=True) if real else zip(images, strict=True)
        rows.append([picture for pair in pairs for picture in pair])
    sheet = args.out / "contact_sheet.png"
    contact_sheet(rows, scales, (["real", "sampled"] if real else ["sampled"]) * args.count, sheet)
    if slide and not real:
        print(f"{slide.path}: has neither images nor latents of this model's autoencoder: no real patches are shown")
    print(sheet)


if __name__ == "__main__":
    cli(main)
