"""People's pictures: read whatever Pillow reads, write what came of one in the format that it came in.

Letters: h, w pixels. Pictures are uint8 (h, w, 3).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ldm.errors import UserError
from ldm.files import whole
from ldm.io import Pixels
from ldm.tiff import PyramidWriter

FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".tif": {"compression": "tiff_deflate"},
    ".tiff": {"compression": "tiff_deflate"},
}
"""how they are written; everything else becomes PNG"""
WHOLE_PX = 4096
"""a longer side makes a pyramid"""


class Picture(NamedTuple):
    """Pixels (h, w, 3) and their colour profile (ICC), if any."""

    pixels: Pixels
    profile: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Any 8-bit image, upright, transparent parts on white. UserError for one that cannot be read, or has more bits."""
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise UserError(f"{path}: pixels are of mode {file.mode}; expected 8 bits a channel: convert it")
            profile = file.info.get("icc_profile") if file.mode.startswith("RGB") else None
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error}); take it out or convert it") from error
    white = Image.new("RGBA", image.size, "white")
    return Picture(np.array(Image.alpha_composite(white, image).convert("RGB")), profile)


def listed(given: Sequence[Path]) -> list[Path]:
    """Images, and those in folders by name. UserError for a folder without any, or two that differ in ending alone."""
    readable = Image.registered_extensions()
    paths: list[Path] = []
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in readable)
        if not inside:
            raise UserError(f"{path}: holds no image; expected PNG, JPEG, TIFF or another format that Pillow reads")
        paths += inside
    stems = [path.stem for path in paths]
    twice = [path for path in paths if stems.count(path.stem) > 1]
    if twice:
        raise UserError(f"{twice[0]} and {twice[1]}: of one name; expected different ones, so rename one of them")
    return paths


def destination(folder: Path, name: str, height: int, width: int) -> Path:
    """Where a picture that came as `name` goes."""
    path = folder / name
    if max(height, width) > WHOLE_PX:
        return path.with_suffix(".tiff")
    return path if path.suffix.lower() in FORMATS else path.with_suffix(".png")


def write_picture(path: Path, bands: Iterable[Pixels], profile: bytes | None = None) -> Pixels:
    """Write a picture that comes in bands of rows (rows, w, 3), in the format of FORMATS that its name asks for."""
    pixels = np.concatenate(list(bands))
    suffix = path.suffix.lower()
    with whole(path) as partial:
        kind = Image.registered_extensions()[suffix]
        Image.fromarray(pixels).save(partial, format=kind, icc_profile=profile, **FORMATS[suffix])
    return pixels


def write_large(path: Path, bands: Iterable[Pixels], height: int, width: int, mpp: float) -> None:
    """Write a picture as a pyramid, never all of it in memory; `mpp` um per pixel."""
    with PyramidWriter(path, height, width, mpp) as writer:
        for band in bands:
            writer.write(band)
