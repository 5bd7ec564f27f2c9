"""Estimated memory, disk space and time of a large sampling, before it begins; refused where it cannot fit.

Memory counts what grows with the image: a canvas that is denoised takes BYTES_A_LATENT (measured: 82 to 92 bytes), a
finished one its latents, and the image of the next coarser scale while it is used as constraint. The networks and a
batch of windows are not included. Time is the measured time of one window, multiplied by the number of windows.

Shapes: H, W latents of a canvas.
"""

import shutil
import time
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from ldm.errors import UserError
from ldm.multiscale.canvas import Windows, correct
from ldm.multiscale.joint import OVERLAP, REPAIR_FROM, REPAIR_STRIDE, Joint
from ldm.support.machines import available_memory

BYTES_A_LATENT = 96
KEPT_BYTES = 12
"""bytes per latent of a finished canvas, in memory or in a file"""
PIXELS_A_LATENT = 16
JPEG_BYTES = 1.5
"""bytes on disk per pixel, with the pyramid's levels and temporary files"""
GB = 1e9


@dataclass(frozen=True)
class Cost:
    """Bytes of memory and of disk space, and number of model evaluations on one window."""

    memory: int
    disk: int
    windows: int

    def check(self, what: str, folder: Path, device: torch.device) -> None:
        """UserError when it exceeds free memory or disk space."""
        if device.type == "cuda":
            free, place = torch.cuda.mem_get_info(device)[0], "on the GPU"
        else:
            free, place = available_memory(), "on this machine"
        while not folder.exists():
            folder = folder.parent
        on_disk = shutil.disk_usage(folder).free
        for needed, found, kind, where in (
            (self.memory, free, "memory", place),
            (self.disk, on_disk, "disk", f"in {folder.resolve()}"),
        ):
            if needed > found:
                raise UserError(
                    f"{what}: needs about {size(needed)} of {kind}, {size(found)} are free {where}; "
                    "choose a smaller image"
                )

    def told(self, seconds: float) -> str:
        """The estimate in one line; `seconds` per window."""
        return (
            f"about {size(self.memory)} of memory and {size(self.disk)} on the disk; "
            f"about {duration(seconds * self.windows)}: {self.windows:,} windows, {seconds:.2g} s each"
        )


def size(count: float) -> str:
    """A number of bytes as text, in MB or GB."""
    if count < GB:
        return f"{max(1, count / 1e6):.0f} MB"
    return f"{count / GB:.2g} GB" if count < 10 * GB else f"{count / GB:,.0f} GB"


def duration(seconds: float) -> str:
    """A duration as text, rounded."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{max(1, seconds):.0f} s"


def cost_of(joint: Joint, inferred: bool = False) -> Cost:
    """Cost of sampling `joint` and writing its image; `inferred`: conditions are inferred from an image in memory."""
    sizes = {scale: joint.chain.latents(scale) for scale in joint.scales}
    latents = {scale: height * width for scale, (height, width) in sizes.items()}
    finest = joint.scales[0]
    sampled = joint.scales[:-1] if joint.fixed is not None else joint.scales
    at_once = sum(latents.values()) if joint.settings.lockstep else latents[finest]
    above = latents[joint.scales[1]] if len(joint.scales) > 1 else 0
    memory = BYTES_A_LATENT * at_once + KEPT_BYTES * sum(latents.values())
    memory += 2 * 4 * 3 * PIXELS_A_LATENT * above  # its image, and a copy of another size
    tiles = latents[finest] * joint.model.ladder[finest].downsample ** 2 / joint.chain.side**2
    memory += ceil(4 * 4 / 3 * tiles * joint.model.embedding_width)
    memory += (3 * PIXELS_A_LATENT + 2 * KEPT_BYTES) * latents[finest] if inferred else 0
    disk = 2 * KEPT_BYTES * sum(latents.values()) + ceil(JPEG_BYTES * PIXELS_A_LATENT * latents[finest])
    steps = joint.scale_steps
    windows = sum(steps * windows_a_step(joint, *sizes[scale]) for scale in sampled)
    if joint.settings.seam == "repair":
        side = joint.chain.side
        windows += REPAIR_FROM // REPAIR_STRIDE * covering(*sizes[finest], side, side // OVERLAP)
    return Cost(memory, disk, windows)


def windows_a_step(joint: Joint, height: int, width: int) -> int:
    """Windows per step of a canvas (H, W)."""
    side, overlaps, moves = joint.chain.side, joint.settings.seam == "overlap", joint.settings.seam == "jitter"
    return covering(height, width, side, side // OVERLAP if overlaps else side, int(moves))


def covering(height: int, width: int, side: int, stride: int, more: int = 0) -> int:
    """Number of windows `stride` apart that cover (H, W), with `more` per side where they are shifted."""
    rows, cols = (ceil((length - side) / stride) + 1 + more * (length > side) for length in (height, width))
    return rows * cols


def window_seconds(joint: Joint) -> float:
    """Seconds of one step of one window of the finest canvas, averaged over constrained and unconstrained steps."""
    share = joint.settings.rule.until if joint.settings.rule.inner and len(joint.scales) > 1 else 0.0
    one_window(joint, constrained=share > 0)  # the first call is slower
    free = _seconds(joint, constrained=False)
    constrained = _seconds(joint, constrained=True) if share else free
    return share * constrained + (1 - share) * free


def one_window(joint: Joint, constrained: bool) -> None:
    """One step of one window of the finest canvas, constrained or not."""
    scale, side = joint.scales[0], joint.chain.side
    places = torch.zeros(1, 2, dtype=torch.long)
    z_t = torch.zeros(1, 3, side, side, device=joint.model.device)
    windows = Windows(z_t, joint.denoiser(scale, places), joint.canvas(scale).steps[0])
    if constrained:
        y = z_t.new_zeros(1, 3, *2 * [joint.model.tile_px // joint.chain.above(scale)])
        correct(windows, y, joint.codec, replace(joint.settings.rule, tolerance=-1.0))
    else:
        windows.predict()


def _seconds(joint: Joint, constrained: bool) -> float:
    started = time.perf_counter()
    one_window(joint, constrained)
    if joint.model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
