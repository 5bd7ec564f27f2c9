"""One step of one canvas of Algorithm 2: its windows denoised under the constraint of a coarser canvas.

    denoise_step                                                   supplement 8.2, Algorithm 2
        cut z_t into windows
        z_0, eps = predict(denoise(z_t, t))                        the denoiser's prediction of each window
        K times: z_0, eps = correct towards A Dec(z_0) = y         inner loop: eq. 4, 6 and 12 (`correct`)
        average z_0 and eps where windows overlap
        z_t = the scheduler's step from z_0 and eps

(paper, section 3.2.) y is the image of the next coarser scale: its decoded prediction at the same step (lock-step, as
published) or its finished image. `ldm.multiscale.joint` is the loop over steps and scales. In super-resolution y is
given.

Shapes: n windows, H, W latents of a canvas, f the factor between two scales.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import timestep
from ldm.diffusion.schedule import Prediction, predict
from ldm.diffusion.steps import Step
from ldm.multiscale.constraint import Map, Shrink, difference, jvp, unit, vjp
from ldm.multiscale.least_squares import damping_of, least_squares
from ldm.multiscale.model import Preview
from ldm.multiscale.presets import Rule
from ldm.multiscale.windows import Blend, cover, cut, ramp
from ldm.support.processes import ALONE, Processes

Target = Callable[[Tensor], Tensor]
"""places (n, 2) -> y (n, 3, h, w), the coarse images of these windows"""


@dataclass(frozen=True)
class Codec:
    """decode: latents (n, 3, h, w) -> images in [-1, 1], not clamped; encode: its inverse, unquantised.

    preview: latents -> images at half their resolution, in place of both; None: the model has no head for it.
    """

    decode: Map
    encode: Map
    preview: Preview | None = None


class Corrected(NamedTuple):
    """Windows after correction, and the root mean square of y - A x of each, (n,), before the last one."""

    prediction: Prediction
    error: Tensor


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The canvas of one scale: the windows of each step, and their denoiser."""

    steps: Sequence[Step]
    denoiser: Callable[[Tensor], Denoiser]
    """places (n, 2) of windows -> their denoiser"""
    side: int
    """side of a window in latents"""
    stride: int | None = None
    """distance between windows in latents; None: side by side"""
    offsets: Sequence[tuple[int, int]] | None = None
    """number of a step -> (row, column) by which its windows are shifted; None: no shift"""
    noise: Callable[[int], Tensor] | None = None
    """number of a step -> the noise (3, H, W) that it adds; None: no noise"""
    fade: int = 0
    """latents over which the weight of a window falls towards its borders, which counts where windows overlap"""
    overlap_from: int | None = None
    """number of the step from which on windows overlap by `fade`; None: only at the canvas' border"""
    batch_size: int = 16
    """windows at a time"""
    processes: Processes = ALONE
    """processes that share the windows"""
    sync_every: int = 1
    """steps after which processes exchange their windows, besides the last; above 1 for windows that neither move nor
    overlap, since between two exchanges a process has only its own windows"""

    def windows(self, step: int, height: int, width: int) -> Tensor:
        """Places (n, 2) of this process' windows at step number `step` on a canvas of height x width latents."""
        offset = (0, 0) if self.offsets is None else self.offsets[step]
        overlaps = self.overlap_from is not None and step >= self.overlap_from
        stride = self.side - self.fade if overlaps else self.stride
        places = cover(height, width, self.side, stride, offset)
        return places[list(self.processes.local_indices(len(places)))]

    def synchronises(self, step: int) -> bool:
        """Whether processes exchange their windows after step number `step`."""
        return (step + 1) % self.sync_every == 0 or step + 1 == len(self.steps)


class State(NamedTuple):
    """A canvas after some steps: z_t and the last predicted z_0 (3, H, W), and the mean constraint error, if any."""

    step: int
    z_t: Tensor
    z_0: Tensor
    error: float | None
    whole: bool = True
    """whether it holds the windows of all processes"""

    @classmethod
    def begun(cls, z_t: Tensor, step: int = 0) -> "State":
        """The state before step number `step`, the first one."""
        return cls(step, z_t, z_t, None)


@dataclass(frozen=True)
class Constraint:
    """The constraint A Dec(z_0) = y on windows."""

    y: Target
    codec: Codec
    rule: Rule


