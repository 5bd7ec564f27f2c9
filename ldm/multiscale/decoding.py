"""Decode a canvas of any size window by window; the image is returned in bands, top to bottom.

Memory is one row of windows.

(a) A pixel of a decoder without statistics over space depends on latents up to its *reach* away (the receptive field).
    Windows that exceed their kept part by that reach give exactly the pixels of the whole canvas; at the canvas' border
    they end with it, so that the decoder's padding applies there.
(b) GroupNorm uses the whole image: with the canvas' statistics in every norm, (a) holds again. Computing them costs
    about twelve decodings (24 norms at full size, half a decoding each), so it is done for small canvases only.
    Attention, if any, is restricted to a window, so (b) only approximates the untiled decoding.
(c) Otherwise windows overlap, and pixels are their means under a Gaussian weight, as in the published code.

Shapes: n windows, h w their latents, H W those of the canvas, f pixels per latent, a side.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ldm.multiscale.windows import Blend, cover, cut, gaussian, starts

Decode = Callable[[Tensor], Tensor]
"""latents (n, 3, h, w) -> images (n, 3, f h, f w)"""
Part = tuple[slice, slice]
"""rows and columns of a window"""
Share = Callable[[Decode, Callable[[], Iterable[tuple[Tensor, list[Part]]]]], Decode]
"""gives a decoder the statistics of a canvas, from batches of windows and the parts that make up the canvas"""

LOCAL_SIDES = 4
"""width in tiles of the kept part of a window in (a): wider windows have less overhead"""
SHARED_WINDOWS = 16
"""largest number of windows for (b): a canvas of 4x4 tiles"""


@torch.no_grad()
def decode_bands(
    decode: Decode, z: Tensor, side: int, reach: int, *, batch: int = 8, share: Share | None = None
) -> Iterator[Tensor]:
    """Decode canvas z (3, H, W) of any size: the image in bands (3, rows, f W), top to bottom, not clamped.

    `side`: latents of a tile a side. `reach`: distance in latents on which a pixel depends, without norms and
    attention. `share`: for a decoder with statistics over space, the function that shares them between windows: (b)
    when the canvas has at most SHARED_WINDOWS windows, else (c). Without it, (a). `batch`: tiles at a time.
    """
    if share is None:
        return exact_bands(decode, z, LOCAL_SIDES * side, reach, batch=max(1, batch // LOCAL_SIDES**2))
    rows, cols = (spans(length, side, reach) for length in z.shape[1:])
    if len(rows) * len(cols) > SHARED_WINDOWS:
        return blended_bands(decode, z, side, batch=batch)
    if len(rows) * len(cols) > 1:
        decode = share(decode, lambda: (window for row in rows for window in _windows(z, row, cols, batch)))
    return exact_bands(decode, z, side, reach, batch=batch)


@dataclass(frozen=True)
class Span:
    """Where a window lies on one axis of the canvas, and which part of it is kept."""

    start: int
    stop: int
    kept: slice
    """within the window"""


def spans(length: int, side: int, reach: int) -> list[Span]:
    """Windows of `side` + 2 `reach`, or of a whole shorter axis; their kept parts partition 0 to `length`.

    No kept latent is nearer than `reach` to an end of its window that is not the canvas' end.
    """
    window = min(side + 2 * reach, length)
    places = starts(length, window, side)
    edges = pairwise([0, *(place + reach for place in places[1:]), length])
    return [Span(at, at + window, slice(a - at, b - at)) for at, (a, b) in zip(places, edges, strict=True)]


def _windows(z: Tensor, row: Span, cols: Sequence[Span], batch: int) -> Iterator[tuple[Tensor, list[Part]]]:
    """One row of windows (n, 3, h, w) in batches, and what is kept of each."""
    for first in range(0, len(cols), batch):
        some = cols[first : first + batch]
        yield (
            torch.stack([z[:, row.start : row.stop, col.start : col.stop] for col in some]),
            [(row.kept, col.kept) for col in some],
        )


@torch.no_grad()
def exact_bands(decode: Decode, z: Tensor, side: int, reach: int, *, batch: int = 8) -> Iterator[Tensor]:
    """Bands (3, rows, f W), equal to decoding z (3, H, W) at once, for a decoder without statistics over space.

    Of each window, `side` latents are kept; it has `reach` more on every side.
    """
    rows, cols = (spans(length, side, reach) for length in z.shape[1:])
    for row in rows:
        kept = []
        for windows, parts in _windows(z, row, cols, batch):
            images = decode(windows)
            zoom = images.shape[-1] // windows.shape[-1]
            for image, part in zip(images, parts, strict=True):
                y, x = (slice(zoom * latents.start, zoom * latents.stop) for latents in part)
                kept.append(image[:, y, x].clone())
        yield torch.cat(kept, dim=2)


@torch.no_grad()
def blended_bands(
    decode: Decode, z: Tensor, side: int, stride: int | None = None, *, sigma: float = 0.8, batch: int = 8
) -> Iterator[Tensor]:
    """Bands (3, rows, f W) of z (3, H, W): means of windows of `side`, every `stride` (by default 3/4 of `side`).

    Published: side 64, stride 16, sigma 0.8. The last windows are shifted inwards, so that any size is covered.
    """
    height, width = z.shape[1:]
    side = min(side, height, width)
    stride = max(1, 3 * side // 4) if stride is None else stride
    band: Blend | None = None
    for row, following in pairwise([*starts(height, side, stride), height]):
        strip = z[:, row : row + side]
        places = cover(side, width, side, stride)
        images = torch.cat([decode(windows) for windows in cut(strip, places, side).split(batch)])  # (n, 3, f a, f a)
        zoom = images.shape[-1] // side
        if band is None:
            band = Blend((3, zoom * side, zoom * width), gaussian(zoom * side, sigma).to(images))
        band.add(images, zoom * places)
        done = zoom * (following - row)
        yield band.mean()[:, :done]
        for sums in (band.total, band.weights):
            sums.copy_(sums.roll(-done, dims=-2))
            sums[..., -done:, :] = 0
