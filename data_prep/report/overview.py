"""Overview picture of a prepared slide: thumbnail, outline of tissue (green), kept regions of one scale (blue boxes)
and unreadable base tiles (red).
"""

import math
from pathlib import Path

import numpy as np
from einops import repeat
from PIL import Image, ImageDraw
from scipy import ndimage

from data_prep.plan import Plan
from data_prep.preparation_config import PrepareConfig
from data_prep.slides.grid import Mask
from data_prep.slides.tissue import PER_TILE
from ldm.support.files import atomic_write

LONGEST_PX, LARGEST_ZOOM, QUALITY = 720, 4, 85
TISSUE, BOX, LOST = (0, 140, 60), (20, 60, 220), (220, 0, 0)
FEW = 4
"""boxes show the coarsest scale with at least this many kept regions"""


def save_picture(plan: Plan, config: PrepareConfig, path: Path) -> None:
    """Draw the slide of `plan` and write it as JPEG."""
    height, width = (math.ceil(size * PER_TILE / config.tile_px) for size in (plan.plane.height, plan.plane.width))
    zoom = min(LARGEST_ZOOM, LONGEST_PX / max(height, width))
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    thumbnail = Image.fromarray(plan.thumbnail[:height, :width]).resize(size, Image.Resampling.BOX)
    pixels = np.array(thumbnail)
    tissue = repeat(plan.tiles > 0, "r c -> (r a) (c b)", a=PER_TILE, b=PER_TILE) if plan.mask is None else plan.mask
    pixels[_outline(_shrunk(tissue[:height, :width], size))] = TISSUE
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    scale = _shown_scale(plan)
    for colour, mask, tiles in ((BOX, plan.kept[scale], 2**scale), (LOST, plan.lost, 1)):
        side = tiles * PER_TILE * zoom
        for row, col in np.argwhere(mask).tolist():
            box = (col * side, row * side, (col + 1) * side - 1, (row + 1) * side - 1)
            draw.rectangle([round(edge) for edge in box], outline=colour)
    with atomic_write(path) as partial:
        picture.save(partial, format="JPEG", quality=QUALITY, subsampling=0)  # so that thin lines keep their colours


def _shown_scale(plan: Plan) -> int:
    """The coarsest scale with FEW kept regions, else the one with most."""
    counts = [int(mask.sum()) for mask in plan.kept]
    return max((index for index, count in enumerate(counts) if count >= FEW), default=int(np.argmax(counts)))


def _shrunk(mask: Mask, size: tuple[int, int]) -> Mask:
    image = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return np.asarray(image) > 127


def _outline(mask: Mask) -> Mask:
    """The inner boundary of a mask; the border of the picture does not count."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)
