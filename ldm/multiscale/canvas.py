"""Images of any size: the windows of a canvas denoised step by step, held to a coarser canvas of the same place.

    for every step: cut windows -> predict z_0 and eps -> correct them towards A Dec(z_0) = y -> blend -> one step

(paper, section 3.2; supplement 8.2, Algorithm 2). y comes from the next coarser scale: its decoded prediction of the
same step (lock-step, as published) or its finished image. A coarser canvas hears nothing of a finer one, so a chain of
scales is a row of such loops, each one's `y` fed by the one before. Super-resolution is the loop with y given.

Letters: n windows, c channels, H, W latents of a canvas, f the factor between two scales.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import timestep
from ldm.diffusion.schedule import Prediction, predict
from ldm.diffusion.steps import Step
from ldm.multiscale.constraint import Map, Shrink, difference, jvp, unit, vjp
from ldm.multiscale.presets import Rule
from ldm.multiscale.windows import Blend, cover, cut

Target = Callable[[Tensor], Tensor]
"""places (n, 2) -> y (n, 3, h, w): what the images of these windows shrink to"""


@dataclass(frozen=True)
class Codec:
    """decode: latents (n, 3, h, w) -> images in [-1, 1], not clamped; encode: its inverse, unquantised."""

    decode: Map
    encode: Map


class Corrected(NamedTuple):
    """Windows after correction, and the root mean square of y - A x of each, (n,), before the last one."""

    prediction: Prediction
    error: Tensor


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """One scale's canvas: how its windows are denoised.

    `denoiser(places)` is the denoiser of the windows at places (n, 2); `offset(step)` shifts the windows of a step,
    which stand `stride` apart; `noise(step)` (3, H, W) is what a step adds. Of n windows this process denoises
    `mine(n)`; `total` sums over the processes after the steps that `meet` names, and before the next one only a
    process' own windows are valid: for windows that neither move nor overlap, that is enough.
    """

    steps: Sequence[Step]
    denoiser: Callable[[Tensor], Denoiser]
    side: int
    stride: int | None = None
    batch: int = 16
    offset: Callable[[int], tuple[int, int]] = lambda step: (0, 0)
    noise: Callable[[int], Tensor] | None = None
    mine: Callable[[int], range] = range
    total: Map = lambda x: x
    meet: Callable[[int], bool] = lambda step: True


class State(NamedTuple):
    """A canvas after some steps: z_t, the last prediction of z_0 (3, H, W), and the mean constraint error, if any."""

    step: int
    z_t: Tensor
    z_0: Tensor
    error: float | None
    whole: bool = True
    """whether it holds the windows of all processes"""


def denoise_canvas(
    z_t: Tensor,
    canvas: Canvas,
    *,
    first: int = 0,
    target: Callable[[int], Target] | None = None,
    codec: Codec | None = None,
    rule: Rule | None = None,
) -> Iterator[State]:
    """Denoise z_t (3, H, W) from step `first` on, one State after every step.

    With `target(step)`, `codec` and `rule`, windows are held to what the target says.
    """
    weight = torch.ones(canvas.side, canvas.side, dtype=z_t.dtype, device=z_t.device)
    height, width = z_t.shape[1:]
    for index in range(first, len(canvas.steps)):
        step = canvas.steps[index]
        places = cover(height, width, canvas.side, canvas.stride, canvas.offset(index))
        z_0, eps = Blend(z_t.shape, weight), Blend(z_t.shape, weight)
        held = rule is not None and rule.inner > 0 and index < rule.until * len(canvas.steps)
        y = target(index) if held and target else None
        errors = z_t.new_zeros(2)  # sum, count
        mine = places[list(canvas.mine(len(places)))]
        for some in mine.split(canvas.batch) if len(mine) else ():
            windows = Windows(cut(z_t, some, canvas.side), canvas.denoiser(some), step)
            if y is None or codec is None or rule is None:
                prediction = windows.predict()
            else:
                prediction, error = correct(windows, y(some).to(z_t), codec, rule)
                errors += torch.stack([error.sum(), error.new_full((), len(error))])
            z_0.add(prediction.z_0, some)
            eps.add(prediction.eps, some)
        if canvas.meet(index):
            for tensor in (z_0.total, z_0.weights, eps.total, eps.weights, errors):
                tensor.copy_(canvas.total(tensor))
        mean = Prediction(z_0.total.div_(z_0.weights), eps.total.div_(eps.weights))  # in place: canvases are large
        z_t = step.advance(mean, canvas.noise(index) if canvas.noise else None)
        del z_0, eps
        total, count = errors.tolist()
        yield State(index + 1, z_t, mean.z_0, total / count if count else None, canvas.meet(index))
        del mean


@dataclass
class Windows:
    """Noisy windows z_t (n, 3, side, side) of one step, and their denoiser."""

    z_t: Tensor
    denoise: Denoiser
    step: Step

    def predict(self, z_t: Tensor | None = None) -> Prediction:
        z_t = self.z_t if z_t is None else z_t
        a_t = self.step.a_t.to(z_t)
        return predict(self.denoise(z_t, timestep(z_t, self.step.t)), z_t, a_t, "eps")


def correct(windows: Windows, y: Tensor, codec: Codec, rule: Rule) -> Corrected:
    """Bring windows towards A Dec(z_0) = y (n, 3, h, w), `rule.inner` times (Algorithm 2, the inner loop).

    Windows whose error is within `rule.tolerance` are left alone.
    """
    prediction = windows.predict()
    error = y.new_zeros(len(y))
    for _ in range(rule.inner):
        image = codec.decode(prediction.z_0)
        shrink = Shrink(image.shape[-1] // y.shape[-1], rule.operator)
        gap = y - shrink(image)
        error = gap.square().mean(dim=(1, 2, 3)).sqrt()
        off = error > rule.tolerance
        if not off.any():
            break
        e = torch.zeros_like(prediction.z_0)
        e[off] = latent_direction(codec, prediction.z_0[off], image[off], shrink.lift(gap[off]), rule)
        prediction = move(windows, prediction, e, rule)
    return Corrected(prediction, error)


def latent_direction(codec: Codec, z_0: Tensor, image: Tensor, e: Tensor, rule: Rule) -> Tensor:
    """The direction in latents (n, 3, side, side) of the direction `e` in pixels of image = Dec(z_0) (eq. 6 and 12)."""
    e = unit(e) if rule.normalise else e
    if rule.codec == "difference":
        e = difference(codec.encode, image, e, rule.zeta, codec.encode(image))
    elif rule.codec == "jvp":
        e = jvp(codec.encode, image, e)[1]
    else:
        e = vjp(codec.decode, z_0, e)
    return unit(e) if rule.normalise else e


def move(windows: Windows, prediction: Prediction, e: Tensor, rule: Rule) -> Prediction:
    """Predictions whose z_0 went along e: either z_0 itself, or the z_t of `windows` through the denoiser (eq. 4)."""
    if rule.denoiser is None:
        return Prediction(prediction.z_0 + rule.weight * e, prediction.eps)

    def z_0_of(z_t: Tensor) -> Tensor:
        return windows.predict(z_t).z_0

    if rule.denoiser == "difference":
        g = difference(z_0_of, windows.z_t, e, rule.delta, prediction.z_0)
    elif rule.denoiser == "jvp":
        g = jvp(z_0_of, windows.z_t, e)[1]
    else:
        g = vjp(z_0_of, windows.z_t, e)
    windows.z_t = windows.z_t + rule.weight * (unit(g) if rule.normalise else g)
    return windows.predict()
