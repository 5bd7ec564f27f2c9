"""Time that a joint sampling will still take: the windows that are left, and seconds per window, measured in its steps.

    clock = Clock(joint)
    for _ in joint.run():
        clock.tick()
        print(duration(clock.left()))

Windows differ in cost: some canvases are guided, and constrained windows are decoded and encoded as well. So seconds
per window are measured for each kind of window, from the second step of it on: the first includes what is done only
once. Of a kind that has not been sampled yet, one batch is tried out.
"""

import time
from collections import Counter
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch

from ldm.multiscale.canvas import Windows, correct
from ldm.multiscale.joint import OVERLAP, REPAIR, REPAIR_FROM, REPAIR_STRIDE, Joint
from ldm.multiscale.windows import number_of_starts


class WindowKind(NamedTuple):
    """A kind of windows, of equal cost."""

    canvas: str
    """a scale, "repair", or "all" where one step takes a step of every canvas"""
    codec: str | None
    """by what they are corrected towards the coarser canvas (`ldm.multiscale.presets.Rule`); None: not at all"""


def windows_left(joint: Joint) -> Counter[WindowKind]:
    """Number of windows that are still to be denoised, summed over the steps that are left."""
    left: Counter[WindowKind] = Counter()
    settings, steps = joint.settings, joint.scale_steps
    for scale in joint.scales[:-1] if joint.fixed is not None else joint.scales:
        done = joint.states[scale].step if scale in joint.states else 0
        together = bool(settings.rule.inner) and settings.lockstep
        for step in range(done, steps):
            codec = settings.rule.codec if together else joint.codec_of(scale, step)
            left[WindowKind("all" if together else scale, codec)] += windows_a_step(joint, scale, step)
    if settings.seam == "repair":
        done = joint.states[REPAIR].step if REPAIR in joint.states else 0
        windows = covering(joint, joint.scales[0], joint.chain.side // OVERLAP)
        left[WindowKind(REPAIR, None)] += (REPAIR_FROM // REPAIR_STRIDE - done) * windows
    return +left


def windows_a_step(joint: Joint, scale: str, step: int = 0) -> int:
    """Windows of a canvas in step number `step`."""
    settings, side = joint.settings, joint.chain.side
    stride = side // OVERLAP if settings.seam == "overlap" else side
    if step >= joint.scale_steps - settings.blended:
        stride -= joint.fade(scale)
    return covering(joint, scale, stride, joint.offset(scale, step))


def covering(joint: Joint, scale: str, stride: int, offset: tuple[int, int] = (0, 0)) -> int:
    """Number of windows `stride` apart that cover a canvas."""
    sides = zip(joint.chain.latents(scale), offset, strict=True)
    return prod(number_of_starts(length, joint.chain.side, stride, first) for length, first in sides)


class Clock:
    """Measures the steps of `joint` from its creation on."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint
        self.steps = 0
        """number of steps since"""
        self._left = windows_left(joint)
        self._rates: dict[WindowKind, float] = {}
        self._begun: set[WindowKind] = set()
        self._at = time.perf_counter()

    @property
    def windows(self) -> int:
        """Number of windows that are left."""
        return self._left.total()

    def tick(self) -> None:
        """To be called after each step; a step has windows of one kind."""
        now, left = time.perf_counter(), windows_left(self.joint)
        for kind, count in (self._left - left).items():
            if kind in self._begun:
                self._rates[kind] = (now - self._at) / count
            self._begun.add(kind)
        self.steps += 1
        self._left, self._at = left, now

    def left(self) -> float:
        """Seconds until the last step."""
        seconds = sum(count * self._rate(kind) for kind, count in self._left.items())
        self._at = time.perf_counter()  # what was tried out belongs to no step
        return seconds

    def _rate(self, kind: WindowKind) -> float:
        """Seconds per window."""
        if kind not in self._rates:
            a_step = windows_a_step(self.joint, self.joint.scales[0])
            shared = len(self.joint.processes.local_indices(a_step)) / a_step
            count = min(self.joint.batch_size, a_step)
            self._tried(kind.codec, count)  # the first call is slower
            self._rates[kind] = shared * self._tried(kind.codec, count) / count
        return self._rates[kind]

    def _tried(self, codec: str | None, count: int) -> float:
        started = time.perf_counter()
        try_windows(self.joint, codec, count)
        if self.joint.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def try_windows(joint: Joint, codec: str | None, count: int) -> None:
    """One step of `count` windows of the finest canvas, corrected through `codec` or not at all."""
    scale, side = joint.scales[0], joint.chain.side
    places = torch.zeros(count, 2, dtype=torch.long)
    z_t = torch.zeros(count, 3, side, side, device=joint.model.device)
    windows = Windows(z_t, joint.denoiser(scale, places), joint.canvas(scale).steps[0])
    if codec is not None:
        y = z_t.new_zeros(count, 3, *2 * [joint.model.tile_px // joint.chain.above(scale)])
        correct(windows, y, joint.codec, replace(joint.settings.rule, codec=codec, tolerance=-1.0))
    else:
        windows.predict()


def duration(seconds: float) -> str:
    """A duration as text, rounded."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(1, seconds):.0f} s"
