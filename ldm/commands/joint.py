"""Sample one large image, decode it in bands, measure and write it."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from ldm.commands.joint_files import canvas, canvas_name, write_canvases, writer_of
from ldm.commands.joint_origin import Origin, check_options, origin_of, painted
from ldm.commands.out_folder import out_folder, refuse_overwriting
from ldm.commands.paint import (
    FILES,
    layout_of,
    legend_picture,
    painting_of,
    picture,
    write_labels,
)
from ldm.commands.preview_note import tell_without_preview
from ldm.commands.real_pixels import Shrunk, gradient_share
from ldm.diffusion.samplers import check_levels
from ldm.errors import UserError, when_stopped
from ldm.evaluation.metrics.seams import seam_strength
from ldm.images.contact_sheet import Pixels, contact_sheet, fitted, save_png
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.cost import cost_of
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, Settings, adapted
from ldm.multiscale.saved_states import StateFile, sample, shown
from ldm.pipeline import ZoomLDM
from ldm.support.cache import Identity
from ldm.support.files import staged, write_text
from ldm.support.precision import announce
from ldm.support.processes import Processes, launch, take_all_threads
from ldm.view.result_page import PREVIEW, write_preview

PNG_PX = 4096
SHOWN_PX = 512
OUTPUTS = ("image.tiff", "image.png", "picture.png", PREVIEW, RECORD := "image.json")
"""files in --out, beside the canvases and labels"""


def settings_of(args: argparse.Namespace, model: ZoomLDM) -> Settings:
    """The preset, as `model` can follow it, with the changes of the command line."""
    keys = ("steps", "guidance", "guidance_interval", "seam")
    chosen = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if "guidance" in chosen:
        chosen["fine_guidance"] = None
    rule = {key: getattr(args, key) for key in ("inner", "weight", "tolerance") if getattr(args, key) is not None}
    preset = adapted(PRESETS[args.preset], model)
    return replace(preset, **chosen, rule=replace(preset.rule, **rule))


def write(joint: Joint, out: Path, origin: Origin) -> dict[str, Any]:
    """The image as a pyramid, as PNG where it is not too large, and a picture of all canvases; returns its figures."""
    coarse = joint.scales[min(1, len(joint.scales) - 1)]
    shrunk = Shrunk(joint.width, joint.chain.factor(coarse))
    bands = []
    write_canvases(joint, out, origin.place)
    with writer_of(joint, joint.scales[0], out / "image.tiff", origin.place) as writer:
        for band in shown(joint.bands(), joint.height, "decoding", lambda band: band.shape[1]):
            pixels = to_uint8(band[None])[0]
            writer.write(pixels)
            shrunk.add(pixels)
            if max(joint.height, joint.width) <= PNG_PX:
                bands.append(pixels)
    image = np.concatenate(bands) if bands else shrunk.image
    figures = constraint_errors(joint, shrunk.image, coarse)
    if bands:
        save_png(out / "image.png", image)
        figures |= texture_figures(joint, image, origin)
    write_picture(joint, image, origin, out / "picture.png")
    return figures


def constraint_errors(joint: Joint, shrunk: Pixels, coarse: str) -> dict[str, Any]:
    """Root mean square of the image's means `shrunk` less the canvas at `coarse`, in [-1, 1]."""
    if len(joint.scales) == 1:
        return {}
    before = {} if joint.before is None else {"constraint_error_before_pixels": joint.before.rms}
    gap = (shrunk.astype(np.float32) - canvas(joint, coarse)) / 127.5
    return {**before, "constraint_error": float(np.sqrt(np.square(gap).mean()))}


def texture_figures(joint: Joint, image: Pixels, origin: Origin) -> dict[str, Any]:
    """Gradient energy over the real image's, where there is one; seam strength of canvases with borders of tiles."""
    figures: dict[str, Any] = {}
    if origin.real and (share := gradient_share(image, origin.real())) is not None:
        figures["gradient_energy"] = share
    for scale in joint.scales:
        pixels = image if scale == joint.scales[0] else canvas(joint, scale)
        period, offset = joint.borders(scale)
        if max(pixels.shape[:2]) > period:
            figures[f"seam_strength_{scale}"] = seam_strength(pixels, period, offset, joint.lattice(scale))
    return figures


