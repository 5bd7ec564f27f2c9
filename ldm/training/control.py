"""A control, trained to restore what its hint lost while the model beside it stays as it is (Zhang et al. 2023).

    L = E || f(z_t, t, context, control(z_t, t, context, hint)) - target ||^2

The hint is the patch itself, shrunk: the model learns to enlarge (paper, Table 3). A share p_uncond of the contexts is
null, so that it can do so with and without embeddings.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldm.batch import Batch
from ldm.sampling.constraints import Shrink
from ldm.training.latent_diffusion import LatentDiffusion


class Steered(Protocol):
    """A frozen model and the control beside it: `ldm.control.ControlModel`."""

    factor: int

    def to(self, device: torch.device) -> Any:
        """Move the frozen networks."""

    def hint(self, y: Tensor) -> Tensor:
        """What the control is told (b, 3, h, w) about patches shrunk by `factor`, y (b, 3, H, W)."""

    def network(self, hint: Tensor) -> nn.Module:
        """What answers to (z_t, t, context)."""


class ControlTraining(LatentDiffusion):
    """Trains the control of `steered`, which is no module: no checkpoint holds its frozen networks."""

    def __init__(self, *, steered: Steered, **options: Any) -> None:
        """`options` as for LatentDiffusion; its `denoiser` is the control."""
        super().__init__(**options)
        self.steered, self.shrink = steered, Shrink(steered.factor)

    def on_fit_start(self) -> None:
        self.steered.to(self.device)

    def network(self, batch: Batch) -> nn.Module:
        assert batch.image is not None
        with torch.no_grad():
            hint = self.steered.hint(self.shrink(batch.image))
        return self.steered.network(hint)
