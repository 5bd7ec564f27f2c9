"""Cost of one pass over a slide: bytes read, tiles per second, memory.

    python -m benchmarks.slide_pass --out benchmarks/slide_pass.md

A sparse slide of 40,000 px a side, with five islands of demo tissue and nothing stored between them, is read and
prepared at all eight scales of 256 px. Bytes and speeds of reading are those of the blocks with tissue.
"""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tifffile
import torch
from einops import reduce

from benchmarks.fixtures.sparse_slide import write_sparse_slide
from benchmarks.hardware import processor
from benchmarks.robustness.kills import members
from data_prep.plan import Plan, plan_slide, read_block
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig
from data_prep.slides.find import Task
from data_prep.slides.grid import BLOCK_TILES
from data_prep.slides.pyramid import field_patches
from data_prep.slides.readers import OpenSlideReader, Pixels
from data_prep.workers.embedding import AUTOENCODER, ENCODER
from data_prep.workers.networks import LocalNetworks
from ldm.data.h5 import SlideFile
from ldm.demo.histology import histology_slide
from ldm.errors import cli
from ldm.support.arguments import Parser, output_file, output_folder, positive_int
from ldm.support.files import write_text

SIDE, ISLAND = 40_000, 4096
PLACES = ((4096, 8192), (16384, 4096), (28672, 12288), (8192, 24576), (24576, 28672))
TILES = 64
"""of one measurement of a network"""


def config_of(folder: Path, workers: int = 0) -> PrepareConfig:
    """At most 48 regions per scale are kept, as the autoencoder's time is not measured."""
    return PrepareConfig(
        slides=str(folder / "slides"),
        out=str(folder / f"out{workers}"),
        ladder=LadderConfig("histology", 8),
        encoder=EncoderConfig("demo"),
        autoencoder="demo",
        regions_per_scale=48,
        tissue_share=0.01,
        workers=workers,
    )


def passes(plan: Plan, config: PrepareConfig, scales: Sequence[int]) -> None:
    """Read the slide once for each of `scales`, a number of finest scales per pass."""
    for count in scales:
        for field in plan.grid.fields():
            for _ in field_patches(field, partial(read_block, plan, config), plan.needed, count):
                pass


