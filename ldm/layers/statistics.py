"""GroupNorm with the statistics of a whole canvas, for a network that is run on windows of it.

With its own mean and variance, a window gets other colours and contrasts than its neighbour. With those of the canvas,
a network of convolutions and GroupNorms gives the same result for a window as for the canvas, away from the window's
border.

Statistics are computed one norm at a time, in execution order: a pass over all windows runs to the first norm without
statistics and sums its input. K norms take K passes, at the cost of about K / 2 complete runs.

Shapes: b windows, c channels, g groups, h w a window's size in cells of the network's input, H W in a norm's input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]
"""windows (b, c, h, w) -> the network's output"""
Part = tuple[slice, slice]
"""rows and columns of a window"""
Windows = Callable[[], Iterable[tuple[Tensor, Sequence[Part]]]]
"""batches (b, c, h, w) of windows, each window with the part of the canvas that it represents; parts partition it"""
Affine = tuple[Tensor, Tensor]
"""scale and shift (c, 1, 1) of a GroupNorm with known statistics"""


@torch.no_grad()
def share_statistics(network: nn.Module, run: Run, windows: Windows) -> Run:
    """`run`, which calls `network`, with the GroupNorm statistics of the canvas that `windows` cover.

    The network is not changed: only calls of the returned function differ. `windows` is called once per norm.
    """
    known: dict[nn.GroupNorm, Affine] = {}
    for _ in _norms(network):
        norm, sums = _sum_over_canvas(network, run, windows, known)
        known[norm] = _affine(norm, sums)

    def shared(z: Tensor) -> Tensor:
        with _under(network, known):
            return run(z)

    return shared


class _Unknown(Exception):
    """The network reached a norm without statistics."""

    def __init__(self, norm: nn.GroupNorm, x: Tensor) -> None:
        self.norm, self.x = norm, x


def _norms(network: nn.Module) -> list[nn.GroupNorm]:
    return [module for module in network.modules() if isinstance(module, nn.GroupNorm)]


@contextmanager
def _under(network: nn.Module, known: dict[nn.GroupNorm, Affine]) -> Iterator[None]:
    """Within the context, GroupNorms of `network` use the known statistics; one without raises _Unknown."""

    def normalise(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        norm = cast(nn.GroupNorm, norm)
        if norm not in known:
            raise _Unknown(norm, inputs[0])
        scale, shift = known[norm]
        return (inputs[0] * scale + shift).to(output.dtype)

    handles = [norm.register_forward_hook(normalise) for norm in _norms(network)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sum_over_canvas(
    network: nn.Module, run: Run, windows: Windows, known: dict[nn.GroupNorm, Affine]
) -> tuple[nn.GroupNorm, Tensor]:
    """The first norm without statistics, and count, sum and sum of squares (3, g) of its input over the canvas."""
    sums = torch.zeros(())
    for batch, parts in windows():
        try:
            with _under(network, known):
                run(batch)
        except _Unknown as reached:
            norm, x = reached.norm, reached.x  # (b, c, H, W)
        zoom = x.shape[-1] // batch.shape[-1]
        for sample, part in zip(x, parts, strict=True):
            rows, cols = (slice(zoom * cells.start, zoom * cells.stop) for cells in part)
            values = rearrange(sample[:, rows, cols].double(), "(g c) h w -> g (c h w)", g=norm.num_groups)
            count = torch.full_like(values[:, 0], values.shape[1])
            sums = sums.to(x.device) + torch.stack([count, values.sum(1), values.square().sum(1)])  # (3, g)
    return norm, sums


def _affine(norm: nn.GroupNorm, sums: Tensor) -> Affine:
    """Scale and shift (c, 1, 1) of `norm` for count, sum and sum of squares (3, g)."""
    count, total, squares = sums
    mean = total / count
    scale = torch.rsqrt(squares / count - mean**2 + norm.eps)
    per_group = norm.num_channels // norm.num_groups
    mean, scale = (repeat(value, "g -> (g c) 1 1", c=per_group) for value in (mean, scale))
    weight, bias = (rearrange(value, "c -> c 1 1") for value in (norm.weight, norm.bias))
    scale = scale * weight
    return scale.to(weight.dtype), (bias - mean * scale).to(weight.dtype)
