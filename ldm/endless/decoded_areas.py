"""Latents of an endless plane to its image, patch by patch.

A decoder without statistics over space gives the pixels of the whole plane, if the latents within its reach are there.
Nearly all of its effect comes from nearer ones, and only these are decoded with an area.
Another one decodes overlapping windows, whose images are averaged with weights that fall to their borders.

Shapes: h, w pixels.
"""

from collections.abc import Callable
from math import ceil

from torch import Tensor

from ldm.endless.lattice import Area, WindowLattice
from ldm.endless.memo import Key, Memo
from ldm.endless.plane import joined
from ldm.multiscale.model import MultiscaleModel

Latents = Callable[[Area], Tensor]
"""an area in latents -> z (3, h, w)"""
MARGIN = 0.45
"""share of the reach that is decoded around an area. At its border the bundled decoders' pixels are off by .2 to .4
levels of 255 on average, two latents further in by less than .1"""
OVERLAP = 2
"""windows of a decoder with statistics over space overlap by a patch divided by it"""


def decoded(model: MultiscaleModel, latents: Latents, area: Area, memo: Memo, name: str) -> Tensor:
    """The image (3, h, w), not clamped, of an area in pixels that whole latents cover; `name` of the plane."""
    if model.reach is None:
        return _blended(model, latents, area, memo, name)
    wide = area.over(model.downsample).grown(ceil(MARGIN * model.reach))
    image = model.decode_sampled(latents(wide)[None])[0]
    return image[:, *area.within(wide.times(model.downsample))]


def _blended(model: MultiscaleModel, latents: Latents, area: Area, memo: Memo, name: str) -> Tensor:
    side = model.tile_px
    margin = side // OVERLAP // 2 // model.downsample * model.downsample
    windows = WindowLattice(side + 2 * margin, side, -margin)

    def window(key: Key) -> Tensor:
        return model.decode_sampled(latents(windows.area(key.row, key.col).over(model.downsample))[None])[0]

    numbers = windows.covering(area)
    keys = [Key("decoded", name, 0, *number) for number in numbers]
    return joined(area, windows, list(zip(numbers, memo.all(keys, window), strict=True)))
