"""An endless slide measured: time, seams at the borders of chunks and of every lattice of windows, and memory.

    python -m benchmarks.endless
    python -m benchmarks.endless --only times       # the page: first pictures and screens, CPU seconds and the clock
    python -m benchmarks.endless --memory 500       # peak memory over as many chunks of a model without networks

Seam strength is the gradient across borders over that at like lines elsewhere. Like lines have the same place in the
patterns that networks leave everywhere, which are no seams: of the U-Net's lowest resolution, 32 px, at whose multiples
gradients are 7 % larger, and of the latents of coarser images, which are 16 and 64 px when enlarged. So it is measured
at slides that the demo world draws, at the same lines. Errors are standard errors over places and axes (jackknife).
"""

import resource
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.endless_page import timed
from benchmarks.fixtures.plain_model import PlainModel
from benchmarks.hardware import device_name
from ldm.demo.histology import histology_slide
from ldm.demo.satellite import satellite_scene
from ldm.endless import drawn_map
from ldm.endless.endless_world import World
from ldm.errors import cli
from ldm.evaluation.metrics.seams import line_gradients
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.multiscale.presets import PRESETS
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, positive_int, seed_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import write_text
from ldm.support.precision import add_precision, announce

CELL, LOWEST = 4, 32
"""pixels a side of a latent, and of a value at the lowest resolution of the bundled U-Nets"""
DRAWN_PX = 8192
"""side of a drawn slide"""
Sums = NDArray[np.float64]


class PlacedImage:
    """An image whose first pixel is at (top, left), by the gradients between its lines."""

    def __init__(self, image: Pixels, top: int, left: int) -> None:
        self.image, self.firsts, self.lines = image, (top, left), line_gradients(image)

    def sums(self, period: int, offset: int, alike: int) -> Sums:
        """(2 axes, (borders, elsewhere), (sum, count)) of lines `offset` + k `period`, and of those a multiple of
        `alike` away."""
        found = np.zeros((2, 2, 2))
        for axis, (first, lines) in enumerate(zip(self.firsts, self.lines, strict=True)):
            at = np.arange(len(lines)) + 1 + first - offset
            border = at % period == 0
            for kind, chosen in enumerate((border, (at % np.gcd(period, alike) == 0) & ~border)):
                found[axis, kind] = lines[chosen].sum(), chosen.sum()
        return found


def strength(places: Sequence[PlacedImage], period: int, offset: int, alike: int) -> tuple[float, float]:
    """Seam strength over all places, and its standard error."""
    parts = np.concatenate([place.sums(period, offset, alike) for place in places])  # (2 places, 2, 2)

    def ratio(sums: Sums) -> float:
        border, elsewhere = sums[:, 0] / sums[:, 1]
        return float(border / elsewhere)

    total, count = parts.sum(0), len(parts)
    without = np.array([ratio(total - part) for part in parts])
    return ratio(total), float(np.sqrt((count - 1) / count * np.square(without - without.mean()).sum()))


def borders(world: World, scale: str) -> Iterator[tuple[str, int, int]]:
    """Name, period and offset in pixels of each set of borders in the image of a scale."""
    pixels = world.model.downsample
    yield "chunks", world.chunk_px[scale], 0
    yield "patches", world.model.tile_px, 0
    for number, (_, lattice, _) in enumerate(world.planes[scale].groups, start=1):
        yield f"windows of group {number}", pixels * lattice.stride, pixels * lattice.offset
        if lattice.stride < lattice.side:
            yield f"their other ends, group {number}", pixels * lattice.stride, pixels * (lattice.offset + lattice.side)


@cache
def drawn(kind: str, seed: int) -> Pixels:
    draw = histology_slide if kind == "histology" else satellite_scene
    return draw(seed, DRAWN_PX)


