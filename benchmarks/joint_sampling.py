"""Joint sampling compared: independent tiles, interpolated embeddings, the paper, the released sampler, ours.

    python benchmarks/joint_sampling.py --sizes 1024 4096 --out benchmarks/joint_sampling.md

The place is the middle of the held-out demo slide of seed 100; its embeddings are bundled, its pixels are drawn again.
Every row is made at every size unless its operations exceed `--most` PFLOP; operations depend on the number of tiles
alone, so such a row still shows them. A table goes to --out, pictures beside it.
"""

import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.slides.slide import Plane, open_slide
from ldm.demo.world import generate
from ldm.errors import cli
from ldm.evaluation.experiments.large_images import figures
from ldm.evaluation.experiments.operations import counted, full_size, full_size_pflop, worth
from ldm.evaluation.metrics.seams import cell_pattern
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.model_slides import matching_slide
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.constraint import OPERATORS, Shrink
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, Settings
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, output_folder, positive_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import atomic_write
from ldm.support.precision import add_precision, announce

Pixels = NDArray[np.uint8]
SEED, SLIDE_PX, SHOWN_PX = 100, 4096, 512
DEFAULT = PRESETS["default"]


class PresetRow(NamedTuple):
    """A preset and its name in the table."""

    name: str
    scales: tuple[str, ...]
    settings: Settings


ROWS = [
    PresetRow("independent tiles", ("20x", "5x"), PRESETS["independent"]),
    PresetRow("interpolated embeddings", ("20x", "5x"), PRESETS["interpolated"]),
    PresetRow("default", ("20x", "5x"), DEFAULT),
    PresetRow("default, chain", ("20x", "5x", "1.25x"), DEFAULT),
    PresetRow("paper", ("20x", "5x"), replace(PRESETS["paper"], seam="none")),
    PresetRow("paper, repaired", ("20x", "5x"), PRESETS["paper"]),
    PresetRow("published", ("20x", "5x"), replace(PRESETS["published"], seam="none")),
    PresetRow("published, repaired", ("20x", "5x"), PRESETS["published"]),
]


def real_place(size: int, folder: Path) -> tuple[Pixels, tuple[int, int]]:
    """The pixels (size, size, 3) in the middle of the held-out slide, and the first base tile (row, col) there."""
    (path,) = generate(folder, 1, SEED, "histology", SLIDE_PX)
    slide = open_slide(path, "histology")
    tile_px = 128
    first = (SLIDE_PX - size) // 2 // tile_px
    plane = Plane(slide, slide.mpp)
    return plane.read(first * tile_px, first * tile_px, size, size), (first, first)


def measured(image: Pixels, real: Pixels, tile_px: int) -> list[str]:
    """Cells: seam strength, gradient energy over the real one, distance of the power spectra, cell pattern."""
    found = figures(image, None, real, tile_px)
    cells = [f"{found['seam strength']:.3f}", f"{found['gradient energy']:.2f}", f"{found['spectral distance']:.2f}"]
    return [*cells, f"{cell_pattern(image):.2f}"]


def constraint_errors(joint: Joint, image: torch.Tensor) -> list[str]:
    """Root mean square of A x - y for both kinds of A."""
    shrink = [Shrink(joint.chain.factor(joint.scales[1]), kind) for kind in OPERATORS]
    y = joint.image(joint.scales[1])[:, : joint.height // shrink[0].factor, : joint.width // shrink[0].factor]
    return [f"{(a(image[None])[0] - y).square().mean().sqrt():.3f}" for a in shrink]


def run_row(row: PresetRow, model: ZoomLDM, real: Pixels, place: tuple[int, int]) -> tuple[list[str], Pixels, Pixels]:
    """Sample; the table's cells, the image and its coarser canvas."""
    size, tiles = len(real), (len(real) // model.tile_px) ** 2
    slide = matching_slide(BUNDLED["demo"].slide, model)
    rows, cols = (min(size // model.tile_px, length - at) for length, at in zip(slide.grid, place, strict=True))
    conditions = TokenMap(model, slide.tokens(0, *place, rows, cols))
    joint = Joint(model=model, scales=row.scales, height=size, width=size, conditions=conditions, settings=row.settings)
    started = time.process_time()
    with counted(model) as work:
        for _ in tqdm(joint.run(), total=joint.steps, desc=f"{row.name}, {size} px", unit="step"):
            pass
        image = torch.cat(list(joint.bands()), dim=1)
    seconds = time.process_time() - started
    pixels = to_uint8(image[None])[0]
    evaluations = "/".join(f"{worth(*pair) / tiles:.0f}" for pair in zip(work, full_size(), strict=True))
    before = "" if joint.before is None else f"{joint.before.rms:.3f}"
    cells = [row.name, before, *constraint_errors(joint, image), *measured(pixels, real, model.tile_px), evaluations]
    cells += [f"{full_size_pflop(work):.2f}", f"{seconds:.0f}"]
    return cells, pixels, to_uint8(joint.image(joint.scales[1])[None])[0]


HEADER = (
    "| | means, before the pixel step | error, means | error, cubic "
    "| seam strength | gradient energy | spectral distance | cell pattern "
    "| U-Net/decoder/encoder per tile | PFLOP at full size | CPU s, demo |\n|" + "---|" * 11
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Compare ways of joint sampling; writes a table and pictures.")
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[1024], help="pixels a side (%(default)s)")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="default: all")
    add_precision(parser.add_argument)
    parser.add_argument(
        "--data", type=output_folder, default="data/demo/held_out", help="where the slide goes (%(default)s)"
    )
    parser.add_argument("--out", type=output_file, default="benchmarks/joint_sampling.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load("demo", precision=args.precision)
    announce(model.precision, model.device)
    text = [f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {model.precision}"]
    for size in args.sizes:
        real, place = real_place(size, args.data)
        text += [f"\n## {size} x {size}\n", HEADER]
        seam, energy, distance, pattern = measured(real, real, model.tile_px)
        text.append(f"| real | | | | {seam} | {energy} | {distance} | {pattern} | | | |")
        shown = {"real": real[:SHOWN_PX, :SHOWN_PX]}
        for row in ROWS:
            if args.rows is None or row.name in args.rows:
                cells, image, _ = run_row(row, model, real, place)
                text.append(f"| {' | '.join(cells)} |")
                print(text[-1], flush=True)
                shown[row.name] = image[:SHOWN_PX, :SHOWN_PX]
                contact_sheet(
                    [list(shown.values())], [""], list(shown), args.out.with_name(f"{args.out.stem}_{size}.png")
                )
                with atomic_write(args.out) as partial:
                    partial.write_text("\n".join(text) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
