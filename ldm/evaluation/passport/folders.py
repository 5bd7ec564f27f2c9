"""The images of a folder, with what their paths say of part, label, slide and patient.

    FOLDER/*.png                     images
    FOLDER/LABEL/*.png               images of several labels
    FOLDER/train/..., FOLDER/test/...    parts; each holds images or labels

A name says the patient where it is SLIDE_ROW_COL.png, as `zoomldm crops` names them (the patient is the slide's TCGA
barcode, or the slide itself), or begins with a TCGA barcode. Any other, such as 0001.png or tile_3_4.png, does not: the
same name in two folders is no sign of one patient, so that each such image is taken as of a patient of its own.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm.data.split_file import BARCODE, patient_of
from ldm.errors import UserError
from ldm.evaluation.experiments.image_sets import picture_loader, slide_of
from ldm.images.contact_sheet import Pixels
from ldm.images.picture_files import PICTURE_SUFFIXES

TRAIN = ("train", "training")
OF_SLIDE = re.compile(r"(?!(?:crop|image|img|patch|region|sample|tile)s?_).+_\d+_\d+", re.IGNORECASE)
"""file names of crops that say their slide"""
HELD_OUT = ("test", "val", "valid", "validation", "held_out", "held-out")


class FolderImage(NamedTuple):
    """One file, and what its path says."""

    path: Path
    label: str
    """"" for none"""
    part: str
    """name of the folder of its part, in lower case; "" for none"""

    @property
    def says_patient(self) -> bool:
        """Whether its name does."""
        return bool(BARCODE.match(self.path.stem) or OF_SLIDE.fullmatch(self.path.stem))

    @property
    def patient(self) -> str:
        """The patient that its name says; the image's own path where it says none."""
        return patient_of(slide_of(self.path)) if self.says_patient else str(self.path)

    def pixels(self) -> Pixels:
        """UserError for a file that cannot be read."""
        return picture_loader(self.path)()


def images_of(folder: Path, option: str) -> list[FolderImage]:
    """All images in `folder` and below, by path, through links too; hidden files and folders are left out.

    UserError for no folder, or fewer than two images.
    """
    if not folder.is_dir():
        raise UserError(f"{option}: {folder} is no folder; expected one with images")
    files = sorted(path for path in _below(folder, ()) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    if len(files) < 2:
        raise UserError(f"{option}: {folder} holds {len(files)} images; expected at least 2 (PNG, JPEG, TIFF ...)")
    return [_image(path, path.relative_to(folder).parts[:-1]) for path in files]


def _below(folder: Path, above: Sequence[Path]) -> Iterator[Path]:
    """What `folder` holds, and so on; a link back to one of the folders `above` ends there."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:
            yield from _below(path, above)


def _image(path: Path, folders: Sequence[str]) -> FolderImage:
    part = folders[0].lower() if folders and folders[0].lower() in (*TRAIN, *HELD_OUT) else ""
    inner = folders[1:] if part else folders
    return FolderImage(path, "/".join(inner), part)


def some_of(images: Sequence[FolderImage], count: int, seed: int) -> list[FolderImage]:
    """`count` of them drawn at random, by path, or all where there are fewer."""
    if len(images) <= count:
        return list(images)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    return [images[i] for i in chosen.tolist()]


def by_patient(images: Sequence[FolderImage]) -> tuple[list[FolderImage], list[FolderImage]]:
    """Two parts without a patient in common, of about equal numbers; the second is empty for a single patient."""
    patients: dict[str, list[FolderImage]] = {}
    for image in images:
        patients.setdefault(image.patient, []).append(image)
    parts: tuple[list[FolderImage], list[FolderImage]] = ([], [])
    for name in sorted(patients, key=lambda name: (-len(patients[name]), name)):
        min(parts, key=len).extend(patients[name])
    return parts
