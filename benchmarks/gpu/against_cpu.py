"""Pictures of the bundled model made on a device, against those made on the CPU."""

import numpy as np
import torch

from benchmarks.gpu.networks_of_size import Size
from benchmarks.gpu.sampling_rows import enlarged, large
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels
from ldm.multiscale.conditions import TokenMap
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED

ALLOWED_LEVELS = 1.0
"""mean difference of pictures made on the CPU and on the device, in levels of 255"""


def against_cpu(device: torch.device, size: Size) -> list[list[str]]:
    """Rows: differences of the bundled model's pictures from the CPU's. UserError for more than rounding."""
    found = {}
    for where in ("cpu", device):
        model = ZoomLDM.load("demo", device=where, precision="fp32")
        found[str(where)] = check_pictures(model, size.check_px, size.check_steps)
    rows = []
    for name, expected in found["cpu"].items():
        difference = np.abs(found[str(device)][name].astype(int) - expected.astype(int))
        rows.append([name, f"{difference.mean():.2g}", str(difference.max()), f"{(difference > 1).mean():.2%}"])
        if difference.mean() > ALLOWED_LEVELS:
            raise UserError(
                f"{name}: pictures on {device} differ from the CPU's by {difference.mean():.1f} levels on average, "
                f"expected at most {ALLOWED_LEVELS}; this device or its driver computes something else"
            )
    return rows


def check_pictures(model: ZoomLDM, px: int, steps: int) -> dict[str, Pixels]:
    """Of the three tasks, with the bundled model and slide."""
    slide = SlideFile(BUNDLED["demo"].slide)
    conditions = TokenMap(model, slide.tokens(0, 12, 16, px // model.tile_px, px // model.tile_px))
    y = slide.images("5x", [0])[0][: px // 4, : px // 4]
    return {
        "patches": model.sample("5x", embeddings=[slide.embedding("5x", row) for row in range(2)], steps=steps),
        "joint sampling": large(model, conditions, px, steps),
        "super-resolution": enlarged(model, y, conditions, steps),
    }
