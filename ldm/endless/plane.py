"""The latents of one scale at any place, as a function of the seed and the place alone.

The steps of sampling are divided into groups, each with its own lattice of windows. A window is denoised alone, all
steps of its group in a row, cut out of the windows of the group before that cover it:

    W_g(i, j) = steps of group g on the window (i, j) of lattice g, cut out of W_{g-1}
    W_0       = noise, by (seed, scale, row, column) of its block

A scale that a coarser image constrains begins later, with that image, enlarged and encoded, under noise that hides the
detail which it lacks (as SDEdit does, Meng et al. 2022): W_0 of the first group is then made of y and the noise.

Lattices are shifted against each other, so no border stands still; windows overlap, with weights that fall to their
edges. So a place depends on few windows around it, whose results are kept (`ldm.endless.memo`).

On a processor a window is denoised alone, on a card a square of them as one batch, always the same ones: what is
computed beside a window can change its last digits.

Shapes: n windows, s latents a side, h, w latents of an area.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.samplers import ddim_timesteps, log_snr_timesteps, seeded_noise
from ldm.diffusion.schedule import add_noise
from ldm.diffusion.steps import Step, conditioned_on_more_noise, ddim_steps
from ldm.endless.drawn_map import DrawnMap
from ldm.endless.lattice import Area, WindowLattice, key_of
from ldm.endless.memo import Key, Memo
from ldm.multiscale.canvas import Codec, Windows, correct
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.joint import FOR_START
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.presets import Settings
from ldm.support.finite import checked

Coarse = Callable[[Area], Tensor]
"""an area in pixels of the coarser scale -> its image (3, h, w) in [-1, 1]"""


class Part(NamedTuple):
    """A group of steps: its share of them, and its lattice's offset and stride as shares of a window's side."""

    share: float
    offset: float
    stride: float


PARTS = (Part(1 / 2, 1 / 2, 7 / 8), Part(1 / 2, 0, 7 / 8))
"""Windows side by side in the first group leave lines on glass, of seam strength 1.3 to 1.7; with overlap it is 1.0"""
HIDING = 4.0
"""standard deviation of the noise, in those of latents, under which a constrained scale begins: the detail that the
coarser image lacks has about 1. From 1.4 on, dots of the decoders' lattice remained"""
ON_CARD = 4
"""windows a side that are denoised as one batch on a card"""


class Group(NamedTuple):
    """Steps that a window takes alone, the lattice of these windows, and how many a side are one batch."""

    steps: range
    lattice: WindowLattice
    cluster: int


def groups_of(parts: Sequence[Part], steps: range, side: int, grain: int, cluster: int = 1) -> list[Group]:
    """The groups of `steps` on windows of `side` latents, which begin at multiples of `grain` latents; those without a
    step are left out. Halves of a step are rounded down, so that of three steps each has a lattice of its own."""
    groups, first = [], steps.start
    for part, share in zip(parts, accumulate(part.share for part in parts), strict=True):
        last = steps.start + ceil(round(share * len(steps), 6) - 1 / 2)
        offset, stride = (round(share * side / grain) * grain for share in (part.offset, part.stride))
        if last > first:
            groups.append(Group(range(first, last), WindowLattice(side, max(grain, stride), offset), cluster))
        first = last
    return groups