def write_picture(joint: Joint, image: Pixels, origin: Origin, path: Path) -> None:
    """The layout, all canvases, the image, and the middle of it at 100 %."""
    side = joint.model.tile_px
    middle = tuple(slice(max(0, length // 2 - side), length // 2 + side) for length in image.shape[:2])
    pictures: dict[str, Pixels] = {}
    if origin.painting:
        painted = origin.painting.layout, origin.painting.palette, SHOWN_PX
        pictures |= {"layout": picture(*painted), "classes": legend_picture(*painted)}
    pictures |= {f"canvas at {scale}": canvas(joint, scale) for scale in reversed(joint.scales[1:])}
    pictures[f"image at {joint.scales[0]}"] = image
    if image[middle].shape != image.shape:
        pictures["2x2 tiles of it"] = image[middle]
    contact_sheet([[fitted(of, SHOWN_PX) for of in pictures.values()]], [""], list(pictures), path)


def identity_of(args: argparse.Namespace, joint: Joint, origin: Origin, fabric: Fabric) -> Identity:
    """Everything that the pixels depend on; the distribution of the work changes only their last digits."""
    model = joint.model
    settings = {
        "scales": list(joint.scales),
        "size": [joint.width, joint.height],
        "from": args.origin
        if origin.make is None or origin.slow
        else "picture"
        if "picture" in origin.inputs
        else origin.kind,
        "seed": args.seed,
        **model.arithmetic,
        "processes": fabric.world_size,
        "batch_size": args.batch_size,
        **origin.settings,
        "sampling": asdict(joint.settings),
    }
    return Identity("joint sampling", {**model.weights, **origin.weights}, origin.inputs, settings)


def loaded(args: argparse.Namespace, fabric: Fabric) -> ZoomLDM:
    """The model of the command line; sets --out, and refuses to overwrite what was given."""
    model = ZoomLDM.load(
        args.model,
        cdm=args.cdm,
        preview=args.preview,
        device=fabric.device,
        precision=args.precision,
        compile=args.compile,
    )
    args.out = out_folder(args, "samples/joint", model)
    check_levels(args.guidance_interval, model.alpha_bar)
    legend = args.layout and args.layout.with_suffix(".csv")
    given = [Path(path) for path in (args.origin, args.layout, legend, args.palette) if path]
    refuse_overwriting(given, args.out, [*OUTPUTS, *FILES, *map(canvas_name, model.ladder.names)])
    if fabric.is_global_zero:
        announce(model.precision, model.device)
        tell_without_preview(args.preset, model)
    return model


def joint_of(
    args: argparse.Namespace, model: ZoomLDM, scales: Sequence[str], size: tuple[int, int], processes: Processes
) -> Joint:
    """The sampling of `size` (height, width), without conditions. UserError for a size that is too small."""
    joint = Joint(
        model=model,
        scales=scales,
        height=size[0],
        width=size[1],
        conditions=Unconditional(model),
        settings=settings_of(args, model),
        seed=args.seed,
        batch_size=args.batch_size,
        processes=processes,
    )
    least = max(2, joint.chain.factor(joint.scales[min(1, len(scales) - 1)]))
    if min(size) < least:
        raise UserError(
            f"--size: {size[1]}x{size[0]}; expected at least {least} px, of which the coarser canvas shows one"
        )
    return joint


@when_stopped("the same command continues from what was saved")
def run(args: argparse.Namespace) -> None:
    check_options(args)
    regions = layout_of(args)
    fabric, processes = launch(args.devices, args.nodes, args.accelerator)
    first, started = fabric.global_rank == 0, time.monotonic()
    model = loaded(args, fabric)
    scales = args.scales or model.ladder.fourfold
    zoom = min((model.ladder[name] for name in scales), key=lambda scale: scale.index)
    painting = painting_of(args, regions, model, zoom.name)
    size = (painting.layout.height, painting.layout.width) if painting else args.pixels
    joint = joint_of(args, model, scales, size, processes)
    cost = cost_of(joint)
    cost.check(f"--size: {size[1]}x{size[0]}", args.out, model.device)
    origin = painted(args, painting, zoom.downsample) if painting else origin_of(args, model, scales, size)
    file = StateFile(args.out, identity_of(args, joint, origin, fabric))
    if first:
        for note in file.notes():
            print(note)
    joint.conditions = origin.conditions(model, file, first)
    if first:
        print(cost.told())
    errors = sample(joint, file, "sampling", first, alone=fabric.world_size == 1)
    if not first:
        return
    take_all_threads(fabric)
    sampling_seconds = time.monotonic() - started
    with staged(args.out, [*map(canvas_name, model.ladder.names), *FILES, *OUTPUTS]) as stage:
        figures = write(joint, stage, origin)
        figures |= {"seconds": round(time.monotonic() - started, 1), "seconds_sampling": round(sampling_seconds, 1)}
        write_labels(stage, painting, PNG_PX)
        given = {"origin": str(args.layout or args.origin), "place": args.place}
        record = {**given, **asdict(file.identity), **figures, "errors": errors}
        write_text(stage / RECORD, json.dumps(record, indent=2) + "\n")
    write_preview(args.out)
    file.remove()
    print(*(f"{name} {value:.4g}" for name, value in figures.items()), sep="   ")
    print(args.out / "picture.png", args.out / "image.tiff", sep="\n")
