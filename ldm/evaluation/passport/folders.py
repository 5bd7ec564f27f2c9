"""The images of a folder, with what their paths say of part, label, slide and patient.

    FOLDER/*.png                     images
    FOLDER/LABEL/*.png               images of several labels
    FOLDER/train/..., FOLDER/test/...    parts; each holds images or labels

A file SLIDE_ROW_COL.png, as `zoomldm crops` names them, is of that slide, any other of a slide of its own name; the
patient of a slide is its TCGA barcode, or the slide itself.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm.data.split_file import patient_of
from ldm.errors import UserError
from ldm.evaluation.experiments.image_sets import picture_loader, slide_of
from ldm.images.contact_sheet import Pixels
from ldm.images.picture_files import PICTURE_SUFFIXES

TRAIN = ("train", "training")
HELD_OUT = ("test", "val", "valid", "validation", "held_out", "held-out")


class FolderImage(NamedTuple):
    """One file, and what its path says."""

    path: Path
    label: str
    """"" for none"""
    part: str
    """name of the folder of its part, in lower case; "" for none"""

    @property
    def slide(self) -> str:
        return slide_of(self.path)

    @property
    def patient(self) -> str:
        return patient_of(self.slide)

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
