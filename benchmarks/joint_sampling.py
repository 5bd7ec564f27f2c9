"""Joint sampling compared: independent tiles, interpolated embeddings, the paper, the released sampler, ours.

    python -m benchmarks.joint_sampling --canvas true
    python -m benchmarks.joint_sampling --model satellite --rows default exact

Every row samples eight places of four slides that no network was trained on: of each slide the place with most gradient
energy (in tissue: the densest) and the one in the middle of that order. Cells are means and standard deviations over
the places. Seams are measured between tiles and where the windows of the last step begin; the stronger ones count, in
the image and, as the stronger of two is above 1 by chance, in the real one at the same lines. With
`--canvas true` the real coarse image is the coarse canvas, so that only the constraint is compared.
A table goes to --out, a picture beside it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from benchmarks.hardware import device_name
from data_prep.slides.slide import Plane, open_slide
from ldm.demo.world import generate
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError, cli
from ldm.evaluation.experiments.large_images import figures
from ldm.evaluation.experiments.operations import counted, full_size, full_size_pflop, worth
from ldm.evaluation.metrics.seams import cell_pattern, gradient_energy, seam_strength
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import TokenMap, image_tokens
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, Settings
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, output_folder, positive_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import atomic_write
from ldm.support.precision import add_precision, announce

SLIDES, SEED, SLIDE_PX, SHOWN_PX = 4, 500, 4096, 512


class PresetRow(NamedTuple):
    """A preset, and positions of its scales in the model's ladder."""

    scales: tuple[int, ...]
    settings: Settings


ROWS = {
    "independent tiles": PresetRow((0, 2), PRESETS["independent"]),
    "interpolated embeddings": PresetRow((0, 2), PRESETS["interpolated"]),
    "default": PresetRow((0, 2), PRESETS["default"]),
    "exact": PresetRow((0, 2), PRESETS["exact"]),
    "default, chain": PresetRow((0, 2, 4), PRESETS["default"]),
    "exact, chain": PresetRow((0, 2, 4), PRESETS["exact"]),
    "default, factor 16": PresetRow((0, 4), PRESETS["default"]),
    "exact, factor 16": PresetRow((0, 4), PRESETS["exact"]),
    "paper": PresetRow((0, 2), replace(PRESETS["paper"], seam="none")),
    "paper, repaired": PresetRow((0, 2), PRESETS["paper"]),
    "published": PresetRow((0, 2), replace(PRESETS["published"], seam="none")),
    "published, repaired": PresetRow((0, 2), PRESETS["published"]),
}
COLUMNS = {
    "before": "error before the pixel step",
    "after": "error after it",
    "seam strength": "seam strength",
    "real seams": "of the real image there",
    "gradient energy": "gradient energy",
    "spectral distance": "spectral distance",
    "pattern": "cell pattern",
    "unet": "U-Net",
    "decoder": "decoder",
    "encoder": "encoder",
    "pflop": "PFLOP at full size",
    "seconds": "CPU s",
}
"""measures, and their names in the table; evaluations are per tile of the finest canvas"""


@dataclass(frozen=True)
class RealPlace:
    """A piece of a drawn slide, and the embeddings (d, R, C) of its base tiles."""

    pixels: Pixels
    tokens: torch.Tensor


