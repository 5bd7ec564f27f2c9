"""How patches are sampled unless asked otherwise.

Chosen here alone; command lines read it without loading PyTorch.
"""

from ldm.errors import UserError

Interval = tuple[float, float]
"""(low, high) in sigma = sqrt((1 - alpha_bar) / alpha_bar), the noise of a timestep in units of the data's"""

STEPS = {"dpmpp": 10, "ddim": 100}
"""name of a sampler -> its usual number of steps"""
CONTEXT_STEPS = 20
"""of the CDM, with DPM++"""
SAMPLER = "dpmpp"
GUIDANCE = 1.0
GUIDANCE_INTERVAL: Interval | None = None
"""None: guided at all noise levels"""
SAMPLING = ("guidance", "guidance_interval", "sampler", "steps")
"""arguments of `ZoomLDM.sample_latents` that samples depend on, and options of commands"""


def check_interval(interval: Interval | None) -> None:
    """UserError unless it is None or 0 <= low < high."""
    if interval is None:
        return
    low, high = interval
    if not 0 <= low < high:
        raise UserError(
            f"guidance_interval: {low:g},{high:g}; expected two values of sigma, 0 or more, the lower first"
        )
