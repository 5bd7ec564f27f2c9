"""An endless slide measured: seams at the borders of chunks and of every lattice of windows, time, and memory.

    python -m benchmarks.endless
    python -m benchmarks.endless --memory 500       # peak memory over as many chunks of a model without networks

Of each scale a square of `--size` pixels around several places is sampled. Seam strength is the gradient across borders
over that elsewhere; at real tissue it is .98 to 1.01.
"""

import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
import torch

from benchmarks.fixtures.plain_model import PlainModel
from benchmarks.hardware import device_name
from ldm.endless import drawn_map
from ldm.endless.endless_world import World
from ldm.errors import cli
from ldm.evaluation.metrics.seams import seam_strength
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.multiscale.presets import PRESETS
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, positive_int, seed_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import write_text
from ldm.support.precision import add_precision, announce


def borders(world: World, scale: str) -> Iterator[tuple[str, int, int]]:
    """Name, period and offset in pixels of each set of borders in the image of a scale."""
    pixels = world.model.downsample
    yield "chunks", world.chunk_px, 0
    for number, (_, lattice, _) in enumerate(world.planes[scale].groups, start=1):
        yield f"windows of group {number}", pixels * lattice.stride, pixels * lattice.offset
        if lattice.stride < lattice.side:
            yield f"their other ends, group {number}", pixels * lattice.stride, pixels * (lattice.offset + lattice.side)


def seams(image: Pixels, top: int, left: int, period: int, offset: int) -> float:
    """Seam strength at the borders of an image whose first pixel is at (top, left)."""
    return seam_strength(image, period, ((offset - top) % period, (offset - left) % period))


def measured(world: World, places: int, size: int) -> tuple[list[str], list[Pixels]]:
    """Lines of the table, and one image per scale."""
    lines, shown = [], []
    rng = np.random.default_rng(world.seed)
    centres = rng.integers(-(2**20), 2**20, size=(places, 2)).tolist()
    for scale in reversed(world.scales):
        down, images = world.model.ladder[scale].downsample, []
        started = time.process_time()
        for row, col in centres:
            top, left = (at // down // world.chunk_px * world.chunk_px for at in (row, col))
            images.append((top, left, world[scale, top : top + size, left : left + size]))
        seconds = time.process_time() - started
        chunks = places * ceil(size / world.chunk_px) ** 2
        for name, period, offset in borders(world, scale):
            found = [seams(image, top, left, period, offset) for top, left, image in images]
            lines.append(f"| {scale} | {name} | {np.mean(found):.2f} ± {np.std(found):.2f} |")
        lines.append(f"| {scale} | CPU s a chunk of {world.chunk_px} px, first visit | {seconds / chunks:.2f} |")
        shown.append(images[0][2])
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
    parser = Parser(description="Measure seams, time and memory of an endless slide.")
    add = parser.add_argument
    add("--model", choices=list(BUNDLED), default="demo", help="a bundled one (%(default)s)")
    add("--places", type=positive_int, default=2, help="places of each scale (%(default)s)")
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
    model = ZoomLDM.load(args.model, precision=args.precision)
    announce(model.precision, model.device)
    world = World(model, seed=args.seed)
    lines, shown = measured(world, args.places, args.size)
    title = f"{args.model}, {args.places} places of {args.size} px, {device_name()}, {model.precision}"
    table = "\n".join([title, "", "| scale | at | seam strength |", "|---|---|---|", *lines])
    write_text(args.out, table + "\n")
    contact_sheet([shown], [""], list(reversed(world.scales)), args.out.with_suffix(".png"))
    print(table, args.out, sep="\n")


if __name__ == "__main__":
    with torch.no_grad():
        cli(main)
