"""Enlarge images with a multi-scale model: 2x, 4x, 8x, 16x, as two of its scales lie apart.

Without arguments, a patch of the demo slide that no network saw is shrunk four times and enlarged again: before,
bicubic, ours and the truth stand side by side, with figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from data_prep.demo_world import generate
from data_prep.encoders import DEMO_WEIGHTS, DemoEncoder
from data_prep.slide import Plane, open_slide
from ldm.conditions import Conditions, TokenMap, Unconditional, matching_slide
from ldm.errors import UserError, cli
from ldm.evaluation.superres import encoder_distance, lpips, lpips_available, psnr, ssim
from ldm.files import whole
from ldm.io import contact_sheet, save_png
from ldm.pipeline import PRECISIONS, ZoomLDM, from_uint8, to_uint8
from ldm.sources import BUNDLED
from ldm.superres import CONSISTENT, Residual, SuperResolution, bicubic, inferred, magnification
from ldm.tiff import PyramidWriter

Pixels = NDArray[np.uint8]
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".tif": {"compression": "tiff_deflate"},
    ".tiff": {"compression": "tiff_deflate"},
}
"""what is written as it came; everything else becomes PNG"""
WHOLE_PX = 4096
"""a longer side makes a pyramid"""
UM = {"um": 1.0, "m": 1e6}
DEMO_SEED, DEMO_PX, DEMO_PLACE = 100, 4096, (12, 16)
"""the bundled slide and a base tile (row, col) of it"""
DEMO_SIDE_PX = 512


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Enlarge images with a multi-scale model.",
        epilog="example: python scripts/superres.py photos/ --scales 20x,5x --condition inferred --out photos4x",
    )
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE|FOLDER", help="at the coarsest of --scales; default: the demo")
    add("--out", type=Path, default=Path("samples/superres"), help="folder (%(default)s)")
    add("--model", default="demo", help="demo (the default), a run folder or a published weights file")
    add("--scales", help="finest and coarser ones; their ratio is the enlargement (20x,5x; satellite: 1x,3x)")
    add("--method", choices=("zoomldm", "bicubic"), default="zoomldm", help="(%(default)s)")
    add("--condition", choices=("none", "given", "inferred"), help="default: given with --from, inferred without")
    add("--from", dest="slide", metavar="SLIDE.h5", help="prepared slide that the image is a part of")
    add("--place", metavar="ROW,COL", help="the base tile of that slide in the image's upper left corner (0,0)")
    add("--truth", type=Path, metavar="IMAGE|FOLDER", help="what the result should be, to score it; same names")
    add("--no-consistency", action="store_true", help="leave the last correction out")
    add("--steps", type=int, default=CONSISTENT.steps, help="denoising steps (%(default)s)")
    add("--guidance", type=float, default=CONSISTENT.guidance, help="1 is none (%(default)s)")
    add("--tile-batch", type=int, default=16, help="tiles at a time (%(default)s)")
    add("--precision", choices=PRECISIONS, default="fp32", help="of the networks (%(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Picture:
    """An image to enlarge, pixels (h, w, 3), its colour profile, and what it should become, where that is known."""

    name: str
    pixels: Pixels
    profile: bytes | None = None
    truth: Pixels | None = None


def read(path: Path) -> Picture:
    """Any image that Pillow reads, upright, transparent parts on white. UserError for others, and for 16 bits."""
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise UserError(f"{path}: pixels are of mode {file.mode}; expected 8 bits a channel, so convert it")
            profile = file.info.get("icc_profile") if file.mode[:3] == "RGB" else None
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error
    white = Image.new("RGBA", image.size, "white")
    return Picture(path.name, np.asarray(Image.alpha_composite(white, image).convert("RGB")), profile)


def load(path: Path, truth: Path | None) -> Picture:
    """An image with its truth."""
    picture = read(path)
    return picture if truth is None else replace(picture, truth=read(truth).pixels)


def listed(given: Sequence[Path]) -> list[Path]:
    """The images among `given`, those of folders by name. UserError where there are none, or two of one name."""
    readable = Image.registered_extensions()
    paths: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in readable and file.is_file())
        if not inside:
            raise UserError(f"{path}: holds no image; expected PNG, JPEG, TIFF or another format that Pillow reads")
        paths += inside
    names = [path.stem for path in paths]
    twice = [path for path in paths if names.count(path.stem) > 1]
    if twice:
        raise UserError(
            f"{twice[0]}: {len(twice)} images share its name; give them one by one, each with its own --out"
        )
    return paths


def truths(args: argparse.Namespace, pictures: Sequence[Path]) -> dict[Path, Path]:
    """Which file of --truth belongs to which image. UserError for an image without one."""
    if args.truth is None:
        return {}
    if not args.truth.is_dir():
        if len(pictures) > 1:
            raise UserError(f"--truth: one image for {len(pictures)}; expected a folder with files of the same names")
        return {pictures[0]: args.truth}
    by_stem = {path.stem: path for path in listed([args.truth])}
    lacking = [path for path in pictures if path.stem not in by_stem]
    if lacking:
        raise UserError(f"--truth: {args.truth} holds nothing named {lacking[0].stem}; expected a file for every image")
    return {path: by_stem[path.stem] for path in pictures}


def demo(args: argparse.Namespace) -> Picture:
    """A patch of the held-out demo slide at 20x, and the same four times smaller; sets where its conditions are."""
    if args.model != "demo" or args.scales != ["20x", "5x"]:
        raise UserError("images: none given; only the demo model at 20x,5x brings its own")
    (path,) = generate(Path("data/demo/slides"), 1, DEMO_SEED, "histology", DEMO_PX)
    plane = Plane(open_slide(path, "histology"), 0.5)
    row, col = DEMO_PLACE
    truth = plane.read(col * 128, row * 128, DEMO_SIDE_PX, DEMO_SIDE_PX)
    means = reduce(truth.astype(np.float32), "(h a) (w b) c -> h w c", "mean", a=4, b=4)
    if args.condition in (None, "given"):
        args.slide, args.place = args.slide or str(BUNDLED / "slide.h5"), args.place or f"{row},{col}"
    return Picture("demo.png", means.round().astype(np.uint8), truth=truth)


def conditions_of(args: argparse.Namespace, model: ZoomLDM, y: Pixels) -> Conditions:
    """As --condition says. UserError where the slide does not hold them."""
    condition = args.condition or ("given" if args.slide else "inferred")
    if condition == "none":
        return Unconditional(model)
    if condition == "inferred":
        return inferred(model, y, args.scales, seed=args.seed, batch_size=args.tile_batch, progress=True)
    if args.slide is None:
        raise UserError("--condition: given, but no slide; give --from SLIDE.h5 and --place ROW,COL")
    numbers = (args.place or "0,0").split(",")
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        raise UserError(f"--place: {args.place}; expected the row and column of a base tile, for example 12,16")
    slide = matching_slide(args.slide, model)
    per_pixel = max(model.ladder[name].downsample for name in args.scales)
    place = [int(number) for number in numbers]
    lengths = [
        min(-(-length * per_pixel // model.tile_px), limit - first)
        for length, limit, first in zip(y.shape[:2], slide.grid, place, strict=True)
    ]
    return TokenMap(model, slide.tokens(0, *place, *lengths))


def write(
    path: Path, bands: Iterator[Pixels], size: tuple[int, int], profile: bytes | None, mpp: float
) -> Pixels | None:
    """Write an image of `size` (h, w) in the format that the name of `path` asks for, and return it.

    None for a large one: it becomes a pyramid, and is never in memory.
    """
    if max(size) > WHOLE_PX:
        with PyramidWriter(path, *size, mpp) as writer:
            for band in bands:
                writer.write(band)
        return None
    image = np.concatenate(list(bands))
    suffix = path.suffix.lower()
    with whole(path) as partial:
        name = Image.registered_extensions()[suffix]
        Image.fromarray(image).save(partial, format=name, icc_profile=profile, **FORMATS[suffix])
    return image


def target(out: Path, name: str, size: tuple[int, int]) -> Path:
    """Where an enlarged image of `size` (h, w) goes."""
    path = out / name
    if max(size) > WHOLE_PX:
        return path.with_suffix(".tiff")
    return path if path.suffix.lower() in FORMATS else path.with_suffix(".png")


def enlarge(args: argparse.Namespace, model: ZoomLDM, picture: Picture) -> dict[str, Any]:
    """Enlarge one picture, write it, score it; returns the figures."""
    started = time.monotonic()
    factor = magnification(model, args.scales)
    size = factor * picture.pixels.shape[0], factor * picture.pixels.shape[1]
    if picture.truth is not None and (picture.truth.shape[:2] != size or max(size) > WHOLE_PX):
        height, width = picture.truth.shape[:2]
        expected = f"{size[1]}x{size[0]}, and no side above {WHOLE_PX}"
        raise UserError(f"{picture.name}: its truth is {width}x{height} px; expected {expected}")
    path = target(args.out, picture.name, size)
    finest = min(model.ladder[name].downsample for name in args.scales)
    mpp = model.ladder.base_mpp * finest * UM[model.ladder.unit]
    figures: dict[str, Any] = {"image": str(path), "width": size[1], "height": size[0]}
    if args.method == "bicubic":
        image = write(path, iter([bicubic(picture.pixels, factor)]), size, picture.profile, mpp)
    else:
        sampling = SuperResolution(
            model,
            picture.pixels,
            args.scales,
            conditions_of(args, model, picture.pixels),
            settings=replace(
                CONSISTENT,
                steps=args.steps,
                guidance=args.guidance,
                rounds=0 if args.no_consistency else CONSISTENT.rounds,
            ),
            seed=args.seed,
            batch_size=args.tile_batch,
        )
        with tqdm(total=sampling.joint.steps, unit="step", desc=picture.name, leave=False) as bar:
            for _ in sampling.run():
                bar.update()
        image = write(path, sampling.bands(), size, picture.profile, mpp)
        figures |= {"residual_before": sampling.before.rms, "residual": sampling.after.rms}
    figures["seconds"] = round(time.monotonic() - started, 1)
    if picture.truth is not None and image is not None:
        images = {"bicubic": bicubic(picture.pixels, factor), args.method: image}
        figures["scores"] = {name: scores(shown, picture.pixels, picture.truth) for name, shown in images.items()}
        shown = {"before": picture.pixels, **images, "truth": picture.truth}
        contact_sheet([list(shown.values())], [""], list(shown), path.with_name(f"{path.stem}.comparison.png"))
    return figures


def scores(image: Pixels, y: Pixels, truth: Pixels) -> dict[str, float | None]:
    """How near `image` is to the truth, and its means to y."""
    encoder = DemoEncoder.load(DEMO_WEIGHTS, "cpu")
    residual = Residual(from_uint8(y[None])[0], len(image) // len(y))
    residual.add(from_uint8(image[None])[0])
    pair = image[None], truth[None]
    return {
        "PSNR": float(psnr(*pair)[0]),
        "SSIM": float(ssim(*pair)[0]),
        "LPIPS": float(lpips(*pair)[0]) if lpips_available() else None,
        "encoder": float(encoder_distance(lambda images: encoder.backbone(from_uint8(images.numpy())), *pair)[0]),
        "|Ax-y|": residual.rms,
    }


def report(figures: dict[str, Any]) -> None:
    """One line, and a table where there was a truth."""
    line = f"{figures['image']}   {figures['width']}x{figures['height']}   {figures['seconds']} s"
    if "residual" in figures:
        line += f"   |Ax-y| {figures['residual_before']:.4f} -> {figures['residual']:.4f}"
    print(line)
    table = figures.get("scores", {})
    if table:
        print(" " * 10, *(f"{name:>8}" for name in next(iter(table.values()))))
    for name, row in table.items():
        print(f"{name:10}", *("       -" if value is None else f"{value:8.4g}" for value in row.values()))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    paths = listed(args.images)
    clash = [path for path in paths if path.parent.resolve() == args.out.resolve()]
    if clash:
        raise UserError(f"--out: {args.out} is where {clash[0].name} lies; expected another folder")
    model = ZoomLDM.load(args.model, device=args.device, precision=args.precision)
    names = model.ladder.names
    args.scales = args.scales.split(",") if args.scales else [names[0], names[min(2, len(names) - 1)]]
    truth = truths(args, paths)
    jobs = [partial(load, path, truth.get(path)) for path in paths] or [partial(demo, args)]
    done, failed = [], []
    for job in jobs:
        try:
            done.append(enlarge(args, model, job()))
            report(done[-1])
        except UserError as error:
            if len(jobs) == 1:
                raise
            failed.append(str(error))
    with whole(args.out / "superres.json") as partial_file:
        settings = {key: str(value) for key, value in vars(args).items() if key != "images"}
        partial_file.write_text(json.dumps({"settings": settings, "images": done, "failed": failed}, indent=2) + "\n")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    cli(main)
