"""The canvases of one image: which scales, how large, and how many pixels of one a pixel of another spans.

Shapes: H, W latents of a canvas, f the factor between two neighbouring scales of the chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm.errors import UserError
from ldm.multiscale.model import MultiscaleModel

ROOM = 1.5
"""patches a side of the smallest canvas whose windows move"""


@dataclass
class Chain:
    """`scales` of an image `height` x `width` pixels at the finest one; they become finest first.

    `moves`: windows move from step to step, so coarser canvases get room for it, or the tiles of their conditions would
    show. UserError for scales that the model does not have or a size below 1.
    """

    model: MultiscaleModel
    scales: Sequence[str]
    height: int
    width: int
    moves: bool

    def __post_init__(self) -> None:
        zooms = sorted((self.model.ladder[name] for name in self.scales), key=lambda zoom: zoom.index)
        if len({zoom.name for zoom in zooms}) < len(self.scales) or not zooms:
            raise UserError(f"scales: {', '.join(self.scales)}; expected different scales, for example 20x,5x")
        if min(self.height, self.width) < 1:
            raise UserError(f"size: {self.width}x{self.height}; expected pixels, for example 1024x1024")
        self.scales = [zoom.name for zoom in zooms]
        grain = self.factor(self.scales[-1]) * self.model.downsample
        least = -(-self.model.tile_px // grain) * grain
        self.padded = tuple(max(least, -(-length // grain) * grain) for length in (self.height, self.width))
        """(height, width) rounded up to whole latents of the coarsest scale, at least a patch"""

    @property
    def side(self) -> int:
        """Latents of a tile a side."""
        return self.model.tile_px // self.model.downsample

    def coarser(self, scale: str) -> str | None:
        """The next coarser scale, None at the top."""
        return next(iter(self.scales[self.scales.index(scale) + 1 :]), None)

    def factor(self, scale: str, finer: str | None = None) -> int:
        """Pixels of the finest scale (or of `finer`) that one of `scale` spans."""
        below = self.model.ladder[finer or self.scales[0]]
        return self.model.ladder[scale].downsample // below.downsample

    def above(self, scale: str) -> int:
        """f: pixels of `scale` that one of the next coarser scale spans; 1 at the top."""
        coarser = self.coarser(scale)
        return self.factor(coarser, scale) if coarser else 1

    def latents(self, scale: str) -> tuple[int, int]:
        """(H, W) of a scale's canvas: at least a patch, of which finer canvases may need the first rows and columns."""
        least = int(ROOM * self.side) if self.moves and scale != self.scales[0] else self.side
        shrink = self.factor(scale) * self.model.downsample
        height, width = (max(least, length // shrink) for length in self.padded)
        return height, width
