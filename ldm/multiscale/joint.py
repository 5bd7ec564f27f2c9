"""Joint multi-scale sampling with a loaded model: a chain of canvases, coarse to fine, each constraining the next.

    joint = Joint(model, ["20x", "5x"], height=1024, width=1024, conditions=conditions)
    for scale, state in joint.run():
        print(scale, state.step, state.error)
    image = torch.cat(list(joint.bands()), dim=1)                     # (3, height, width) in [-1, 1]

(paper, section 3.2 and supplement 8.2; `ldm.multiscale.presets` for the conventions.) `Joint.run` is Algorithm 2.

Shapes: H, W latents of a canvas, f the factor between two neighbouring scales of the chain.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from math import ceil

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.diffusion.samplers import ddim_timesteps, log_snr_timesteps
from ldm.diffusion.schedule import add_noise
from ldm.diffusion.steps import Step, conditioned_on_more_noise, ddim_steps, released_steps
from ldm.errors import UserError
from ldm.multiscale.canvas import Canvas, Codec, Constraint, State, denoise_canvas, denoise_step
from ldm.multiscale.chain import Chain
from ldm.multiscale.conditions import Conditions
from ldm.multiscale.constraint import Residual, Shrink, measured, project_bands
from ldm.multiscale.model import MultiscaleModel
from ldm.multiscale.presets import PRESETS, Rule, Settings, adapted
from ldm.multiscale.windows import canvas_noise, cut
from ldm.support.finite import checked
from ldm.support.processes import ALONE, Processes

FOR_START, FOR_STEP, FOR_OFFSET, FOR_REPAIR = 4, 5, 6, 7
"""purposes of a canvas' noise: the second key of its generators"""
REPAIR_FROM, REPAIR_STRIDE = 300, 50
"""noise level and step of the seam repair"""
OVERLAP = 4
"""number of windows per axis that cover a latent, where windows overlap"""
REPAIR = "repair"
"""key of the repair's canvas in `states`"""
SYNC_EVERY = 10
"""steps between exchanges of windows that neither move nor overlap, so that the canvas can be saved"""


