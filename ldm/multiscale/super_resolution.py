"""Super-resolution: an image replaces the coarsest canvas of a chain and constrains the finer ones.

    sharp = SuperResolution(model, y, ["20x", "5x"], inferred(model, y, ["20x", "5x"]))
    for scale, state in sharp.run():
        print(scale, state.step)
    image = np.concatenate(list(sharp.bands()))                 # uint8 (4 h, 4 w, 3)
    print(sharp.before.rms, sharp.after.rms)                    # of A x - y, without and with the consistency step

(paper, sections 3.2 and 4.4; supplement 8.3.) A shrinks by f. The consistency step is the back-projection of
`ldm.multiscale.constraint` in pixels: A x becomes y, which also restores the colours of y.

Shapes: h, w pixels of y, f the factor between the finest and the coarsest scale, n tiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.canvas import State
from ldm.multiscale.conditions import Conditions, TokenMap, laid_out
from ldm.multiscale.constraint import Residual, Shrink, measured, project_bands
from ldm.multiscale.inversion import Inversion
from ldm.multiscale.joint import Joint
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.presets import CONSISTENT, Settings

INVERSION_STEPS = 10
INVERSION_BATCH = 4
"""tiles inferred together, independent of the batch size of sampling: its steps of Adam amplify rounding to 1e-3"""


def magnification(model: MultiscaleModel, scales: Sequence[str]) -> int:
    """f of a chain of scales. UserError when it has fewer than two."""
    downsamples = {model.ladder[name].downsample for name in scales}
    if len(downsamples) < 2:
        raise UserError(f"scales: {','.join(scales)}; expected the finest and coarser ones, for example 20x,5x")
    return max(downsamples) // min(downsamples)


def bicubic(image: Pixels, factor: int) -> Pixels:
    """`image` (h, w, 3) enlarged by bicubic interpolation, the baseline."""
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def inferred(
    model: MultiscaleModel,
    y: Pixels,
    scales: Sequence[str],
    *,
    steps: int = INVERSION_STEPS,
    seed: int = 0,
    batch_size: int = INVERSION_BATCH,
    progress: bool = False,
) -> TokenMap:
    """Infer conditions for y (h, w, 3): those under which the model denoises its enlargement best.

    Inversion (supplement 8.3) at the finest scale, of the tiles of the bicubic enlargement; tile i depends on seed + i
    and its pixels alone, apart from rounding, which depends on `batch_size`.
    """
    factor = magnification(model, scales)
    finest = min((model.ladder[name] for name in scales), key=lambda zoom: zoom.index)
    side = model.tile_px // factor
    missing = [(0, -length % side) for length in y.shape[:2]]
    enlarged = bicubic(np.pad(y, [*missing, (0, 0)], mode="edge"), factor)
    tiles = rearrange(enlarged, "(i h) (j w) c -> (i j) h w c", h=model.tile_px, w=model.tile_px)
    with torch.no_grad():
        starts = range(0, len(tiles), batch_size)
        z = [model.encode(from_uint8(tiles[first : first + batch_size]).to(model.device)) for first in starts]
    grids = Inversion(model, finest.name, seed, batch_size, progress).from_latents(torch.cat(z), steps)
    return TokenMap(model, laid_out(grids, len(enlarged) // model.tile_px, finest.pyramid_level))


class SuperResolution:
    """y (h, w, 3) at the coarsest of `scales` -> the image (f h, f w, 3) at the finest, under `conditions`.

    y may have any size: the canvases are tiled. UserError for scales that the model lacks, or fewer than two.
    """

    def __init__(
        self,
        model: MultiscaleModel,
        y: Pixels,
        scales: Sequence[str],
        conditions: Conditions,
        *,
        settings: Settings = CONSISTENT,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        self.factor = magnification(model, scales)
        self.rounds = settings.rounds
        self.y = from_uint8(y[None])[0].to(model.device)  # (3, h, w)
        self.joint = Joint(
            model=model,
            scales=scales,
            height=self.factor * y.shape[0],
            width=self.factor * y.shape[1],
            conditions=conditions,
            settings=replace(settings, rounds=0),
            seed=seed,
            batch_size=batch_size,
            fixed=self.y,
        )
        self.before, self.after = Residual(self.y, self.factor), Residual(self.y, self.factor)
        """residual after the consistency step, known when `bands` is exhausted"""

    def run(self) -> Iterator[tuple[str, State]]:
        """Sample; yields (scale, state) after every step."""
        return self.joint.run()

    def bands(self) -> Iterator[Pixels]:
        """The finished image in bands of rows (rows, f w, 3), top to bottom."""
        bands = measured(self.joint.bands(), self.before)
        if self.rounds:
            bands = project_bands(bands, self.y, Shrink(self.factor), self.rounds)
        for band in bands:
            pixels = to_uint8(band[None])  # (1, rows, f w, 3)
            self.after.add(from_uint8(pixels)[0].to(self.y))
            yield pixels[0]
