"""Pictures on disk: PNG, and labelled contact sheets.

Shapes: h, w pixels. Every image is uint8 (h, w, 3), sRGB. Files are written atomically.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ldm.errors import UserError
from ldm.support.files import atomic_write

Pixels = NDArray[np.uint8]
INK, PAPER = (30, 30, 30), (255, 255, 255)


def check_image(image: NDArray[Any], what: str) -> None:
    """Raise UserError unless `image` is uint8 (h, w, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{what}: image is {image.dtype} {image.shape}; expected uint8 (h, w, 3)")


def check_band(path: Path, band: Pixels, received: int, height: int, width: int) -> None:
    """UserError for a band of another type or width, or where `received` rows, its own among them, are too many."""
    if band.dtype != np.uint8 or band.ndim != 3 or band.shape[1:] != (width, 3):
        raise UserError(f"{path}: band is {band.dtype} {band.shape}; expected uint8 (rows, {width}, 3)")
    if received > height:
        raise UserError(f"{path}: {received} rows written; expected {height}")


def on_background(pixels: Pixels, background: tuple[int, int, int]) -> Pixels:
    """RGBA (h, w, 4), not premultiplied, over a colour -> (h, w, 3)."""
    colour, alpha = np.array(pixels[..., :3]), pixels[..., 3]
    if alpha.min(initial=255) == 255:
        return colour
    colour[alpha == 0] = background
    mixed = (alpha > 0) & (alpha < 255)
    share = alpha[mixed, None] / 255
    colour[mixed] = np.rint(colour[mixed] * share + np.array(background) * (1 - share))
    return colour


def save_png(path: str | Path, image: Pixels) -> None:
    """Write `image` (h, w, 3) as PNG. Raises UserError for anything but uint8 RGB."""
    check_image(image, str(path))
    with atomic_write(Path(path), lambda: image.nbytes) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def fitted(image: Pixels, side_px: int) -> Pixels:
    """`image` (h, w, 3), scaled to fit a white square: (side_px, side_px, 3)."""
    picture = Image.fromarray(image)
    zoom = side_px / max(picture.size)
    picture = picture.resize([max(1, round(zoom * side)) for side in picture.size], Image.Resampling.BOX)
    return np.asarray(ImageOps.pad(picture, (side_px, side_px), color="white"))


def contact_sheet(
    rows: Sequence[Sequence[Pixels]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    path: str | Path,
) -> None:
    """Write a labelled grid of pictures as PNG; every cell has the size of the largest picture.

    rows: pictures (h, w, 3) of each row; a row may be shorter than the others. Raises UserError for no pictures,
    or for a wrong number of labels.
    """
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise UserError(f"{path}: no pictures; a contact sheet needs at least one")
    if len(row_labels) != len(rows) or len(column_labels) != columns:
        found = f"{len(row_labels)} row and {len(column_labels)} column labels"
        raise UserError(f"{path}: {found} for {len(rows)} rows and {columns} columns; expected one each")
    height = max(image.shape[0] for row in rows for image in row)
    width = max(image.shape[1] for row in rows for image in row)
    font_px = max(11, round(width / 11))
    font = ImageFont.load_default(font_px)
    gap = max(2, width // 32)
    left = gap * 2 + round(max(font.getlength(label) for label in row_labels))
    top = gap + round(1.4 * font_px) * (1 + max(label.count("\n") for label in column_labels))
    size = (left + columns * (width + gap), top + len(rows) * (height + gap))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for j, label in enumerate(column_labels):
        place = (left + j * (width + gap) + width // 2, top - gap // 2)
        draw.text(place, label, INK, font, anchor="md", align="center")
    for i, row in enumerate(rows):
        draw.text((gap, top + i * (height + gap) + height // 2), row_labels[i], INK, font, anchor="lm")
        for j, image in enumerate(row):
            check_image(image, f"{path}: row {i}, column {j}")
            picture = Image.fromarray(image)
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(picture, (left + j * (width + gap), top + i * (height + gap)))
    save_png(path, np.asarray(sheet))
