"""The constraint A x = y between two scales, and the directions in which latents are corrected.

x is a fine image, y the coarse one of the same place, A shrinks by an integer factor f. The error direction
in pixels is

    e_x = f^2 A' (y - A x)                            descends; the sign in the paper's Algorithm 2 is the opposite

It is mapped to latents through the encoder (paper, section 3.2; supplement 8.2, eq. 6 and 12) or the decoder (Algorithm
1), then to noisy latents through the denoiser (eq. 4). Each is a product with a Jacobian, computed by a finite
difference, by forward-mode differentiation (`jvp`: exact, also at half precision, where differences fail) or by
backpropagation. The first two cost about two evaluations, including that of the function: for the published networks,
forward mode takes 2.04 (U-Net), 2.05 (decoder) and 2.10 (encoder) times the operations of one evaluation.

Shapes: b windows, H, W pixels, f the factor between the scales.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from ldm.errors import UserError

Map = Callable[[Tensor], Tensor]
OPERATORS = ("area", "bicubic")
TAPS = 4
"""width of the cubic kernel in coarse pixels"""


@dataclass(frozen=True)
class Shrink:
    """A: images (b, 3, H, W) -> (b, 3, H/f, W/f).

    `kind` "area": means of f x f pixels, as in the preparation of slides. "bicubic", as published: the cubic kernel
    with a = -1/2, f times as wide, with symmetric padding. UserError for any other.
    """

    factor: int
    kind: str = "area"

    def __post_init__(self) -> None:
        if self.kind not in OPERATORS:
            raise UserError(f"operator: {self.kind} is unknown; it is one of {', '.join(OPERATORS)}")
        if self.factor < 2 or self.factor % 2:
            raise UserError(f"operator: factor {self.factor}; expected an even number, the ratio of two scales")

    @cached_property
    def _kernel(self) -> Tensor:
        """(TAPS f,) taps at the pixel centres, of sum 1; float32, as published."""
        x = ((torch.arange(TAPS * self.factor) + 0.5) / self.factor - TAPS / 2).abs()
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        taps = torch.where(x <= 1, near, far)
        return taps / taps.sum()

    @property
    def _margin(self) -> int:
        return (TAPS - 1) * self.factor // 2

    def __call__(self, x: Tensor) -> Tensor:
        """A x. UserError when a side of x is no multiple of f."""
        height, width = x.shape[-2:]
        if height % self.factor or width % self.factor:
            raise UserError(f"operator: image of {width}x{height} px; both sides must be multiples of {self.factor}")
        if self.kind == "area":
            return F.avg_pool2d(x, self.factor)
        for _ in range(2):
            x = self._along_width(x).mT
        return x

    def transpose(self, y: Tensor) -> Tensor:
        """A' y (b, 3, H, W) for y (b, 3, H/f, W/f): <A x, y> = <x, A' y>."""
        if self.kind == "area":
            return F.interpolate(y, scale_factor=self.factor, mode="nearest") / self.factor**2
        for _ in range(2):
            y = self._spread_width(y).mT
        return y

    def lift(self, y: Tensor) -> Tensor:
        """A smooth image x with A x close to y: f^2 A' y for the bicubic kind, that is, bicubic enlargement."""
        return self.factor**2 * Shrink(self.factor, "bicubic").transpose(y)

    def _along_width(self, x: Tensor) -> Tensor:
        rows = rearrange(x[..., self._mirrored(x.shape[-1])], "b c h w -> (b c h) 1 w")
        shrunk = F.conv1d(rows, self._kernel.to(x)[None, None], stride=self.factor)
        return rearrange(shrunk, "(b c h) 1 w -> b c h w", b=x.shape[0], c=x.shape[1])

    def _spread_width(self, y: Tensor) -> Tensor:
        rows = rearrange(y, "b c h w -> (b c h) 1 w")
        spread = F.conv_transpose1d(rows, self._kernel.to(y)[None, None], stride=self.factor)
        spread = rearrange(spread, "(b c h) 1 w -> b c h w", b=y.shape[0], c=y.shape[1])
        width = y.shape[-1] * self.factor
        folded = spread.new_zeros(*spread.shape[:-1], width)
        return folded.index_add_(-1, self._mirrored(width).to(y.device), spread)

    def _mirrored(self, width: int) -> Tensor:
        """Source index of each pixel of a padded row."""
        place = torch.arange(-self._margin, width + self._margin) % (2 * width)
        return torch.minimum(place, 2 * width - 1 - place)


def unit(e: Tensor) -> Tensor:
    """`e` (b, ...) divided by its largest magnitude per sample; zeros stay zero."""
    return e / e.abs().amax(dim=tuple(range(1, e.ndim)), keepdim=True).clamp(min=torch.finfo(e.dtype).tiny)


