"""Settings for large images: the paper's, those of the released sampler, ours, and two baselines.

| | default | exact | paper | published |
|---|---|---|---|---|
| steps of DDIM | 8, even in log-SNR | 20 | 50 | 20, its own rule |
| guidance | 1.5; the finest canvas none | the same | 2 | 3 (it writes 2, in the other convention) |
| coarser canvas | finished first | finished first | in lock-step | in lock-step |
| corrections a step | 1, in the first 80 % | 1 of half length, in 90 % | 1 | 10 |
| a correction moves | z_0 | z_0 | z_t | z_t |
| by | least squares, preview head | the encoder's derivative | differences of 0.005 | the same, normalised |
| A | means | means | cubic | cubic |
| corrections leave noise of | 0.1 | 0 | 0 | 0 |
| seams | other windows every step, overlapping in the last 2 | other windows every step | repaired | repaired |
| at the end | one correction in pixels | one correction in pixels | | |

`exact` needs no preview head (`ldm.networks.preview_head`); models without one get it for `default`.

The baselines have no coarser canvas. "independent" samples tile by tile. "interpolated" is the large-image method of
Graikos et al. 2024: overlapping windows, each under embeddings interpolated between the tiles', averaged every step.
Neither is guided, as patches are not: guidance 2 doubles their Frechet distances (`docs/results/large.md`).

Ours needs no extra denoiser evaluation for the constraint, and no guidance for tiles, which the coarser canvas
constrains; the last steps, which add texture, are unconstrained (compared in `benchmarks/joint_sampling.md`).
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ldm.diffusion.defaults import Interval, check_interval
from ldm.errors import UserError

if TYPE_CHECKING:
    from ldm.multiscale.model import MultiscaleModel  # it imports torch, which options of commands must not

JACOBIANS = ("difference", "jvp", "backprop")
CODECS = (*JACOBIANS, "preview")
TIMESTEPS = ("even", "log-SNR", "released")
SEAMS = ("none", "jitter", "overlap", "repair")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How windows are constrained by the coarser scale. UserError for an unknown Jacobian approximation."""

    operator: str = "area"
    inner: int = 1
    """K, corrections per step; 0: unconstrained"""
    weight: float = 1.0
    """lambda, length of a correction"""
    codec: str = "difference"
    """Jacobian from pixels to latents: "difference" or "jvp" of the encoder, "backprop" through the decoder; "preview":
    neither, but least squares through the preview head, which determine the length of a correction"""
    zeta: float = 1.0
    """step of that difference; 1 is large enough for half precision"""
    denoiser: str | None = None
    """Jacobian from z_0 to z_t: "difference", "jvp" or "backprop"; None corrects z_0 and leaves eps as predicted"""
    delta: float = 0.005
    normalise: bool = False
    """divide directions by their largest magnitude, as published: the correction's size does not depend on the error"""
    tolerance: float = 0.0
    """root mean square of y - A x below which a window is not corrected"""
    noise: float = 0.0
    """standard deviation of the errors that corrections leave in z_0: the denoiser is told sqrt(sigma^2 + noise^2), so
    that it takes them for noise; else it keeps them as grain and specks"""
    until: float = 1.0
    """share of the steps, from the first, that are constrained"""
    exact_last: int = 0
    """number of constrained steps, the last ones, whose correction is by forward mode through decoder and encoder
    instead of the preview head, which is less accurate"""

    def __post_init__(self) -> None:
        if self.codec not in CODECS or self.denoiser not in (None, *JACOBIANS):
            raise UserError(
                f"rule: codec {self.codec}, denoiser {self.denoiser}; expected {', '.join(JACOBIANS)}, or preview for "
                "the codec"
            )
        if not 0 <= self.noise < math.inf:
            raise UserError(f"rule: noise {self.noise}; expected a standard deviation, 0 or more")
        if self.codec == "preview" and (self.operator != "area" or self.normalise):
            raise UserError(
                f"rule: codec preview with operator {self.operator}, normalise {self.normalise}; expected area and no "
                "normalisation, since least squares compare means and determine the length of a correction"
            )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an image is sampled."""

    steps: int = 20
    timesteps: str = "even"
    """of DDIM: "even", or those for patches ("log-SNR"); "released": the released sampler's own rule"""
    guidance: float = 2.0
    fine_guidance: float | None = None
    """guidance of the finest canvas, if it has a coarser one; None: the same"""
    guidance_interval: Interval | None = None
    """(low, high) in sigma outside which guidance is 1; None: guided at all noise levels"""
    rule: Rule = field(default_factory=Rule)
    lockstep: bool = False
    """the constraint is the coarser canvas at the same step, not the finished one"""
    quantize: bool = False
    """whether decoding within the loop quantises"""
    seam: str = "jitter"
    """"jitter": windows are shifted at every step; "overlap": overlapping windows are averaged at every step; "repair":
    the finished canvas is noised and denoised again in overlapping windows"""
    blended: int = 0
    """number of last steps in which windows that move ("jitter") also overlap, by a quarter"""
    rounds: int = 0
    """number of rounds of the final correction in pixels"""
    share: float = 1.0
    """share of y - A x that a round removes; removing all of it also removes texture that y lacks"""

    def __post_init__(self) -> None:
        if self.timesteps not in TIMESTEPS:
            raise UserError(f"timesteps: {self.timesteps} is unknown; it is one of {', '.join(TIMESTEPS)}")
        if self.seam not in SEAMS:
            raise UserError(f"seam: {self.seam} is unknown; it is one of {', '.join(SEAMS)}")
        check_interval(self.guidance_interval)
        if self.lockstep and self.rule.until < 1:
            raise UserError(f"until: {self.rule.until} in lock-step; expected 1, or the finished coarser image")