@dataclass(frozen=True)
class ScalePlane:
    """The latents of `scale`; `coarser`, `factor`: the image that constrains them, and pixels that one of it spans."""

    model: MultiscaleModel
    scale: str
    settings: Settings
    guidance: float
    groups: Sequence[Group]
    conditions: DrawnMap
    memo: Memo
    seed: int
    coarser: Coarse | None
    factor: int

    def latents(self, area: Area, group: int | None = None) -> Tensor:
        """z (3, h, w) of an area after a group of steps, by default the last; -1: noise."""
        group = len(self.groups) - 1 if group is None else group
        _, lattice, cluster = self.groups[max(0, group)]
        if group < 0:
            blocks = WindowLattice(lattice.side, lattice.side)
            return joined(area, blocks, [(at, self._noise(*at)) for at in blocks.covering(area)])
        windows = lattice.covering(area)
        numbers = dict.fromkeys((row // cluster, col // cluster) for row, col in windows)
        keys = [Key("windows", self.scale, group, *number) for number in numbers]
        found = self.memo.all(keys, self._denoised)
        at = {
            place: window
            for number, batch in zip(numbers, found, strict=True)
            for place, window in zip(members(cluster, *number), batch, strict=True)
        }
        return joined(area, lattice, [(window, at[window]) for window in windows])

    def _noise(self, row: int, col: int) -> Tensor:
        """(3, s, s) of a block."""
        side = self.groups[0].lattice.side
        key = (FOR_START, self.model.ladder[self.scale].index, key_of(row), key_of(col))
        return seeded_noise((3, side, side), self.seed, *key).to(self.model.device)

    @torch.no_grad()
    def _denoised(self, key: Key) -> Tensor:
        """The windows (n, 3, s, s) of a cluster after the steps of its group."""
        group = self.groups[key.group]
        places = [group.lattice.area(*number) for number in members(group.cluster, key.row, key.col)]
        whole = Area(*places[0][:2], *places[-1][2:])
        before = self.latents(whole, key.group - 1)
        z_t = torch.stack([before[:, *place.within(whole)] for place in places])
        y = self._constraint(places, whole) if any(map(self._constrained, group.steps)) else None
        if y is not None and key.group == 0 and group.steps.start > 0:
            z_t = add_noise(self.model.encode(Shrink(self.factor).lift(y)), z_t, self.walk[group.steps.start].a_t)
        return self._walked(z_t, places, y, group.steps)

    def _walked(self, z_t: Tensor, places: Sequence[Area], y: Tensor | None, numbers: range) -> Tensor:
        """Windows z_t (n, 3, s, s) after steps `numbers`; y (n, 3, h, w): the coarse images that constrain them."""
        model = self.model
        context = self.conditions.context(self.scale, places)
        denoise = model.denoiser(context, self.guidance, self.settings.guidance_interval)
        codec = Codec(model.decode, model.encode, model.preview)
        for number in numbers:
            step = self.walk[number]
            windows = Windows(z_t, denoise, step)
            if y is not None and self._constrained(number):
                prediction = correct(windows, y, codec, self.settings.rule).prediction
            else:
                prediction = windows.predict()
            z_t = step.advance(prediction)
        return checked(z_t, f"windows of {self.scale} at latents {places[0].top}, {places[0].left}")

    def draft(self, row: int, col: int) -> Tensor:
        """z_0 (3, s, s) that is predicted of a window of the first lattice after its group: early and blurred."""
        steps, lattice, cluster = self.groups[0]
        key = Key("windows", self.scale, 0, row // cluster, col // cluster)
        batch = self.memo.get(key, partial(self._denoised, key))
        z_t = batch[members(cluster, key.row, key.col).index((row, col))][None]
        if steps.stop == len(self.walk):
            return z_t[0]
        denoise = self.model.denoiser(self.conditions.context(self.scale, [lattice.area(row, col)]), self.guidance)
        return Windows(z_t, denoise, self.walk[steps.stop]).predict().z_0[0]

    @cached_property
    def walk(self) -> list[Step]:
        """All steps."""
        steps, rule = walk(self.settings, self.model.alpha_bar), self.settings.rule
        return (
            conditioned_on_more_noise(steps, self.model.alpha_bar, rule.noise) if self.coarser and rule.inner else steps
        )

    def _constrained(self, number: int) -> bool:
        rule = self.settings.rule
        return self.coarser is not None and rule.inner > 0 and number < ceil(rule.until * self.settings.steps)

    def _constraint(self, places: Sequence[Area], whole: Area) -> Tensor:
        """The coarse images (n, 3, h, w) of windows."""
        assert self.coarser is not None
        per = self.factor
        whole_px = whole.times(self.model.downsample).over(per)
        image = self.coarser(whole_px)
        pieces = [place.times(self.model.downsample).over(per).within(whole_px) for place in places]
        return torch.stack([image[:, *piece] for piece in pieces])


def beginning(steps: Sequence[Step]) -> int:
    """Number of the last step whose noise is at least HIDING, with which a constrained scale begins; 0 without one."""
    return max((number for number, step in enumerate(steps) if 1 - step.a_t >= HIDING**2 * step.a_t), default=0)


def members(cluster: int, row: int, col: int) -> list[tuple[int, int]]:
    """The windows of a cluster of `cluster` x `cluster`, row by row."""
    return WindowLattice(1, 1).covering(WindowLattice(cluster, cluster).area(row, col))


def joined(area: Area, lattice: WindowLattice, windows: Sequence[tuple[tuple[int, int], Tensor]]) -> Tensor:
    """The weighted mean (3, h, w) of windows (3, s, s) over an area, in the order given."""
    weight = lattice.weight().to(windows[0][1])
    total = weight.new_zeros(3, area.height, area.width)
    weights = weight.new_zeros(area.height, area.width)
    for number, window in windows:
        place = lattice.area(*number)
        common = place.common(area)
        source, here = common.within(place), common.within(area)
        total[:, *here] += window[:, *source] * weight[source]
        weights[here] += weight[source]
    return total / weights


def walk(settings: Settings, alpha_bar: Tensor) -> list[Step]:
    """The steps of DDIM that settings name."""
    even = settings.timesteps == "even"
    timesteps = ddim_timesteps(settings.steps) if even else log_snr_timesteps(settings.steps, alpha_bar)
    return ddim_steps(timesteps, alpha_bar)