def drawn_places(kind: str, downsample: int, places: int, size: int) -> list[PlacedImage]:
    """Like places of drawn slides, shrunk by means."""
    found, rng = [], np.random.default_rng(0)
    for number in range(places):
        slide, side = drawn(kind, number % 2), size * downsample
        top, left = rng.integers(0, (DRAWN_PX - side) // downsample + 1, 2)
        piece = slide[top * downsample :, left * downsample :][:side, :side]
        shrunk = piece.reshape(size, downsample, size, downsample, 3).mean((1, 3))
        found.append(PlacedImage(shrunk.round().astype(np.uint8), top, left))
    return found


def measured(world: World, kind: str, places: int, size: int) -> tuple[list[str], list[Pixels]]:
    """Lines of the table, and one image per scale."""
    lines, shown = [], []
    rng = np.random.default_rng(world.seed)
    centres = rng.integers(-(2**20), 2**20, size=(places, 2)).tolist()
    coarsest = world.model.ladder[world.scales[-1]].downsample
    for scale in reversed(world.scales):
        down, found = world.model.ladder[scale].downsample, []
        for centre in centres:
            top, left = (at // down for at in centre)
            found.append(PlacedImage(world[scale, top : top + size, left : left + size], top, left))
        real, alike = drawn_places(kind, down, places, size), max(LOWEST, CELL * coarsest // down)
        for name, period, offset in borders(world, scale):
            here, there = ("{:.2f} ± {:.2f}".format(*strength(at, period, offset, alike)) for at in (found, real))
            lines.append(f"| {scale} | {name} | {here} | {there} |")
        shown.append(found[0].image)
    return lines, shown


def peak_mb() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(chunks: int) -> Iterator[str]:
    """Peak memory at every tenth of a walk over `chunks` chunks, with results in memory limited to 4 MB."""
    drawn_map.DRAW_STEPS = drawn_map.INVERT_STEPS = 2  # memory does not depend on them
    world = World(PlainModel(), ["20x", "10x"], settings=replace(PRESETS["default"], steps=3), threads=1)
    world.memo.limit = 4 * 2**20
    for number in range(chunks):
        world.submit("20x", 0, number).result()
        if (number + 1) % max(1, chunks // 10) == 0:
            yield f"{number + 1} chunks: peak memory {peak_mb():.0f} MB"


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Measure time, seams and memory of an endless slide.")
    add = parser.add_argument
    add("--model", choices=list(BUNDLED), default="demo", help="a bundled one (%(default)s)")
    add("--only", choices=("times", "seams"), help="one of both (default: both)")
    add("--places", type=positive_int, default=4, help="places of each scale whose seams are measured (%(default)s)")
    add("--size", type=positive_int, default=512, help="pixels a side at each (%(default)s)")
    add("--seed", type=seed_int, default=0, help="of the slide (%(default)s)")
    add("--memory", type=positive_int, metavar="CHUNKS", help="measure memory over so many chunks instead")
    add_precision(add)
    add("--out", type=output_file, default="samples/endless.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    if args.memory:
        for line in memory(args.memory):
            print(line, flush=True)
        return
    lines = [f"{args.model}, {device_name()}"]
    if args.only != "seams":
        lines += ["", "| the page, 1000x560 px | CPU s | s |", "|---|---|---|"]
        lines += timed(["--model", args.model, "--seed", str(args.seed)], (700_000 + args.seed, -300_000))
    if args.only != "times":
        model = ZoomLDM.load(args.model, precision=args.precision)
        announce(model.precision, model.device)
        world = World(model, seed=args.seed)
        found, shown = measured(world, BUNDLED[args.model].kind, args.places, args.size)
        title = f"seam strength, {args.places} places of {args.size} px"
        lines += ["", f"| scale | at | {title} | drawn slides |", "|---|---|---|---|", *found]
        contact_sheet([shown], [""], list(reversed(world.scales)), args.out.with_suffix(".png"))
    table = "\n".join(lines)
    write_text(args.out, table + "\n")
    print(table, args.out, sep="\n")


if __name__ == "__main__":
    with torch.no_grad():
        cli(main)
