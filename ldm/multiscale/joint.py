"""Joint multi-scale sampling with a loaded model: a chain of canvases, coarse to fine, each constraining the next.

    joint = Joint(model, ["20x", "5x"], height=1024, width=1024, conditions=conditions)
    for scale, state in joint.run():
        print(scale, state.step, state.error)
    image = torch.cat(list(joint.bands()), dim=1)                     # (3, height, width) in [-1, 1]

(paper, section 3.2 and supplement 8.2; `ldm.multiscale.presets` for the conventions.)

Shapes: H, W latents of a canvas, f the factor between two neighbouring scales of the chain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.schedule import add_noise
from ldm.diffusion.steps import ddim_steps, released_steps
from ldm.errors import UserError
from ldm.multiscale.canvas import Canvas, Codec, State, Target, Windows, correct, denoise_canvas
from ldm.multiscale.conditions import Conditions
from ldm.multiscale.constraint import Shrink, project_bands
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.presets import PRESETS, Settings, at_precision
from ldm.multiscale.windows import canvas_noise, cut
from ldm.support.finite import checked
from ldm.support.processes import ALONE, Processes

FOR_START, FOR_STEP, FOR_OFFSET, FOR_REPAIR = 4, 5, 6, 7
"""what a canvas' noise is for: the second key of its generators"""
REPAIR_FROM, REPAIR_STRIDE = 300, 50
"""noise level and step of the seam repair"""
OVERLAP = 4
"""windows a side that see a latent, where windows overlap"""
REPAIR = "repair"
"""its canvas among the states"""
ROOM = 1.5
"""patches a side of the smallest canvas whose windows move"""
SYNC_EVERY = 10
"""steps after which processes exchange windows that neither move nor overlap, so that what they have can be saved"""