_FINITE = Rule(operator="bicubic", weight=0.5, zeta=0.005, denoiser="difference", delta=0.005)
_PREVIEW = Rule(codec="preview", until=0.8, noise=0.1)
_FREE = Rule(inner=0)
PRESETS = {
    "default": Settings(
        steps=8, timesteps="log-SNR", guidance=1.5, fine_guidance=1.0, rule=_PREVIEW, blended=2, rounds=1, share=0.7
    ),
    "exact": Settings(
        steps=20, guidance=1.5, fine_guidance=1.0, rule=Rule(codec="jvp", weight=0.5, until=0.9), rounds=1, share=0.85
    ),
    "paper": Settings(steps=50, rule=_FINITE, lockstep=True, seam="repair"),
    "published": Settings(
        timesteps="released",
        guidance=3.0,
        rule=replace(_FINITE, inner=10, normalise=True),
        lockstep=True,
        quantize=True,
        seam="repair",
    ),
    "independent": Settings(steps=30, guidance=1.0, rule=_FREE, seam="none"),
    "interpolated": Settings(steps=30, guidance=1.0, rule=_FREE, seam="overlap"),
}
"""settings by name"""


CONSISTENT = replace(
    PRESETS["default"],
    steps=12,
    timesteps="even",
    guidance=1.0,
    fine_guidance=None,
    rule=replace(_PREVIEW, until=1.0, exact_last=2, noise=0.2),
    rounds=4,
    share=1.0,
)
"""settings of super-resolution: y is a real image with all detail of its scale, so it constrains every step, and at the
end the pixels"""
EXACT_CONSISTENT = replace(
    PRESETS["exact"],
    guidance=1.0,
    fine_guidance=None,
    rule=replace(PRESETS["exact"].rule, weight=1.0, until=1.0, noise=0.2),
    rounds=4,
    share=1.0,
)
"""the same through decoder and encoder"""
SUPERRES_PRESETS = {"default": CONSISTENT, "exact": EXACT_CONSISTENT}
"""settings of super-resolution by name"""
WITHOUT_PREVIEW = {PRESETS["default"]: PRESETS["exact"], CONSISTENT: EXACT_CONSISTENT}
"""settings for models that have no preview head"""


def adapted(settings: Settings, model: "MultiscaleModel") -> Settings:
    """`settings` as `model` can follow them.

    Without a preview head, our own are replaced by the exact ones; UserError for others that need it. At half
    precision, which cannot resolve finite differences, derivatives are taken in forward mode.
    """
    if settings.rule.codec == "preview" and model.preview is None:
        if settings not in WITHOUT_PREVIEW:
            raise UserError("rule: codec preview, but the model has no preview head; give one, or choose preset exact")
        settings = WITHOUT_PREVIEW[settings]
    rule = settings.rule
    if model.precision != "fp32":
        exact = {"difference": "jvp"}
        rule = replace(
            rule, codec=exact.get(rule.codec, rule.codec), denoiser=exact.get(str(rule.denoiser), rule.denoiser)
        )
    return replace(settings, rule=rule)