def pixels_asked(plan: Plan, config: PrepareConfig) -> float:
    """Pixels that one pass requests from the file, relative to those of the blocks with tissue."""
    asked = []
    read = OpenSlideReader.read

    def counted(reader: OpenSlideReader, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        asked.append(width * height)
        return read(reader, level, x, y, width, height)

    with patch.object(OpenSlideReader, "read", counted):
        passes(plan, config, [len(config.zooms)])
    blocks = reduce(plan.needed, "(r a) (c b) -> r c", "any", a=BLOCK_TILES, b=BLOCK_TILES)
    return sum(asked) / (int(blocks.sum()) * (BLOCK_TILES * config.tile_px) ** 2)


def file_bytes(run: Callable[[], object]) -> int:
    """Bytes that `run` reads from files."""

    def read_so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar

    before = read_so_far()
    run()
    return read_so_far() - before


def seconds(*runs: Callable[[], object], times: int) -> list[list[float]]:
    """Seconds of each of `runs`, `times` over, interleaved, so that a busy machine affects all alike."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(times):
        for run, took in zip(runs, found, strict=True):
            started = time.perf_counter()
            run()
            took.append(time.perf_counter() - started)
    return found


def memory_of(config: PrepareConfig) -> tuple[float, float, float]:
    """Prepare in a process of its own: seconds, peak GB of all its processes (shared pages once), of the largest."""
    keys = ("slides", "out", "regions_per_scale", "tissue_share", "workers", "autoencoder")
    overrides = [*(f"{key}={getattr(config, key)}" for key in keys), "ladder.scales=8", "tile_px=256", "generate=null"]
    command = [sys.executable, "data_prep/prepare.py", "--config", "configs/demo/data.yaml", "images=null", *overrides]
    started = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True)
    peaks = [0.0, 0.0]

    def watch() -> None:
        while process.poll() is None:
            sizes = [share_bytes(member) for member in members(process.pid)]
            peaks[0], peaks[1] = max(peaks[0], sum(sizes)), max(peaks[1], max(sizes, default=0))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if process.wait():
        raise RuntimeError(f"{command} ended with {process.returncode}")
    watcher.join()
    return time.perf_counter() - started, peaks[0] / 1e9, peaks[1] / 1e9


def share_bytes(process: int) -> int:
    """Proportional set size of a process in bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def rate(count: int, took: Sequence[float]) -> str:
    return f"{count / statistics.median(took):,.0f}"


def parts(folder: Path, times: int) -> list[str]:
    """The report's lines about reading and the networks."""
    island = histology_slide(0, ISLAND)
    path = folder / "slides" / "sparse.tiff"
    if not path.exists():
        write_sparse_slide(path, SIDE, island, PLACES)
    config = config_of(folder)
    networks = LocalNetworks.load(config, torch.device("cpu"))
    plan = plan_slide(Task(path, "sparse", folder / "sparse.h5"), config, networks.identity.width)
    plan = plan._replace(needed=plan.tiles > 0)
    tiles, scales = int(plan.needed.sum()), len(config.zooms)
    with tifffile.TiffFile(path) as tiff:
        stored = sum(tiff.pages[0].databytecounts)
    asked = pixels_asked(plan, config)
    read = file_bytes(lambda: passes(plan, config, [scales]))
    sample = np.stack([island[:256, 256 * (i % 16) : 256 * (i % 16 + 1)] for i in range(TILES)])
    once, eight, embedding, encoding = seconds(
        lambda: passes(plan, config, [scales]),
        lambda: passes(plan, config, [scales] * scales),
        lambda: networks.ask(ENCODER, sample)(),
        lambda: networks.ask(AUTOENCODER, sample)(),
        times=times,
    )
    slower = statistics.median(many / one for many, one in zip(eight, once, strict=True))
    return [
        f"`python -m benchmarks.slide_pass`: {processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads for the networks; medians of {times} in turn, to compare "
        f"with each other. A slide of {SIDE:,} px a "
        f"side, {len(PLACES)} islands of {ISLAND} px, {path.stat().st_size / 1e6:.0f} MB; {tiles:,} base tiles of "
        f"{config.tile_px} px with tissue, {scales} scales.\n",
        "| | |\n|---|---|",
        f"| pixels read from the base level, of those of the blocks with tissue | {asked:.3f} |",
        f"| bytes read, of those stored for the base level; libtiff reads the file's index anew for each block | "
        f"{read / stored:.3f} |",
        f"| reading and shrinking, one pass for all scales | {rate(tiles, once)} tiles/s |",
        f"| reading, a pass for every scale | {rate(tiles, eight)} tiles/s: {slower:.1f} times slower |",
        f"| embedding, demo encoder | {rate(TILES, embedding)} tiles/s |",
        f"| latents, demo autoencoder | {rate(TILES, encoding)} patches/s |",
    ]


def commands(folder: Path) -> list[str]:
    """The report's lines about the whole command."""
    lines = []
    for workers in (0, 2):
        chosen = config_of(folder, workers)
        took, together, largest = memory_of(chosen)
        slide = SlideFile(Path(chosen.out) / "sparse.h5")
        counts = ", ".join(f"{slide.count(name)} at {name}" for name in slide.ladder.names)
        lines.append(
            f"| the whole command, {workers} workers | {took:.0f} s; peak memory {together:.2f} GB in all, "
            f"{largest:.2f} GB the largest; {counts} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Measure preparation; writes a table.")
    parser.add_argument("--folder", type=output_folder, default="data/demo/preparation", help="(%(default)s)")
    parser.add_argument("--times", type=positive_int, default=3, help="measurements, whose median counts (%(default)s)")
    parser.add_argument("--out", type=output_file, default="benchmarks/slide_pass.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    lines = parts(args.folder, args.times) + commands(args.folder)
    write_text(args.out, "\n".join(lines) + "\n")
    print(*lines, args.out, sep="\n")


if __name__ == "__main__":
    cli(main)