@dataclass(kw_only=True)
class Joint:
    """An image `height` x `width` pixels at the finest of `scales`, under `conditions`.

    The canvases are rounded up to whole pixels of the coarsest scale. `fixed` is an image (3, h, w) in [-1, 1] at the
    coarsest scale that stands for its canvas: super-resolution. `states` holds what was sampled so far, scale by scale;
    given from an earlier, interrupted run, it is gone on from.
    UserError for scales that the model does not have or a size below 1.
    """

    model: MultiscaleModel
    scales: Sequence[str]
    height: int
    width: int
    conditions: Conditions
    settings: Settings = PRESETS["default"]
    seed: int = 0
    batch_size: int = 16
    fixed: Tensor | None = None
    processes: Processes = ALONE
    states: dict[str, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zooms = sorted((self.model.ladder[name] for name in self.scales), key=lambda zoom: zoom.index)
        if len({zoom.name for zoom in zooms}) < len(self.scales) or not zooms:
            raise UserError(f"scales: {', '.join(self.scales)}; expected different scales, for example 20x,5x")
        if self.fixed is not None and len(zooms) < 2:
            raise UserError(f"scales: {zooms[0].name} alone; the image that is given takes the coarsest of two or more")
        if min(self.height, self.width) < 1:
            raise UserError(f"size: {self.width}x{self.height}; expected pixels, for example 1024x1024")
        self.scales = [zoom.name for zoom in zooms]
        """finest first"""
        self.settings = at_precision(self.settings, self.model.precision)
        grain = self.factor(self.scales[-1]) * self.model.downsample
        least = -(-self.model.tile_px // grain) * grain
        self.padded = tuple(max(least, -(-length // grain) * grain) for length in (self.height, self.width))

    @property
    def side(self) -> int:
        """Latents of a tile a side."""
        return self.model.tile_px // self.model.downsample

    def factor(self, scale: str, finer: str | None = None) -> int:
        """Pixels of the finest scale (or of `finer`) that one of `scale` spans."""
        below = self.model.ladder[finer or self.scales[0]]
        return self.model.ladder[scale].downsample // below.downsample

    def latents(self, scale: str) -> tuple[int, int]:
        """Size (H, W) of a scale's canvas.

        At least a patch, of which finer canvases may need only the first rows and columns; where windows move, coarser
        canvases get room for it, or the tiles of their conditions would show.
        """
        moves = self.settings.seam == "jitter" and scale != self.scales[0]
        least = int(ROOM * self.side) if moves else self.side
        shrink = self.factor(scale) * self.model.downsample
        height, width = (max(least, length // shrink) for length in self.padded)
        return height, width

    @property
    def steps(self) -> int:
        """Of all canvases together."""
        sampled = len(self.scales) - (self.fixed is not None)
        repair = REPAIR_FROM // REPAIR_STRIDE if self.settings.seam == "repair" else 0
        return sampled * self.scale_steps + repair

    @property
    def scale_steps(self) -> int:
        """Of one canvas."""
        return len(self._canvas(self.scales[0]).steps)

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return sum(state.step for state in self.states.values())

    def run(self) -> Iterator[tuple[str, State]]:
        """Sample, one (canvas, state) after every step; `states` is up to date at each.

        NotFiniteError as soon as a canvas holds NaN or infinities.
        """
        for scale, state in self._steps():
            if state.whole:
                checked(state.z_t, f"canvas {scale} after step {state.step}")
            yield scale, state

    def _steps(self) -> Iterator[tuple[str, State]]:
        chain = list(reversed(self.scales))
        if self.fixed is not None:
            chain = chain[1:]
        if self.settings.lockstep and self.settings.rule.inner:
            yield from self._lockstep(chain)
        else:
            for scale in chain:
                yield from self._sample(scale, self._finished(scale))
        if self.settings.seam == "repair":
            yield from self._repair()

    def _lockstep(self, chain: Sequence[str]) -> Iterator[tuple[str, State]]:
        """The finest canvas of `chain` (coarse to fine); each of its steps takes one step of the canvas above it."""
        *above, scale = chain
        if not above:
            yield from self._sample(scale, self._finished(scale) if self.fixed is not None else None)
            return
        coarser = self._lockstep(above)

        def target(step: int) -> Target:
            state = self.states.get(above[-1])
            if state is None or state.step <= step:  # it is ahead where this very step was interrupted
                _, state = next(coarser)
            return self._target(scale, self._decoded(state.z_0))

        yield from self._sample(scale, target)

    def _sample(self, scale: str, target: Callable[[int], Target] | None) -> Iterator[tuple[str, State]]:
        start = self.states.get(scale)
        if start is None:
            noise = self._noise(scale, FOR_START)
            start = State(0, noise, noise, None)
        canvas = self._canvas(scale)
        rule = self.settings.rule
        for state in denoise_canvas(start.z_t, canvas, first=start.step, target=target, codec=self._codec, rule=rule):
            kept = state if self.settings.lockstep else state._replace(z_0=state.z_t)  # canvases are large
            self.states[scale] = kept
            yield scale, kept

    def _repair(self) -> Iterator[tuple[str, State]]:
        """The published seam repair of the finest canvas (released code)."""
        scale = self.scales[0]
        steps = released_steps(REPAIR_FROM, REPAIR_STRIDE, self.model.alpha_bar, reduced=True)
        start = self.states.get(REPAIR)
        if start is None:
            z_t = add_noise(self.states[scale].z_t, self._noise(scale, FOR_REPAIR), steps[0].a_t.float())
            start = State(0, z_t, z_t, None)
        canvas = replace(
            self._canvas(scale),
            steps=steps,
            stride=self.side // OVERLAP,
            offsets=None,
            noise=partial(self._noise, scale, FOR_REPAIR),
            sync_every=1,
        )
        for state in denoise_canvas(start.z_t, canvas, first=start.step):
            self.states[REPAIR] = state
            yield REPAIR, state

    def one_window(self, held: bool) -> None:
        """What a step does with one window of the finest canvas, `held` to a coarser one or not: for its time."""
        scale = self.scales[0]
        places = torch.zeros(1, 2, dtype=torch.long)
        z_t = torch.zeros(1, 3, self.side, self.side, device=self.model.device)
        windows = Windows(z_t, self.denoiser(scale, places), self._canvas(scale).steps[0])
        if held:
            y = z_t.new_zeros(1, 3, *2 * [self.model.tile_px // self._above(scale)])
            correct(windows, y, self._codec, replace(self.settings.rule, tolerance=-1.0))
        else:
            windows.predict()

    @property
    def _codec(self) -> Codec:
        return Codec(partial(self.model.decode, quantize=self.settings.quantize), self.model.encode)

    def _canvas(self, scale: str) -> Canvas:
        settings, alpha_bar = self.settings, self.model.alpha_bar
        if settings.released:
            steps = released_steps(len(alpha_bar), len(alpha_bar) // settings.steps, alpha_bar)
        else:
            steps = ddim_steps(settings.steps, alpha_bar)
        alone = settings.lockstep and scale != self.scales[0]
        processes = ALONE if alone else self.processes
        overlaps = settings.seam == "overlap"
        moves = settings.seam == "jitter" or any(length % self.side for length in self.latents(scale))
        return Canvas(
            steps=steps,
            denoiser=partial(self.denoiser, scale),
            side=self.side,
            stride=self.side // OVERLAP if overlaps else None,
            batch_size=self.batch_size,
            offsets=[self._offset(scale, step) for step in range(len(steps))],
            noise=partial(self._noise, scale, FOR_STEP) if settings.released else None,
            processes=processes,
            sync_every=1 if moves or overlaps or processes is ALONE else SYNC_EVERY,
        )

    def denoiser(self, scale: str, places: Tensor) -> Denoiser:
        """Of the windows of `scale` at places (n, 2)."""
        guidance, fine = self.settings.guidance, self.settings.fine_guidance
        if fine is not None and scale == self.scales[0] and len(self.scales) > 1:
            guidance = fine
        return self.model.denoiser(self.conditions.context(scale, places), self.conditions.guidance(guidance))

    def _offset(self, scale: str, step: int) -> tuple[int, int]:
        """Where the windows of a step begin: anywhere that falls on whole pixels of the coarser canvas."""
        if self.settings.seam != "jitter":
            return 0, 0
        grain = max(1, self._above(scale) // self.model.downsample)
        generator = np.random.default_rng((self.seed, FOR_OFFSET, self.model.ladder[scale].index, step))
        row, col = (grain * generator.integers(self.side // grain, size=2)).tolist()
        return row, col

    def _noise(self, scale: str, purpose: int, *key: int) -> Tensor:
        """(3, H, W), tile by tile from the seed, the scale, what it is for and `key`."""
        index = self.model.ladder[scale].index
        return canvas_noise(*self.latents(scale), self.side, self.seed, purpose, index, *key).to(self.model.device)

    def _above(self, scale: str) -> int:
        """Pixels of `scale` that one of the next coarser scale of the chain spans; 1 at the top."""
        place = self.scales.index(scale) + 1
        return self.factor(self.scales[place], scale) if place < len(self.scales) else 1

    def _finished(self, scale: str) -> Callable[[int], Target] | None:
        """What constrains `scale`: the finished image of the next coarser scale, None at the top."""
        place = self.scales.index(scale) + 1
        if place == len(self.scales):
            return None
        target = self._target(scale, self.image(self.scales[place]))
        return lambda step: target

    def _target(self, scale: str, image: Tensor) -> Target:
        """The pieces of the coarser `image` (3, h, w) under windows of `scale`."""
        factor = self._above(scale)
        side = self.model.tile_px // factor

        def pieces(places: Tensor) -> Tensor:
            return cut(image, places * self.model.downsample // factor, side)

        return pieces

    def _decoded(self, z: Tensor) -> Tensor:
        height, width = (self.model.downsample * length for length in z.shape[1:])
        image, done = z.new_empty(3, height, width), 0
        for band in self.model.decode_canvas(z, self.batch_size):
            image[:, done : done + band.shape[1]] = band.clamp(-1, 1)
            done += band.shape[1]
        return image

    def image(self, scale: str) -> Tensor:
        """The image (3, h, w) in [-1, 1] of a finished canvas, or the fixed one."""
        if self.fixed is not None and scale == self.scales[-1]:
            height, width = (self.model.downsample * length for length in self.latents(scale))
            missing = (0, width - self.fixed.shape[2], 0, height - self.fixed.shape[1])
            return F.pad(self.fixed[None], missing, mode="replicate")[0].to(self.model.device)
        return self._decoded(self.states[scale].z_t)

    def bands(self) -> Iterator[Tensor]:
        """The finest image in [-1, 1] in bands of rows (3, rows, width), top to bottom."""
        last = self.states.get(REPAIR) or self.states[self.scales[0]]
        bands: Iterator[Tensor] = self.model.decode_canvas(last.z_t, self.batch_size)
        if self.settings.rounds and len(self.scales) > 1:
            shrink = Shrink(self._above(self.scales[0]), self.settings.rule.operator)
            height, width = (length // shrink.factor for length in self.padded)
            y = self.image(self.scales[1])[:, :height, :width]
            bands = project_bands(bands, y, shrink, self.settings.rounds, self.settings.share)
        left = self.height
        for band in bands:
            if left > 0:
                yield band[:, :left, : self.width].clamp(-1, 1)
            left -= band.shape[1]