def real_places(model: ZoomLDM, name: str, size: int, count: int, folder: Path) -> Iterator[RealPlace]:
    """`count` places of `size` pixels a side: of each drawn slide the two of the docstring above, in turn."""
    embed = load_encoder(model.encoder)
    for path in generate(folder, -(-count // 2), SEED, BUNDLED[name].kind, SLIDE_PX):
        slide = open_slide(path, BUNDLED[name].kind)
        plane = Plane(slide, slide.mpp)
        corners = [(y, x) for y in range(0, SLIDE_PX - size + 1, size) for x in range(0, SLIDE_PX - size + 1, size)]
        pieces = [plane.read(x, y, size, size) for y, x in corners]
        order = np.argsort([gradient_energy(piece) for piece in pieces])
        for number in (order[-1], order[len(order) // 2])[: min(2, count)]:
            yield RealPlace(pieces[number], image_tokens(pieces[number], embed, model.tile_px))
        count -= 2


def sampled(
    row: PresetRow, model: ZoomLDM, place: RealPlace, seed: int, true_canvas: bool
) -> tuple[dict[str, Any], Pixels]:
    """The measures of one image, and its pixels."""
    size, tiles = len(place.pixels), (len(place.pixels) // model.tile_px) ** 2
    scales = [model.ladder.names[number] for number in row.scales]
    factor = model.ladder[scales[-1]].downsample
    fixed = F.avg_pool2d(from_uint8(place.pixels[None]), factor)[0] if true_canvas else None
    joint = Joint(
        model=model,
        scales=scales,
        height=size,
        width=size,
        conditions=TokenMap(model, place.tokens),
        settings=row.settings,
        seed=seed,
        fixed=fixed,
    )
    started = time.process_time()
    with counted(model) as work:
        for _ in joint.run():
            pass
        image = torch.cat(list(joint.bands()), dim=1)
    found: dict[str, Any] = {"seconds": time.process_time() - started, "pflop": full_size_pflop(work)}
    for name, done, cost in zip(work._fields, work, full_size(), strict=True):
        found[name] = worth(done, cost) / tiles
    pixels = to_uint8(image[None])[0]
    factor = joint.chain.factor(joint.scales[1])
    coarse = joint.image(joint.scales[1])[:, : size // factor, : size // factor]
    found["before"] = float("nan") if joint.before is None else joint.before.rms
    found["after"] = (F.avg_pool2d(image[None], factor)[0] - coarse).square().mean().sqrt().item()
    found |= figures(pixels, None, place.pixels, model.tile_px) | {"pattern": cell_pattern(pixels)}
    found["seam strength"], found["real seams"] = (seams(x, joint) for x in (pixels, place.pixels))
    return found, pixels


def seams(image: Pixels, joint: Joint) -> float:
    """Seam strength of `image` at its tiles' borders or where windows of the last step begin, whichever is stronger."""
    lattice = joint.lattice(joint.scales[0])
    borders = ((joint.model.tile_px, (0, 0)), joint.borders(joint.scales[0]))
    return max(seam_strength(image, period, offset, lattice) for period, offset in borders)


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation in two or three digits; empty where nothing was measured."""
    if np.isnan(values).any():
        return ""
    digits = 3 if np.mean(values) < 0.2 else 2 if np.mean(values) < 20 else 0
    return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def line(name: str, measured: Sequence[dict[str, Any]]) -> str:
    """A row of the table."""
    cells = [cell([found.get(key, float("nan")) for found in measured]) for key in COLUMNS]
    return f"| {' | '.join([name, *cells])} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Compare ways of joint sampling; writes a table and a picture.")
    add = parser.add_argument
    add("--model", choices=list(BUNDLED), default="demo", help="a bundled one (%(default)s)")
    add("--size", type=positive_int, default=512, help="pixels a side (%(default)s)")
    add("--places", type=positive_int, default=2 * SLIDES, help="places, two a slide (%(default)s)")
    add("--rows", nargs="+", choices=list(ROWS), default=["default", "exact"], help="(%(default)s)")
    add("--steps", type=positive_int, help="instead of the presets'")
    add("--canvas", choices=("sampled", "true"), default="sampled", help="the coarse canvas (%(default)s)")
    add_precision(add)
    add("--data", type=output_folder, default="data/demo/benchmark", help="where the slides go (%(default)s)")
    add("--out", type=output_file, default="samples/joint_sampling.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load(args.model, precision=args.precision)
    announce(model.precision, model.device)
    rows = {name: row for name, row in ROWS.items() if name in args.rows}
    if args.steps:
        rows = {name: row._replace(settings=replace(row.settings, steps=args.steps)) for name, row in rows.items()}
    depth = max(row.scales[-1] for row in rows.values())
    if depth >= len(model.ladder):
        raise UserError(
            f"--rows: {', '.join(rows)}; {args.model} has {len(model.ladder)} scales, {depth + 1} are needed"
        )
    grain = max(model.tile_px, model.ladder[model.ladder.names[depth]].downsample)
    if args.size % grain or args.size > SLIDE_PX:
        raise UserError(f"--size: {args.size}; expected a multiple of {grain}, at most {SLIDE_PX}")
    places = list(real_places(model, args.model, args.size, args.places, args.data / BUNDLED[args.model].kind))
    real = [figures(x.pixels, None, x.pixels, model.tile_px) | {"pattern": cell_pattern(x.pixels)} for x in places]
    lines, shown = [line("real", real)], [[place.pixels[:SHOWN_PX, :SHOWN_PX] for place in places]]
    for name, row in rows.items():
        bar = tqdm(places, desc=name, unit="image")
        found = [sampled(row, model, place, seed, args.canvas == "true") for seed, place in enumerate(bar)]
        lines.append(line(name, [measured for measured, _ in found]))
        shown.append([pixels[:SHOWN_PX, :SHOWN_PX] for _, pixels in found])
        print(lines[-1], flush=True)
        contact_sheet(shown, ["real", *rows][: len(shown)], [""] * len(places), args.out.with_suffix(".png"))
        where = f"{device_name()}, {model.precision}"
        title = f"{args.model}, {args.size} px, {len(places)} places, {args.canvas} canvas; {where}"
        table = ["|".join(["", "", *COLUMNS.values(), ""]), "|---" * (len(COLUMNS) + 1) + "|", *lines]
        with atomic_write(args.out) as partial:
            partial.write_text(f"{title}\n\n" + "\n".join(table) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