def denoise_step(state: State, canvas: Canvas, constraint: Constraint | None = None) -> State:
    """The next step of a canvas: the body of Algorithm 2's loop over timesteps."""
    index, z_t, step = state.step, state.z_t, canvas.steps[state.step]
    weight = ramp(canvas.side, canvas.fade).to(z_t)
    z_0, eps = Blend(z_t.shape, weight), Blend(z_t.shape, weight)
    errors = z_t.new_zeros(2)  # sum, count
    places = canvas.windows(index, *z_t.shape[1:])
    for here in torch.split(places, canvas.batch_size) if len(places) else ():
        windows = Windows(cut(z_t, here, canvas.side), canvas.denoiser(here), step)
        if constraint is None:
            prediction = windows.predict()
        else:
            y = constraint.y(here).to(z_t)
            prediction, error = correct(windows, y, constraint.codec, constraint.rule)
            errors += torch.stack([error.sum(), error.new_full((), len(error))])
        z_0.add(prediction.z_0, here)
        eps.add(prediction.eps, here)
    if canvas.synchronises(index):
        for tensor in (z_0.total, z_0.weights, eps.total, eps.weights, errors):
            tensor.copy_(canvas.processes.all_reduce_sum(tensor))
    mean = Prediction(z_0.total.div_(z_0.weights), eps.total.div_(eps.weights))  # in place: canvases are large
    z_next = step.advance(mean, canvas.noise(index) if canvas.noise else None)
    total, count = errors.tolist()
    return State(index + 1, z_next, mean.z_0, total / count if count else None, canvas.synchronises(index))


def denoise_canvas(z_t: Tensor, canvas: Canvas, first: int = 0) -> Iterator[State]:
    """Denoise z_t (3, H, W) from step number `first` on, without a constraint; one State after every step."""
    state = State.begun(z_t, first)
    while state.step < len(canvas.steps):
        state = denoise_step(state, canvas)
        yield state


@dataclass
class Windows:
    """Noisy windows z_t (n, 3, side, side) of one step, and their denoiser."""

    z_t: Tensor
    denoise: Denoiser
    step: Step

    def predict(self, z_t: Tensor | None = None) -> Prediction:
        """z_0 and eps (n, 3, side, side) of these windows, or of `z_t` in their place."""
        z_t, level = self.step.level(self.z_t if z_t is None else z_t)
        return predict(self.denoise(z_t, timestep(z_t, level.t)), z_t, level.a_t.to(z_t), "eps")


def correct(windows: Windows, y: Tensor, codec: Codec, rule: Rule) -> Corrected:
    """Move windows towards A Dec(z_0) = y (n, 3, h, w), `rule.inner` times (Algorithm 2, the inner loop).

    Windows whose error is within `rule.tolerance` are left alone.
    """
    prediction = windows.predict()
    error = y.new_zeros(len(y))
    direction = preview_direction if rule.codec == "preview" else codec_direction
    for _ in range(rule.inner):
        e, error = direction(prediction.z_0, y, codec, rule)
        if not e.any():
            break
        prediction = move(windows, prediction, e, rule)
    return Corrected(prediction, error)


def preview_direction(z_0: Tensor, y: Tensor, codec: Codec, rule: Rule) -> tuple[Tensor, Tensor]:
    """The correction of latents by least squares through the preview head, and the error (n,) before it."""
    assert codec.preview is not None  # `ldm.multiscale.presets.adapted` sees to that
    at = codec.preview.linearised(z_0)
    f = at.value.shape[-1] // y.shape[-1]
    gap = y - F.avg_pool2d(at.value, f)
    error = _rms(gap)
    d = least_squares(at, F.interpolate(gap, scale_factor=f, mode="bicubic"), damping_of(codec.preview.error))
    return torch.where(error[:, None, None, None] > rule.tolerance, d, 0), error


def codec_direction(z_0: Tensor, y: Tensor, codec: Codec, rule: Rule) -> tuple[Tensor, Tensor]:
    """The direction in latents for the error of the decoded image (eq. 6 and 12), and that error (n,)."""
    image = codec.decode(z_0)
    shrink = Shrink(image.shape[-1] // y.shape[-1], rule.operator)
    gap = y - shrink(image)
    error = _rms(gap)
    off, e = error > rule.tolerance, torch.zeros_like(z_0)
    if off.any():
        e[off] = latent_direction(codec, z_0[off], image[off], shrink.lift(gap[off]), rule)
    return e, error


def _rms(gap: Tensor) -> Tensor:
    return gap.square().mean(dim=(1, 2, 3)).sqrt()


def latent_direction(codec: Codec, z_0: Tensor, image: Tensor, e: Tensor, rule: Rule) -> Tensor:
    """The direction in latents (n, 3, side, side) for a direction `e` in pixels of image = Dec(z_0) (eq. 6 and 12)."""
    e = unit(e) if rule.normalise else e
    if rule.codec == "difference":
        e = difference(codec.encode, image, e, rule.zeta, codec.encode(image))
    elif rule.codec == "jvp":
        e = jvp(codec.encode, image, e)[1]
    else:
        e = vjp(codec.decode, z_0, e)
    return unit(e) if rule.normalise else e


def move(windows: Windows, prediction: Prediction, e: Tensor, rule: Rule) -> Prediction:
    """Predictions after a correction along e: of z_0, or of the z_t of `windows` by the denoiser's Jacobian (eq. 4)."""
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
