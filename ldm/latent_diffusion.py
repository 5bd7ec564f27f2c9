"""The networks of one model as functions: context, denoiser, encode, decode, latents of patches.

Shapes: n images, b images in a batch, d embedding width, w context width, H pixels and h = H / 4 latents a side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ldm.diffusion import defaults
from ldm.diffusion.guidance import Denoiser, guided, limited
from ldm.diffusion.samplers import SAMPLERS, seeded_noise
from ldm.diffusion.schedule import Prediction, at, predict
from ldm.errors import UserError
from ldm.layers.statistics import share_statistics
from ldm.multiscale.decoding import decode_bands
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.compiled import compile_calls
from ldm.networks.compute_copy import compute_copy
from ldm.networks.summarizer import CNNSummarizer, Grids, Summarizer
from ldm.networks.unet import UNet
from ldm.preview_model import PreviewModel
from ldm.scales import Ladder
from ldm.support.finite import checked
from ldm.support.precision import DTYPES

FOR_LATENT, FOR_CONTEXT = 0, 1
"""purposes of an image's noise: the second key of its generator"""
M = TypeVar("M", bound=nn.Module)


@dataclass(eq=False)
class LatentDiffusion:
    """Networks, frozen, on one device, and what is needed to ask them."""

    unet: UNet
    summarizer: Summarizer | CNNSummarizer
    autoencoder: Autoencoder
    alpha_bar: Tensor
    prediction: str
    ladder: Ladder
    tile_px: int
    encoder: str
    precision: str = "fp32"
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""
    preview: PreviewModel | None = None
    """latents to the image at half its resolution, for joint sampling"""
    evaluations: int | None = None
    """of a distilled model: the number of DDIM steps that it was trained for"""
    compile: bool = False
    """whether U-Net, encoder and decoder run through torch.compile"""
    _copies: dict[int, tuple[nn.Module, nn.Module]] = field(default_factory=dict, init=False, repr=False)
    """networks and their copies of `computing`"""

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def downsample(self) -> int:
        """Side in pixels of the square that one latent represents."""
        return self.autoencoder.downsample

    @property
    def reach(self) -> int | None:
        """Distance in latents on which a decoded pixel depends; None: on the whole image, through its statistics."""
        decoder = self.autoencoder.decoder
        return decoder.reach if decoder.local else None

    @property
    def embedding_width(self) -> int:
        """d"""
        return self.summarizer.dim_reduce.in_features

    @property
    def context_width(self) -> int:
        """w"""
        return self.summarizer.mag_embedding.embedding_dim

    @property
    def weights(self) -> dict[str, str]:
        """Ids of everything that samples depend on, besides conditions, settings and precision."""
        return {"model": self.id, "model config": self.config_id, **(self.preview.weights if self.preview else {})}

    @property
    def arithmetic(self) -> dict[str, str | bool]:
        """How samples are computed, which moves their last digits: precision, kind of device, compiled or not."""
        compiled: dict[str, str | bool] = {"compiled": True} if self.compile else {}
        return {"precision": self.precision, "device": self.device.type, **compiled}

    @cached_property
    def latents_id(self) -> str:
        """Id of the autoencoder's encoding, as stored in prepared slides."""
        return self.autoencoder.latents_id()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, getattr(torch, DTYPES[self.precision]), enabled=self.precision != "fp32"
        )

    def computing(self, network: M) -> M:
        """What runs in place of `network`, the U-Net or the autoencoder: its `compute_copy`, compiled where asked.

        Made at the first call; a network that is being trained has none, nor one in fp32 that is not compiled.
        """
        trained = any(weight.requires_grad for weight in network.parameters())
        as_it_is = self.precision == "fp32" and not self.compile
        if as_it_is or trained or not isinstance(network, UNet | Autoencoder):
            return network
        found, made = self._copies.get(id(network), (None, network))
        if found is not network:
            made = compute_copy(network, getattr(torch, DTYPES[self.precision]))
            if self.compile:
                for part in [made] if isinstance(made, UNet) else [made.encoder, made.decoder]:
                    compile_calls(part)
            self._copies[id(network)] = (network, made)
        return made  # type: ignore[return-value]

    def _indices(self, scale: str, count: int) -> Tensor:
        return torch.full((count,), self.ladder[scale].index, device=self.device)  # (b,)

    def context(self, embeddings: Grids, scale: str) -> Tensor:
        """Summarise grids (d, gh, gw), tokens normalised, at most 8x8, of one scale: (b, 65, w)."""
        grids = [grid.to(self.device) for grid in embeddings]
        with self._autocast():
            return self.summarizer(grids, self._indices(scale, len(grids)))

    def denoiser(
        self, context: Tensor, guidance: float = 1.0, guidance_interval: defaults.Interval | None = None
    ) -> Denoiser:
        """denoise(z_t (b, 3, h, w), t (b,)) -> eps under `context` (b, 65, w); the null context is all zeros.

        With guidance, both contexts are one batch on a card; on a CPU, where that is slower by 3 %, they are two.
        Outside `guidance_interval` (low, high) in sigma, if one is given, guidance is 1.
        t may be one past the schedule, as in the released sampler's first step; a v prediction then uses the last
        alpha_bar.
        """
        last, unet = len(self.alpha_bar) - 1, self.computing(self.unet)

        def under(context: Tensor) -> Denoiser:
            def denoise(z_t: Tensor, t: Tensor) -> Tensor:
                with self._autocast():
                    output = unet(z_t, t, context).to(z_t.dtype)
                a_t = at(self.alpha_bar, t.clamp(max=last), z_t)
                return predict(output, z_t, a_t, self.prediction).eps

            return denoise

        conditional, null = under(context), torch.zeros_like(context)
        pair = None if self.device.type == "cpu" else under(torch.cat([context, null]))
        mixed = guided(conditional, under(null), guidance, pair)
        if guidance_interval is None or guidance == 1:
            return mixed
        return limited(mixed, conditional, self.alpha_bar, guidance_interval)

    def activations(self, z_t: Tensor, t: Tensor, context: Tensor, block: int) -> Tensor:
        """Activations (b, c, h', w') of output block `block` of the U-Net, counted from 0 at the coarsest."""
        with self._autocast():
            middle_and_blocks = self.computing(self.unet).features(z_t, t, context)
            return next(islice(middle_and_blocks, 1 + block, None)).to(z_t.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) in [-1, 1] -> unquantised latents (b, 3, h, w). UserError unless 4 divides H and W."""
        with self._autocast():
            return self.computing(self.autoencoder).encode(x).to(x.dtype)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Latents (b, 3, h, w) -> images (b, 3, H, W), not clamped; quantised by default, as published.

        NotFiniteError for NaN or infinities in the latents or the images, which quantisation and clamping would hide.
        """
        checked(z, "latents")
        with self._autocast():
            decoded = self.computing(self.autoencoder).decode(z, quantize)
            return checked(decoded.to(z.dtype), f"image decoded in {self.precision}")

    def decode_sampled(self, z: Tensor) -> Tensor:
        """`decode` with continuous quantisation, so that a sampler's rounding does not change codes."""
        return self.decode(self.autoencoder.codes(checked(z, "latents")), quantize=False)

    @torch.no_grad()
    def decode_canvas(self, z: Tensor, batch_size: int = 8) -> Iterator[Tensor]:
        """A canvas z (3, h, w) of any size -> its image in bands (3, rows, W), top to bottom, not clamped.

        Quantised continuously: see `ldm.networks.autoencoder.Quantizer.continuous`.

        Memory is constant: `batch_size` tiles are decoded at a time. See `ldm.multiscale.decoding` for when this equals
        decoding the canvas at once.
        """
        checked(z, "canvas")
        side, decoder = self.tile_px // self.autoencoder.downsample, self.computing(self.autoencoder).decoder
        codes = torch.empty_like(z, device=self.device)  # (3, h, w)
        rows = max(1, side**2 // z.shape[-1])  # as many latents as a tile has, at a time
        for place, strip in zip(codes.split(rows, dim=1), z.to(self.device).split(rows, dim=1), strict=True):
            place[:] = self.autoencoder.codes(strip[None])[0]
        share = None if decoder.local else partial(share_statistics, decoder)
        decode = partial(self.decode, quantize=False)
        return decode_bands(decode, codes, side, decoder.reach, batch=batch_size, share=share)

    def usual_sampling(self, sampler: str | None = None, steps: int | None = None) -> tuple[str, int]:
        """The sampler and its number of steps, where they are not given: `ldm.diffusion.defaults`.

        A distilled model's: DDIM in the steps that it was trained for.
        """
        if self.evaluations is not None and sampler in (None, "ddim"):
            return "ddim", self.evaluations if steps is None else steps
        sampler = sampler or defaults.SAMPLER
        return sampler, defaults.STEPS.get(sampler, 1) if steps is None else steps

    @torch.no_grad()
    def sample_latents(
        self,
        context: Tensor,
        *,
        guidance: float = defaults.GUIDANCE,
        guidance_interval: defaults.Interval | None = defaults.GUIDANCE_INTERVAL,
        sampler: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        progress: bool = False,
    ) -> Tensor:
        """Latents (n, 3, h, w) under `context` (n, 65, w); latent i depends on seed + i and its context alone.

        `guidance` 1 is none; with `guidance_interval` (low, high) in sigma it is 1 outside. `sampler` and `steps`: by
        default those of `usual_sampling`. `progress` shows a bar.
        UserError for an unknown sampler ("dpmpp" | "ddim"), a number of steps that the schedule does not allow, or an
        interval unless 0 <= low < high.
        """
        defaults.check_interval(guidance_interval)
        sampler, steps = self.usual_sampling(sampler, steps)
        if sampler not in SAMPLERS:
            raise UserError(f"sampler: {sampler} is unknown; it is one of {', '.join(SAMPLERS)}")
        run, timesteps_of, _ = SAMPLERS[sampler]
        timesteps = timesteps_of(steps, self.alpha_bar)
        side = self.tile_px // self.downsample
        noise = image_noise(len(context), (3, side, side), seed, FOR_LATENT).to(self.device)  # (n, 3, h, w)
        latents = []
        with tqdm(total=len(noise) * len(timesteps), unit="step", disable=not progress, leave=False) as bar:

            def advance(step: int, pred: Prediction) -> None:
                bar.update(len(pred.eps))

            for z_T, given in zip(noise.split(batch_size), context.split(batch_size), strict=True):
                denoise = self.denoiser(given, guidance, guidance_interval)
                latents.append(run(denoise, z_T, self.alpha_bar, timesteps, callback=advance))
        return checked(torch.cat(latents), "latents")


def image_noise(count: int, shape: Sequence[int], seed: int, purpose: int) -> Tensor:
    """(count, *shape) standard normal; entry i depends on seed + i and `purpose` alone."""
    return torch.stack([seeded_noise(shape, seed + i, purpose) for i in range(count)])
