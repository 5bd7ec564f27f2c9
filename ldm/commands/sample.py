"""Sample patches of every scale, with real patches beside them where a slide provides the conditions."""

import argparse

from torch import Tensor
from tqdm import tqdm

from ldm.commands.out_folder import out_folder
from ldm.data.h5 import SlideFile
from ldm.diffusion.defaults import SAMPLING
from ldm.diffusion.samplers import check_levels
from ldm.errors import UserError, when_stopped
from ldm.images.contact_sheet import Pixels, contact_sheet, save_png
from ldm.model_slides import has_pictures, matching_slide, pictures
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import check_inputs
from ldm.support.machines import available_memory
from ldm.support.precision import announce, chosen_device

BYTES_A_PIXEL = 6
"""of an image, and of its latents and conditions"""
GOLDEN_RATIO = (5**0.5 - 1) / 2


def origin_of(args: argparse.Namespace, model: ZoomLDM) -> SlideFile | None:
    """The slide that conditions come from, or None for the CDM. UserError when slide and model do not match."""
    bundled = BUNDLED.get(args.model)
    origin = args.origin or (bundled.slide if bundled else "cdm" if model.cdm else None)
    if origin is None:
        raise UserError(f"--from: no conditions for {args.model}; give --from SLIDE.h5 or --cdm RUN")
    if str(origin) == "cdm":
        if args.label is not None:
            model.cdm_needed.number_of(args.label)
        return None
    if args.label is not None:
        raise UserError(f"--label: {args.label[:80]} is for conditions of a CDM, not of {origin}; add --from cdm")
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


@when_stopped("the same command makes the pictures again")
def run(args: argparse.Namespace) -> None:
    """Sample, write one PNG per patch and the contact sheet, print its path. UserError for input that does not fit."""
    check_inputs({"--from": None if str(args.origin) == "cdm" else args.origin})
    model = ZoomLDM.load(
        args.model, cdm=args.cdm, device=chosen_device(args.device), precision=args.precision, compile=args.compile
    )
    args.out = out_folder(args, "samples/patches", model)
    args.sampler, args.steps = model.usual_sampling(args.sampler, args.steps)
    check_levels(args.guidance_interval, model.alpha_bar, args.sampler, args.steps)
    if (needed := BYTES_A_PIXEL * args.count * model.tile_px**2) > (free := available_memory()):
        raise UserError(
            f"--count: {args.count} images of a scale need about {needed / 1e9:,.0f} GB of memory, "
            f"{free / 1e9:,.0f} GB are free; choose fewer, and sample the next ones with --seed"
        )
    slide = origin_of(args, model)
    scales = [model.ladder[name].name for name in args.scales or model.ladder.names]
    announce(model.precision, model.device)
    rows: list[list[Pixels]] = []
    for scale in tqdm(scales, unit="scale"):
        grids, real = regions(slide, scale, args.count, args.seed, model) if slide else (None, [])
        images = model.sample(
            scale,
            args.count,
            grids,
            seed=args.seed,
            label=args.label,
            progress=True,
            **{key: getattr(args, key) for key in SAMPLING},
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
