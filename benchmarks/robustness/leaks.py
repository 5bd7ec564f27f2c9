"""R9: resident memory and open files do not grow while patches and joint images are sampled and slides are read.

Each kind of work is repeated in a separate process, with toy networks, so that leaks are visible beside temporary
memory. Growth is the slope of resident memory over the repetitions after warm-up (Theil-Sen: the median of
the slopes between all pairs, which one large allocation does not move).
"""

import gc
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

from benchmarks.fixtures import toy
from benchmarks.fixtures.slides import tissue_image, write_slide
from data_prep.slides.slide import Plane, open_slide
from ldm.cli import joint as sample_joint
from ldm.data.h5 import SlideFile
from ldm.pipeline import ZoomLDM

STATM, DESCRIPTORS = Path("/proc/self/statm"), Path("/proc/self/fd")
MOST_MB = 1.0
"""growth per 100 repetitions"""
Work = Callable[[int], object]


class Found(NamedTuple):
    """Growth of resident memory in MB per 100 repetitions, and of open files over all of them."""

    megabytes: float
    files: int


def patches(folder: Path) -> Work:
    """Sample a patch under an embedding that is read from a prepared slide."""
    model = ZoomLDM.load(toy.run_folder(folder / "zoomldm", "zoomldm"))
    slide = SlideFile(toy.slide(folder / "slide.h5"))

    def sample(number: int) -> object:
        embedding = slide.embedding("20x", number % slide.count("20x"))
        return model.sample("20x", embeddings=[embedding], steps=2, seed=number)

    return sample


def joint_images(folder: Path) -> Work:
    """Sample a joint image of two scales by the command, which writes it."""
    model, slide = toy.run_folder(folder / "zoomldm", "zoomldm"), toy.slide(folder / "slide.h5")
    given = ["--model", str(model), "--from", str(slide), "--size", "64", "--scales", "20x,10x", "--steps", "2"]

    def sample(number: int) -> None:
        out = ["--out", str(folder / f"image-{number}"), "--seed", str(number)]
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            sample_joint.main([*given, "--accelerator", "cpu", *out])

    return sample


def region_reads(folder: Path) -> Work:
    """Read a region somewhere on a slide of two levels, at one of two resolutions."""
    image = tissue_image(1024, 1024)
    slide = open_slide(write_slide(folder / "slide.tiff", [image, image[::2, ::2]], 0.5), "histology")
    planes = [Plane(slide, mpp) for mpp in (0.5, 0.8)]
    rng = np.random.default_rng(0)

    def read(number: int) -> object:
        plane = planes[number % 2]
        x, y = rng.integers((plane.width, plane.height)).tolist()
        return plane.read(x, y, 256, 256)

    return read


KINDS: dict[str, tuple[Callable[[Path], Work], float]] = {
    "patches": (patches, 1.0),
    "joint images": (joint_images, 0.04),
    "region reads": (region_reads, 4.0),
}
"""and how many repetitions for each patch"""


def resident_mb() -> float:
    """Resident memory of this process. OSError where the system has no /proc."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(prepare: Callable[[Path], Work], folder: Path, repetitions: int) -> Found:
    """Repeat a kind of work in this process: first as often to warm up, then `repetitions` times."""
    folder.mkdir()
    work = prepare(folder)
    gc.freeze()  # exclude existing objects from garbage collection
    memory, files = [], []
    for number in range(2 * repetitions):
        work(number)
        gc.collect()
        memory.append(resident_mb())
        files.append(len(os.listdir(DESCRIPTORS)))
    steady = np.array(memory[repetitions:])
    slope = float(theilslopes(steady, np.arange(len(steady))).slope)
    return Found(100 * slope, files[-1] - files[repetitions])


def outcomes(folder: Path, count: int) -> dict[str, Found]:
    """Growth for each kind of work, for `count` patches."""
    found = {}
    for name, (prepare, share) in KINDS.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            found[name] = alone.submit(growth, prepare, folder / name, max(2, round(count * share))).result()
        print(f"{name}: {found[name].megabytes:.2f} MB per 100, {found[name].files} more open files", flush=True)
    return found


def measure(folder: Path, count: int) -> str:
    """`count` patches, a joint image for each 25 of them, four region reads for each."""
    if not STATM.exists():
        return "not measured: there is no /proc here"
    parts = [
        f"{round(count * KINDS[name][1])} {name}: {each.megabytes:+.2f} MB per 100, {each.files:+d} open files"
        for name, each in outcomes(folder, count).items()
    ]
    return "; ".join(parts)