def difference(function: Map, x: Tensor, direction: Tensor, h: float, value: Tensor | None = None) -> Tensor:
    """(function(x + h direction) - function(x)) / h; `value` is function(x) where it is known."""
    return (function(x + h * direction) - (function(x) if value is None else value)) / h


class _FixedWeights(TorchFunctionMode):
    """Forward derivatives of convolutions and linear layers with constant weights: the layer applied to the tangent.

    PyTorch's rule also computes the product with the weights' tangent, which is zero and doubles the cost.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.conv2d, F.linear):
            return _product(func, *args, **(kwargs or {}))
        if func is F.group_norm:  # on a CPU, PyTorch 2.11's rule does not take feature maps channels last
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


def _product(
    func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None, *more: Any, **options: Any
) -> Tensor:
    """func(input, weight, bias, ...), which is affine in `input`, with its forward derivative."""
    value, tangent = forward_ad.unpack_dual(input)
    product = func(value, weight, bias, *more, **options)
    if tangent is None:
        return product
    return forward_ad.make_dual(product, func(tangent, weight, None, *more, **options))


def jvp(function: Map, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """function(x) and its exact derivative along `direction`, in forward mode, at twice the products of function(x).

    Products of attention take three times as many, as both factors vary. Weights of `function` get no derivative.
    """
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings(), _FixedWeights():
        # the fused attentions have no forward derivative
        warnings.simplefilter("ignore", FutureWarning)  # a warning of torch on first use
        value, derivative = forward_ad.unpack_dual(function(forward_ad.make_dual(x, direction)))
    return value, torch.zeros_like(value) if derivative is None else derivative


def vjp(function: Map, x: Tensor, direction: Tensor) -> Tensor:
    """The transposed Jacobian of `function` at x times `direction`, by backpropagation."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, direction)[0]


def back_project(x: Tensor, y: Tensor, shrink: Shrink, rounds: int, share: float = 1.0) -> Tensor:
    """Back-projection: smooth corrections of x (b, 3, H, W) that bring A x to y; a round adds share * lift(y - A x).

    Corrections contain no detail finer than y, so the fine texture of x is kept.
    """
    for _ in range(rounds):
        x = x + share * shrink.lift(y - shrink(x))
    return x


def project_bands(
    bands: Iterable[Tensor], y: Tensor, shrink: Shrink, rounds: int, share: float = 1.0
) -> Iterator[Tensor]:
    """`back_project` of an image (3, H, W) that comes in bands (3, rows, W), to y (3, H/f, W/f): bands of its rows.

    Memory: one band, and the rows within reach of a correction.
    """
    factor = shrink.factor
    reach = TAPS * rounds * factor
    """in rows: a round shrinks and lifts, each over less than TAPS / 2 coarse pixels"""
    height = factor * y.shape[1]
    waiting = y.new_zeros(3, 0, factor * y.shape[2])
    top = done = 0
    for band in bands:
        waiting = torch.cat([waiting, band], dim=1)
        bottom = top + waiting.shape[1]
        known = bottom if bottom == height else bottom - bottom % factor
        ready = known if known == height else max(done, known - reach - (known - reach) % factor)
        if ready == done:
            continue
        here = slice(top // factor, known // factor)
        projected = back_project(waiting[None, :, : known - top], y[None, :, here], shrink, rounds, share)[0]
        yield projected[:, done - top : ready - top]
        done = ready
        keep = max(0, done - reach)
        waiting, top = waiting[:, keep - top :], keep


class Residual:
    """Root mean square of A x - y, both in [-1, 1], for an image x (3, f h, f w) that comes in bands of rows."""

    def __init__(self, y: Tensor, factor: int) -> None:
        self._y, self._factor = y, factor
        self._waiting = y.new_zeros(3, 0, factor * y.shape[2])
        self._squares, self._rows = 0.0, 0

    def add(self, band: Tensor) -> None:
        """The next rows (3, any, f w)."""
        waiting = torch.cat([self._waiting, band], dim=1)
        ready = waiting.shape[1] // self._factor
        if ready:
            means = Shrink(self._factor)(waiting[None, :, : ready * self._factor])[0]
            self._squares += (means - self._y[:, self._rows : self._rows + ready]).square().sum().item()
        self._rows += ready
        self._waiting = waiting[:, ready * self._factor :]

    @property
    def rms(self) -> float:
        """Root mean square over the rows so far; NaN before the first."""
        count = self._rows * self._y[:, 0].numel()
        return (self._squares / count) ** 0.5 if count else float("nan")


def measured(bands: Iterable[Tensor], residual: Residual) -> Iterator[Tensor]:
    """`bands` as they are; `residual` is that of those taken so far."""
    for band in bands:
        residual.add(band)
        yield band
