"""The interface of a model that joint sampling needs; `ldm.pipeline.ZoomLDM` implements it.

Shapes: n patches, H, W pixels, h = H / downsample, w context width, d embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.defaults import CONTEXT_STEPS, Interval
from ldm.diffusion.guidance import Denoiser
from ldm.scales import Ladder


class LinearisedImage(Protocol):
    """An image as a function of latents at one point: its value, and the Jacobian there and its transpose as maps."""

    @property
    def value(self) -> Tensor: ...

    @property
    def forward(self) -> Callable[[Tensor], Tensor]: ...

    @property
    def transposed(self) -> Callable[[Tensor], Tensor]: ...


class Preview(Protocol):
    """A preview head: latents (n, 3, h, w) -> images (n, 3, H / 2, W / 2) in [-1, 1], not clamped."""

    def linearised(self, z: Tensor) -> LinearisedImage:
        """The image of z, and its Jacobian there."""

    @property
    def error(self) -> float:
        """Root mean square of its error."""


class MultiscaleModel(Protocol):
    """A latent diffusion model of several scales."""

    alpha_bar: Tensor
    ladder: Ladder
    tile_px: int
    precision: str

    @property
    def evaluations(self) -> int | None:
        """Steps of DDIM that a distilled model was trained for, its guidance within; None: it is not distilled."""

    @property
    def arithmetic(self) -> dict[str, str | bool]:
        """How samples are computed, which moves their last digits: precision, kind of device, compiled or not."""

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that samples depend on, besides conditions, settings and precision."""

    @property
    def cdm_weights(self) -> dict[str, str]:
        """Ids of everything that contexts of the CDM depend on, besides noise. UserError without a CDM."""

    @property
    def preview(self) -> Preview | None:
        """None: the model has no head."""

    @property
    def device(self) -> torch.device: ...

    @property
    def downsample(self) -> int:
        """Side in pixels of the square that one latent represents."""

    @property
    def reach(self) -> int | None:
        """Distance in latents on which a decoded pixel depends; None: on the whole image, through its statistics."""

    @property
    def embedding_width(self) -> int: ...

    @property
    def context_width(self) -> int: ...

    def context(self, embeddings: Tensor | Sequence[Tensor], scale: str) -> Tensor:
        """Grids (d, gh, gw) of one scale -> contexts (n, 65, w)."""

    def sample_context(self, scale: str, count: int = 1, *, seed: int = 0, label: str | None = None) -> Tensor:
        """Contexts (n, 65, w) of the CDM, of slides like those of `label`."""

    def context_from(self, scale: str, noise: Tensor, steps: int = CONTEXT_STEPS) -> Tensor:
        """Contexts (n, 65, w) of the CDM, from standard normal noise (n, 65, w)."""

    def denoiser(self, context: Tensor, guidance: float = 1.0, guidance_interval: Interval | None = None) -> Denoiser:
        """(z_t (n, 3, h, w), t (n,)) -> eps under contexts (n, 65, w); outside the interval in sigma guidance is 1."""

    def encode(self, x: Tensor) -> Tensor:
        """Images (n, 3, H, W) in [-1, 1] -> latents (n, 3, h, w)."""

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Latents (n, 3, h, w) -> images (n, 3, H, W), not clamped."""

    def decode_sampled(self, z: Tensor) -> Tensor:
        """`decode` with continuous quantisation: rounding of a sampler changes no codes."""

    def decode_canvas(self, z: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
        """A canvas (3, h, w) of any size -> its image in bands (3, rows, W), top to bottom."""
