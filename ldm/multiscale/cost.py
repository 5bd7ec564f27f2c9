"""Estimated memory and disk space of a large sampling, before it begins; refused where it cannot fit.

Memory counts what grows with the image: a canvas that is denoised takes BYTES_A_LATENT (measured: 82 to 92 bytes), a
finished one its latents, and the image of the next coarser scale while it is used as constraint. The networks and a
batch of windows are not included. Time is estimated once steps can be measured: `ldm.multiscale.time_left`.

Shapes: H, W latents of a canvas.
"""

import shutil
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch

from ldm.errors import UserError
from ldm.multiscale.joint import Joint
from ldm.multiscale.time_left import windows_left
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

    def told(self) -> str:
        """The estimate in one line."""
        memory = f"about {size(self.memory)} of memory besides the networks"
        return f"{memory}, {size(self.disk)} on disk; {self.windows:,} windows"


def size(count: float) -> str:
    """A number of bytes as text, in MB or GB."""
    if count < GB:
        return f"{max(1, count / 1e6):.0f} MB"
    return f"{count / GB:.2g} GB" if count < 10 * GB else f"{count / GB:,.0f} GB"


def cost_of(joint: Joint, inferred: bool = False) -> Cost:
    """Cost of sampling `joint` and writing its image; `inferred`: conditions are inferred from an image in memory."""
    sizes = {scale: joint.chain.latents(scale) for scale in joint.scales}
    latents = {scale: height * width for scale, (height, width) in sizes.items()}
    finest = joint.scales[0]
    at_once = sum(latents.values()) if joint.settings.lockstep else latents[finest]
    above = latents[joint.scales[1]] if len(joint.scales) > 1 else 0
    memory = BYTES_A_LATENT * at_once + KEPT_BYTES * sum(latents.values())
    memory += 2 * 4 * 3 * PIXELS_A_LATENT * above  # its image, and a copy of another size
    tiles = latents[finest] * joint.model.ladder[finest].downsample ** 2 / joint.chain.side**2
    memory += ceil(4 * 4 / 3 * tiles * joint.model.embedding_width)
    memory += (3 * PIXELS_A_LATENT + 2 * KEPT_BYTES) * latents[finest] if inferred else 0
    disk = 2 * KEPT_BYTES * sum(latents.values()) + ceil(JPEG_BYTES * PIXELS_A_LATENT * latents[finest])
    return Cost(memory, disk, windows_left(joint).total())