@dataclass(kw_only=True)
class Joint:
    """An image of `height` x `width` pixels at the finest of `scales`, under `conditions`.

    Canvas sizes are rounded up to whole pixels of the coarsest scale. `fixed` is an image (3, h, w) in [-1, 1] that
    replaces the coarsest canvas (super-resolution). `states` holds the canvas of each scale so far; those of an
    earlier, interrupted run are continued. UserError for scales that the model does not have or a size below 1.
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
    before: Residual | None = field(default=None, init=False)
    """error of the constraint before the final correction in pixels, if there is one; known when `bands` has ended"""

    def __post_init__(self) -> None:
        self.settings = adapted(self.settings, self.model)
        self.chain = Chain(self.model, self.scales, self.height, self.width, moves=self.settings.seam == "jitter")
        self.scales = self.chain.scales
        """finest first"""
        if self.fixed is not None and len(self.scales) < 2:
            raise UserError(
                f"scales: {self.scales[0]} alone; the image that is given takes the coarsest of two or more"
            )

    def run(self) -> Iterator[tuple[str, State]]:
        """Algorithm 2. One (canvas, state) after every step; `states` is up to date at each.

        In lock-step, as published, a step of the finest canvas is one of all.
        NotFiniteError as soon as a canvas holds NaN or infinities.
        """
        for together in self._together():
            canvases = {scale: self.canvas(scale) for scale in together}
            image = cache(self.image)
            for step in range(self._begin(together), self.scale_steps):  # t = T ... 1, from noise
                taken: dict[str, State] = {}
                for scale in together:  # coarse to fine
                    constraint, coarser = None, self.chain.coarser(scale)
                    if coarser and self._constrained(step):  # A Dec(z_0) = y; y: the coarser canvas, decoded
                        y = self._decoded(taken[coarser].z_0) if coarser in taken else image(coarser)
                        constraint = Constraint(self._pieces(scale, y), self.codec, self.rule(step))
                    # in each window: z_0, eps = predict(z_t), moved towards y by eq. 4, 5, 6 and 12; then eq. 2
                    taken[scale] = denoise_step(self.states[scale], canvases[scale], constraint)
                    if taken[scale].whole:
                        checked(taken[scale].z_t, f"canvas {scale} after step {step + 1}")
                self.states |= {scale: state._replace(z_0=state.z_t) for scale, state in taken.items()}  # z_0 is large
                yield together[-1], self.states[together[-1]]
        if self.settings.seam == "repair":
            yield from self._repair()

    def _together(self) -> list[list[str]]:
        """Groups of canvases that are stepped together, coarse to fine: all in lock-step, else one at a time."""
        sampled = self.scales if self.fixed is None else self.scales[:-1]
        chain = list(reversed(sampled))
        return [chain] if self.settings.lockstep and self.settings.rule.inner else [[scale] for scale in chain]

    def _begin(self, together: Sequence[str]) -> int:
        """The first step of these canvases: 0 from noise, or the one where an earlier run was interrupted."""
        for scale in together:
            if scale not in self.states:
                self.states[scale] = State.begun(self._noise(scale, FOR_START))
        return self.states[together[-1]].step

    def _constrained(self, step: int) -> bool:
        return self.settings.rule.inner > 0 and step < self.settings.rule.until * self.scale_steps

    def codec_of(self, scale: str, step: int) -> str | None:
        """By what windows of a canvas are corrected in step number `step` (`Rule.codec`); None: they are free."""
        return self.rule(step).codec if self.chain.coarser(scale) and self._constrained(step) else None

    def rule(self, step: int) -> Rule:
        """The rule of step number `step`, if it is constrained."""
        rule = self.settings.rule
        exact = rule.codec == "preview" and step >= ceil(rule.until * self.scale_steps) - rule.exact_last
        return replace(rule, codec="jvp") if exact else rule

    def _repair(self) -> Iterator[tuple[str, State]]:
        """The published seam repair of the finest canvas (released code): noised, and denoised in other windows."""
        scale = self.scales[0]
        steps = released_steps(REPAIR_FROM, REPAIR_STRIDE, self.model.alpha_bar, reduced=True)
        start = self.states.get(REPAIR)
        if start is None:
            z_t = add_noise(self.states[scale].z_t, self._noise(scale, FOR_REPAIR), steps[0].a_t.float())
            start = State.begun(z_t)
        canvas = replace(
            self.canvas(scale),
            steps=steps,
            stride=self.chain.side // OVERLAP,
            fade=0,
            overlap_from=None,
            offsets=None,
            noise=partial(self._noise, scale, FOR_REPAIR),
            sync_every=1,
        )
        for state in denoise_canvas(start.z_t, canvas, first=start.step):
            self.states[REPAIR] = state
            yield REPAIR, self.states[REPAIR]

    @property
    def steps(self) -> int:
        """Steps of all canvases together."""
        sampled = len(self.scales) - (self.fixed is not None)
        repair = REPAIR_FROM // REPAIR_STRIDE if self.settings.seam == "repair" else 0
        return sampled * self.scale_steps + repair

    @property
    def scale_steps(self) -> int:
        """Steps of one canvas."""
        return len(self._walk)

    @property
    def done(self) -> int:
        """Steps taken so far."""
        return sum(state.step for state in self.states.values())

    @property
    def codec(self) -> Codec:
        decode = partial(self.model.decode, quantize=self.settings.quantize)
        return Codec(decode, self.model.encode, self.model.preview)

    @cached_property
    def _walk(self) -> list[Step]:
        """The sampling steps of a canvas."""
        alpha_bar, steps = self.model.alpha_bar, self.settings.steps
        if self.settings.timesteps == "released":
            return released_steps(len(alpha_bar), len(alpha_bar) // steps, alpha_bar)
        even = self.settings.timesteps == "even"
        return ddim_steps(ddim_timesteps(steps) if even else log_snr_timesteps(steps, alpha_bar), alpha_bar)

    def _steps(self, scale: str) -> list[Step]:
        """The sampling steps of one canvas."""
        rule = self.settings.rule
        corrected = self.chain.coarser(scale) is not None and rule.inner > 0
        return conditioned_on_more_noise(self._walk, self.model.alpha_bar, rule.noise) if corrected else self._walk

    def canvas(self, scale: str) -> Canvas:
        """The canvas of `scale`: its steps, windows and denoiser."""
        settings, side = self.settings, self.chain.side
        processes = ALONE if settings.lockstep and scale != self.scales[0] else self.processes
        overlaps = settings.seam == "overlap"
        moving = settings.seam == "jitter"
        moves = moving or any(length % side for length in self.chain.latents(scale))
        return Canvas(
            steps=self._steps(scale),
            denoiser=partial(self.denoiser, scale),
            side=side,
            stride=side // OVERLAP if overlaps else None,
            fade=self.fade(scale),
            overlap_from=self.scale_steps - settings.blended if settings.blended and moving else None,
            batch_size=self.batch_size,
            offsets=[self.offset(scale, step) for step in range(self.scale_steps)],
            noise=partial(self._noise, scale, FOR_STEP) if settings.timesteps == "released" else None,
            processes=processes,
            sync_every=1 if moves or overlaps or processes is ALONE else SYNC_EVERY,
        )

    def fade(self, scale: str) -> int:
        """Latents over which windows that move fade into each other: a quarter, in whole coarser pixels."""
        side, grain = self.chain.side, self._grain(scale)
        moves = self.settings.seam == "jitter" and 2 * grain <= side
        return max(grain, side // 4 // grain * grain) if moves else 0

    def _grain(self, scale: str) -> int:
        """Latents of a pixel of the coarser canvas, at least 1."""
        return max(1, self.chain.above(scale) // self.model.downsample)

    def borders(self, scale: str) -> tuple[int, tuple[int, int]]:
        """Where windows of the last step begin: the pixels between them, and (row, column) of the first ones."""
        pixels, last = self.model.downsample, self.scale_steps - 1
        stride = self.chain.side - (self.fade(scale) if self.settings.blended else 0)
        row, col = self.offset(scale, last)
        return pixels * stride, (pixels * row, pixels * col)

    def lattice(self, scale: str) -> int:
        """Pixels: the period of the latents of the coarser canvas, whose decoder's pattern this scale repeats."""
        return self.model.downsample * self.chain.above(scale)

    def denoiser(self, scale: str, places: Tensor) -> Denoiser:
        """The denoiser of windows of `scale` at places (n, 2)."""
        guidance, fine = self.settings.guidance, self.settings.fine_guidance
        if fine is not None and scale == self.scales[0] and len(self.scales) > 1:
            guidance = fine
        guidance = self.conditions.guidance(guidance)
        return self.model.denoiser(self.conditions.context(scale, places), guidance, self.settings.guidance_interval)

    def offset(self, scale: str, step: int) -> tuple[int, int]:
        """Random shift of the windows of a step, a multiple of a pixel of the coarser canvas."""
        if self.settings.seam != "jitter":
            return 0, 0
        grain = self._grain(scale)
        generator = np.random.default_rng((self.seed, FOR_OFFSET, self.model.ladder[scale].index, step))
        row, col = (grain * generator.integers(self.chain.side // grain, size=2)).tolist()
        return row, col

    def _noise(self, scale: str, purpose: int, *key: int) -> Tensor:
        """Noise (3, H, W), drawn tile by tile from the seed, the scale, its purpose and `key`."""
        key = (purpose, self.model.ladder[scale].index, *key)
        return canvas_noise(*self.chain.latents(scale), self.chain.side, self.seed, *key).to(self.model.device)

    def _pieces(self, scale: str, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Places of windows of `scale` -> the parts of the coarser `image` (3, h, w) there."""
        f = self.chain.above(scale)
        return lambda places: cut(image, places * self.model.downsample // f, self.model.tile_px // f)

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
            height, width = (self.model.downsample * length for length in self.chain.latents(scale))
            missing = (0, width - self.fixed.shape[2], 0, height - self.fixed.shape[1])
            return F.pad(self.fixed[None], missing, mode="replicate")[0].to(self.model.device)
        return self._decoded(self.states[scale].z_t)

    def bands(self) -> Iterator[Tensor]:
        """The finest image in [-1, 1] in bands of rows (3, rows, width), top to bottom."""
        last = self.states.get(REPAIR) or self.states[self.scales[0]]
        bands: Iterator[Tensor] = self.model.decode_canvas(last.z_t, self.batch_size)
        if self.settings.rounds and len(self.scales) > 1:
            shrink = Shrink(self.chain.above(self.scales[0]), self.settings.rule.operator)
            height, width = (length // shrink.factor for length in self.chain.padded)
            y = self.image(self.scales[1])[:, :height, :width]
            self.before = Residual(y, shrink.factor)
            bands = project_bands(measured(bands, self.before), y, shrink, self.settings.rounds, self.settings.share)
        left = self.height
        for band in bands:
            if left > 0:
                yield band[:, :left, : self.width].clamp(-1, 1)
            left -= band.shape[1]
