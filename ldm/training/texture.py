"""Comparison of texture without phase: local energy by frequency and direction.

An autoencoder cannot reproduce texture that is finer than its latents represent. A pixel loss then makes it smooth;
these differences require the right amount of texture instead, regardless of its phase.

Shapes: b images (b, 3, h, w) in [-1, 1], k bands; windows of SIDE pixels.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

SIDE = 8
"""side of a window in pixels: bands are 1/8 cycle per pixel wide"""
STRIDE = 4
LEVELS = 2
"""the images at full size, then at half size"""
STEP = 1 / 127.5
"""step of 8-bit pixels in [-1, 1]: fainter texture is ignored"""
LINES = (16, 64)
"""side in pixels of the windows in which stripes are measured; the lattice in the last"""
CELL = 4
"""side of a latent cell in pixels"""


@lru_cache
def _waves() -> Tensor:
    """(2 k, 1, SIDE, SIDE) real and imaginary parts of the waves of a windowed Fourier transform, without means.

    Of two opposite frequencies one is kept, so that k = 33: bands distinguish directions.
    """
    place = torch.arange(SIDE, dtype=torch.float64)
    hann = torch.sin(torch.pi * (place + 0.5) / SIDE).square()
    window = torch.outer(hann, hann) / torch.outer(hann, hann).norm()
    half = SIDE // 2
    waves = []
    for v in range(half + 1):
        for u in range(1 - half if 0 < v < half else int(v == 0), half + 1):
            angle = 2 * torch.pi * (v * place[:, None] + u * place) / SIDE
            for wave in (angle.cos() * window, angle.sin() * window):
                waves.append(wave - window * wave.sum() / window.sum())
    return torch.stack(waves)[:, None].float()


def band_energy(x: Tensor) -> Tensor:
    """Local energy (b, 3, k, h', w') of every band and colour, averaged over 2x2 windows that overlap by a half.

    In float32, under autocast too: faint texture is a small difference of pixels.
    """
    with torch.autocast(x.device.type, enabled=False):
        waves = _waves().to(x.device)
        parts = F.conv2d(rearrange(x.float(), "b c h w -> (b c) 1 h w"), waves, stride=STRIDE)  # (b c, 2 k, h', w')
    energy = reduce(parts.square(), "n (k part) h w -> n k h w", "sum", part=2)
    energy = F.avg_pool2d(energy, min(2, *energy.shape[-2:]), stride=1)
    return rearrange(energy, "(b c) k h w -> b c k h w", b=len(x))


def band_energy_difference(x: Tensor, y: Tensor) -> Tensor:
    """Difference of the texture of y from that of x: 0 for equal images, about 1 where y has none.

    For every band, the generalised Kullback-Leibler divergence of y's local energies from x's, over x's mean energy in
    the batch, plus half the |log| of the ratio of the energies of the whole images. The divergence is minimal for the
    expected energy, however uncertain it is; an absolute difference would be minimal for its median, which is smaller.
    Averaged over colours, bands and levels.
    """
    terms = []
    for _ in range(LEVELS):
        energy_x, energy_y = band_energy(x), band_energy(y)  # (b, c, k, h', w')
        local_x, local_y = energy_x + STEP**2, energy_y + STEP**2
        size = reduce(local_x, "b c k h w -> 1 c k 1 1", "mean")
        terms.append(((local_x * (local_x / local_y).log() - local_x + local_y) / size).mean())
        whole_x, whole_y = (reduce(energy, "b c k h w -> b c k", "mean") + STEP**2 for energy in (energy_x, energy_y))
        terms.append((whole_y / whole_x).log().abs().mean() / 2)
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        if min(x.shape[-2:]) < SIDE:
            break
    return 2 * torch.stack(terms).mean()


def stripes(error: Tensor) -> Tensor:
    """Mean amplitude of patterns with a period of two pixels in `error`: columns, rows and checkerboards.

    Patterns are averaged over windows, so that fine texture, whose sign changes, contributes little.
    """
    h, w = error.shape[-2:]
    down, across = ((1 - 2 * (torch.arange(n, device=error.device) % 2)).to(error) for n in (h, w))
    patterns = torch.cat([error * across, error * down[:, None], error * across * down[:, None]], dim=1)
    sides = [min(side, h, w) for side in LINES]
    return torch.stack([F.avg_pool2d(patterns, side).abs().mean() for side in sides]).mean()


def lattice(error: Tensor) -> Tensor:
    """Mean amplitude of the pattern of `error` that repeats with every latent cell of CELL pixels.

    A decoder leaves one where it draws the pixels of a cell unlike each other whatever the latent. The error is
    averaged over windows for each of a cell's pixels; the windows' means, which are no pattern, are left out.
    """
    side = min(LINES[-1], *error.shape[-2:]) // CELL
    cells = rearrange(error, "b c (h y) (w x) -> b (c y x) h w", y=CELL, x=CELL)
    pixels = rearrange(F.avg_pool2d(cells, side), "b (c p) h w -> b c p h w", p=CELL**2)
    return (pixels - pixels.mean(dim=2, keepdim=True)).abs().mean()


def contrast_difference(x: Tensor, y: Tensor) -> Tensor:
    """Difference of y's contrast at the CELL x CELL places of a latent cell from that of x: 0 for equal images.

    Drawn texture may have its dark and bright pixels at the same places of every cell. That shows as a grid of dots,
    although their mean may be that of the original, so that `lattice` does not find it.
    """
    return (_contrast(y) - _contrast(x)).abs().mean()


def _contrast(x: Tensor) -> Tensor:
    """(CELL^2,) energy of the detail at each place of the latent cells over the mean of all places, of a batch."""
    detail = x - F.avg_pool2d(x, CELL + 1, stride=1, padding=CELL // 2, count_include_pad=False)
    energy = reduce(detail.square(), "b c (h y) (w x) -> b (y x)", "mean", y=CELL, x=CELL) + STEP**2
    return (energy / energy.mean(dim=1, keepdim=True)).mean(dim=0)
