"""Sources of images for evaluation: prepared slides, folders, shared statistics, and cached samples.

    COHORT/*.h5                      regions of prepared slides, with images
    FOLDER/<scale>/*.png             images of one scale each; FOLDER/<scale>_*.png is understood too, as sample_patches
                                     writes them, and FOLDER/*.png where only one scale is asked for
    FOLDER/<scale>_<extractor>.npz   statistics alone

Shapes: H, W pixels, n images.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ldm.config.run_config import load_run_config
from ldm.data.cohort import open_cohort
from ldm.data.h5 import SlideFile
from ldm.data.split_file import NAME, patient_of, read_split
from ldm.errors import UserError
from ldm.evaluation.metrics.extractors import Described, Extractor, Loader, describe
from ldm.evaluation.metrics.frechet import Statistics
from ldm.images.contact_sheet import Pixels, save_png
from ldm.images.picture_files import PICTURE_SUFFIXES
from ldm.images.pictures import listed, read_picture
from ldm.support.bundled_configs import bundled_file
from ldm.support.cache import Identity
from ldm.support.files import intact, sidecar, write_sidecar, write_text
from ldm.support.processes import ALONE, Processes
from ldm.support.typed import typed

Item = TypeVar("Item")


class Region(NamedTuple):
    """A region of a prepared slide."""

    slide: SlideFile
    scale: str
    row: int

    def image(self) -> Pixels:
        return self.slide.images(self.scale, [self.row])[0]

    def embedding(self) -> Tensor:
        """Its condition (d, g, g)."""
        return self.slide.embedding(self.scale, self.row)


def regions(slides: Sequence[SlideFile], scale: str, count: int | None = None) -> list[Region]:
    """All regions of `scale` in the order of the slides, or the first `count` of them in a fixed shuffled order."""
    everything = [
        Region(slide, scale, row)
        for slide in slides
        if scale in slide.ladder.names
        for row in range(slide.count(scale))
    ]
    if count is None:
        return everything
    return [everything[i] for i in np.random.default_rng(0).permutation(len(everything))[:count].tolist()]


def spread_over(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of them, evenly spread, or all where there are fewer."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def halves(items: Sequence[Item], slide: Callable[[Item], str]) -> tuple[list[Item], list[Item]]:
    """Two parts without a patient in common, in order; every other patient is in the second.

    `slide` gives the slide of an item. UserError for fewer than two patients.
    """
    patients = sorted({patient_of(slide(item)) for item in items})
    if len(patients) < 2:
        raise UserError(
            f"real: {len(patients)} slides or patients; expected at least 2: one half is compared with another"
        )
    second = set(patients[1::2])
    parts: tuple[list[Item], list[Item]] = ([], [])
    for item in items:
        parts[patient_of(slide(item)) in second].append(item)
    return parts


def slide_id(slide: SlideFile) -> str:
    return str(slide.attrs["slide_id"])


def slide_of(picture: Path) -> str:
    """The slide of a picture cut by data_prep/crops.py: <slide>_<row>_<col>; any other picture is its own slide."""
    return re.sub(r"_\d+_\d+$", "", picture.stem)


def image_files(folder: Path, scale: str, only: bool) -> list[Path]:
    """The images of `scale` in a folder; all of its images when that is the `only` scale. UserError for none."""
    if (folder / scale).is_dir():
        return listed([folder / scale])
    paths = listed([folder])
    named = [path for path in paths if path.name.startswith(f"{scale}_")]
    if not named and not only:
        raise UserError(f"{folder}: holds neither {scale}/ nor {scale}_*.png; expected one of them for every scale")
    return named or paths


def picture_loader(path: Path) -> Loader:
    return partial(_pixels, path)


def _pixels(path: Path) -> Pixels:
    return read_picture(path).pixels


def cohort(folder: Path, trained_on: bool = False, split: Path | None = None) -> list[SlideFile]:
    """The prepared slides of a folder, by name; empty when it holds none.

    With a `split` (default: the folder's splits.csv), only those for training, or only the others. UserError for a
    slide that the split lacks.
    """
    slides = open_cohort(folder) if any(folder.rglob("*.h5")) else []
    split = folder / NAME if split is None else split
    if not slides or not split.is_file():
        return slides
    lines = read_split(split).lines
    missing = [slide for slide in slides if slide_id(slide) not in lines]
    if missing:
        raise UserError(f"{split}: lacks {slide_id(missing[0])}; add it by {typed('splits')} --cohort {folder}")
    return [slide for slide in slides if (lines[slide_id(slide)].part == "train") == trained_on]


def slides_of_run(run: Path, trained_on: bool) -> tuple[Path, list[SlideFile]]:
    """The cohort of a run, and its training slides or its held-out ones. UserError without a cohort."""
    config = run / "config.yaml"
    data = load_run_config(run).get("data") if config.is_file() else None
    if not data or not data.get("cohort"):
        raise UserError(f"--real: none given; {run} is no bundled model and no run with slides of its own")
    folder, split = Path(data.cohort), data.get("split")
    return folder, cohort(folder, trained_on, bundled_file(split) if split else None)


class ImageSet:
    """Given images of every scale, as a set in the space of an extractor."""

    def __init__(self, path: Path, scales: Sequence[str], slides: Sequence[SlideFile] | None = None) -> None:
        """`slides`: which of the folder's slides to use (default: those not for training). UserError for no folder."""
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; expected prepared slides, images or statistics")
        self.path, self.scales = path, scales
        self.slides = cohort(path) if slides is None else slides

    @property
    def lossless(self) -> bool:
        """Whether no image was stored as JPEG; True for statistics alone, where this is unknown."""
        if self.slides:
            return all(slide.settings.get("images") != "jpeg" for slide in self.slides)
        return not any(path.suffix.lower() in (".jpg", ".jpeg") for path in self.path.rglob("*"))

    def _holds_images(self, scale: str) -> bool:
        if self.slides or (self.path / scale).is_dir():
            return True
        pictures = [file.name for file in self.path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES]
        return any(name.startswith(f"{scale}_") for name in pictures) or (len(self.scales) == 1 and bool(pictures))

    def loaders(self, scale: str) -> list[Loader]:
        """UserError for slides without images, or no image."""
        if not self.slides:
            return [picture_loader(path) for path in image_files(self.path, scale, len(self.scales) == 1)]
        found = regions(self.slides, scale)
        if found and not found[0].slide.has_images(scale):
            raise UserError(f"{found[0].slide.path}: prepared without images; prepare it again with images=png")
        return [region.image for region in found]

    def described(self, scale: str, extractor: Extractor, processes: Processes = ALONE, batch: int = 32) -> Described:
        """In the space of `extractor`; from shared statistics where the folder holds them and no image of the scale,
        since images may have changed since.
        """
        statistics = [] if self._holds_images(scale) else sorted(self.path.glob(f"{scale}_*.npz"))
        same = [path for path in statistics if path.name == statistics_name(scale, extractor)]
        if same or statistics:
            return Described(Statistics.load((same or statistics)[0]))  # comparison refuses a mismatch
        return describe(self.loaders(scale), extractor, scale, processes, batch)


def statistics_name(scale: str, extractor: Extractor) -> str:
    """The file of an image set's statistics."""
    return f"{scale}_{extractor.id}.npz"


class SampleCache:
    """Generated images, cached as PNG 0, 1, ...: an interrupted command that is run again makes only those that are
    missing, or were changed since.

    The folder's name contains the digest of their identity, so images of other settings are kept apart.
    """

    def __init__(self, folder: Path, name: str, identity: Identity) -> None:
        slug = "".join(letter if letter.isalnum() else "-" for letter in name)
        self.folder, self._name, self._identity = folder / f"{slug}-{identity.digest}", name, identity
        self.seconds = float("nan")
        """CPU seconds per image, where some were made"""

    def path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.png"

    def _is_made(self, number: int) -> bool:
        """Whether an image is there as it was written; earlier versions wrote no checksum beside it."""
        path = self.path(number)
        return path.is_file() and (intact(path) or not sidecar(path).is_file())

    def loaders(self, count: int) -> list[Loader]:
        return [picture_loader(self.path(number)) for number in range(count)]

    def fill(
        self,
        count: int,
        make: Callable[[range], Iterable[Pixels]],
        *,
        batch: int = 1,
        processes: Processes = ALONE,
    ) -> None:
        """Make the missing ones of `count` images with `make`, which returns the images of a range of numbers, in
        order.

        Ranges begin at multiples of `batch`, so image i depends neither on cached images nor on the process that makes
        it.
        """
        write_text(self.folder / "identity.json", json.dumps(json.loads(self._identity.text), indent=2) + "\n")
        batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
        made, started = 0, time.process_time()
        with tqdm(total=count, desc=self._name, unit="image", leave=False, disable=not processes.first) as bar:
            for numbers in (batches[i] for i in processes.local_indices(len(batches))):
                missing = [number for number in numbers if not self._is_made(number)]
                if missing:
                    images = dict(zip(numbers, make(numbers), strict=True))
                    for number in missing:
                        save_png(self.path(number), images[number])
                        write_sidecar(self.path(number))
                    made += len(numbers)
                bar.update(len(numbers))
        self.seconds = (time.process_time() - started) / made if made else float("nan")
        processes.barrier()
