"""The Python API: load a model and sample images.

    model = ZoomLDM.load("demo")
    images = model.sample("5x", count=4)                        # conditions drawn from the CDM
    images = model.sample("5x", embeddings=[grid])              # the condition of a real region

Weights come from "demo" (in the package), a folder, a published file or a name on the hub: see `ldm.hub`.

Shapes: n images, b images in a batch, d embedding width, w context width, H pixels and h = H / 4 latents a side.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm

from ldm.checkpoint import join, split
from ldm.conditioning_model import ConditioningModel
from ldm.data.tokens import TOKENS
from ldm.diffusion.guidance import Denoiser, guided
from ldm.diffusion.samplers import DEFAULT_SAMPLER, SAMPLERS, seeded_noise
from ldm.diffusion.schedule import Prediction, at, predict
from ldm.errors import UserError
from ldm.hub import CDM, build_part, load_network, open_source, save_model
from ldm.images.tensors import to_uint8
from ldm.layers.statistics import share_statistics
from ldm.model_card import Card, Facts, model_card
from ldm.multiscale.decoding import decode_bands
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.summarizer import CNNSummarizer, Grids, Summarizer
from ldm.networks.unet import UNet
from ldm.networks.weights_id import weights_id
from ldm.scales import Ladder, ladder
from ldm.support.files import atomic_write
from ldm.support.finite import checked
from ldm.support.hub_files import push
from ldm.support.precision import DTYPES, allow_tf32, choose

REQUIRED = ("ladder.kind", "tile_px", "encoder", "model.prediction")
NO_CARD = Card()
FOR_LATENT, FOR_CONTEXT = 0, 1
"""purposes of an image's noise: the second key of its generator"""


def load_autoencoder(source: str | Path) -> tuple[Autoencoder, str]:
    """The autoencoder of "demo", a folder (vq or zoomldm), a file or a name on the hub, and its id "<name>-<12 hex>".

    A file may be ZoomLDM's or CompVis' VQ-f4. The id's digits are the first of the weights file's sha256.
    """
    found = open_source(source, "vq", "zoomldm")
    autoencoder: Autoencoder = load_network(found, "autoencoder", split(found.tensors))
    return autoencoder, found.id


@dataclass(eq=False)
class ZoomLDM:
    """One multi-scale model, ready to sample: networks frozen, on one device."""

    unet: UNet
    summarizer: Summarizer | CNNSummarizer
    autoencoder: Autoencoder
    alpha_bar: Tensor
    prediction: str
    ladder: Ladder
    tile_px: int
    encoder: str
    cdm: ConditioningModel | None = None
    precision: str = "fp32"
    id: str = ""
    """names the weights"""
    config_id: str = ""
    """id of the network settings in the config"""
    config: DictConfig | None = None
    """what builds them again"""

    @classmethod
    def load(
        cls,
        source: str | Path = "demo",
        cdm: str | Path | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
    ) -> "ZoomLDM":
        """Load `source` and, from `cdm`, the CDM; the demo model and a model saved with a CDM include one.

        `source`: `"demo"`, a folder, a file, or a name on the hub: `"StonyBrook-CVLab/ZoomLDM/brca"`, in general
        `"hf:ORG/NAME[/SUBFOLDER][@REVISION]"`.

        `precision` "auto" | "fp32" | "bf16" | "fp16" is the precision of the networks; latents stay in float32. "auto"
        is bf16 where `device` computes it natively, fp32 elsewhere; the model's `precision` says which.
        UserError when a source cannot be read or `precision` is unknown.
        """
        precision = choose(precision, device)
        if str(device).startswith("cuda"):
            allow_tf32(False)
        found = open_source(source, "zoomldm")
        config = found.config
        missing = [key for key in REQUIRED if OmegaConf.select(config, key) is None]
        if missing:
            raise UserError(f"{found.path.parent / 'config.yaml'}: lacks {', '.join(missing)}; a finished run has them")
        cdm = found.own_cdm if cdm is None else cdm
        parts = split(found.tensors)
        model = cls(
            unet=load_network(found, "denoiser", parts),
            summarizer=load_network(found, "summarizer", parts),
            autoencoder=load_network(found, "autoencoder", parts),
            alpha_bar=build_part(found, "schedule"),
            prediction=config.model.prediction,
            ladder=ladder(config.ladder.kind, config.ladder.get("scales")),
            tile_px=config.tile_px,
            encoder=config.encoder,
            precision=precision,
            id=found.id,
            config_id=found.config_id,
            config=config,
        )
        if cdm is not None:
            model.cdm = ConditioningModel.load(cdm)
            model.check_cdm(model.cdm, found.published)
        return model.to(device)

    def save_pretrained(self, folder: str | Path, card: Card = NO_CARD, source: str = "") -> Path:
        """Write a folder that `ZoomLDM.load` reads back bit-equal, CDM included; returns the folder.

        It holds config.yaml, weights.safetensors, their sha256, and a model card, README.md, with the statements of
        `card` and the model's own facts; `source` is the name to load it by in the card's example. UserError when
        the files cannot be written, or for a model that was not loaded.
        """
        folder = Path(folder)
        if self.config is None:
            raise UserError("save_pretrained: this model was not loaded, so there is no config to save")
        networks: dict[str, nn.Module] = {
            "denoiser": self.unet,
            "summarizer": self.summarizer,
            "autoencoder": self.autoencoder,
        }
        save_model(folder, self.config, join({part: net.state_dict() for part, net in networks.items()}), "zoomldm")
        if self.cdm is not None:
            self.cdm.save(folder / CDM)
            networks["CDM"] = self.cdm.network
        facts = Facts(
            id=self.id,
            kind=self.ladder.kind,
            scales=self.ladder.names,
            tile_px=self.tile_px,
            encoder=self.encoder,
            prediction=self.prediction,
            parameters={name: sum(weight.numel() for weight in net.parameters()) for name, net in networks.items()},
            draws_conditions=self.cdm is not None,
            steps=OmegaConf.select(self.config, "training.max_steps"),
        )
        with atomic_write(folder / "README.md") as partial:
            partial.write_text(model_card(facts, card, source or str(folder)), encoding="utf-8")
        return folder

    def push_to_hub(self, repository: str, card: Card = NO_CARD, private: bool = True) -> str:
        """Upload what `save_pretrained` writes to ORG/NAME; returns its page. UserError when the hub refuses."""
        with tempfile.TemporaryDirectory() as folder:
            return push(self.save_pretrained(folder, card, repository), repository, private)

    def check_cdm(self, cdm: ConditioningModel, published: bool = False) -> None:
        """UserError when the CDM was trained for another model; a warning when it does not say, as published ones."""
        width = self.summarizer.mag_embedding.embedding_dim
        if (cdm.width, cdm.scales) != (width, len(self.ladder)):
            raise UserError(
                f"cdm: made for {cdm.scales} scales and contexts {cdm.width} wide, but the model has "
                f"{len(self.ladder)} and {width}; give the CDM that was trained on this model"
            )
        own = weights_id(self.summarizer)
        if cdm.contexts_id is None and published:
            print(
                f"cdm: {cdm.id} does not say which model it is for; its scales and width are those of {self.id}",
                file=sys.stderr,
            )
        elif cdm.contexts_id != own:
            learnt = cdm.contexts_id or "its config does not say which"
            raise UserError(
                f"cdm: {cdm.id} learnt the contexts of another Summarizer ({learnt}) than that of {self.id} ({own}); "
                "give the CDM that was trained on this model"
            )

    def to(self, device: str | torch.device) -> "ZoomLDM":
        """Move every network; returns the model. UserError for a device that is unknown or missing."""
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"device: {device} cannot be used ({str(error).splitlines()[0]}); cpu always can"
            ) from error
        for network in (self.unet, self.summarizer, self.autoencoder, *([self.cdm.network] if self.cdm else [])):
            network.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def downsample(self) -> int:
        """Side in pixels of the square that one latent represents."""
        return self.autoencoder.downsample

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
        return {"model": self.id, "model config": self.config_id}

    @cached_property
    def latents_id(self) -> str:
        """Id of the autoencoder's encoding, as stored in prepared slides."""
        return self.autoencoder.latents_id()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, getattr(torch, DTYPES[self.precision]), enabled=self.precision != "fp32"
        )

    def _indices(self, scale: str, count: int) -> Tensor:
        return torch.full((count,), self.ladder[scale].index, device=self.device)  # (b,)

    def context(self, embeddings: Grids, scale: str) -> Tensor:
        """Summarise grids (d, gh, gw), tokens normalised, at most 8x8, of one scale: (b, 65, w)."""
        grids = [grid.to(self.device) for grid in embeddings]
        with self._autocast():
            return self.summarizer(grids, self._indices(scale, len(grids)))

    @torch.no_grad()
    def sample_context(
        self, scale: str, count: int = 1, *, seed: int = 0, steps: int = 50, batch_size: int = 64
    ) -> Tensor:
        """Sample contexts (n, 65, w) from the CDM; context i depends on seed + i alone. UserError without a CDM."""
        cdm = self.cdm_needed
        noise = _noise(count, (TOKENS, cdm.width), seed, FOR_CONTEXT).to(self.device)  # (n, 65, w)
        with self._autocast():
            drawn = [cdm.sample(x, self._indices(scale, len(x)), steps) for x in noise.split(batch_size)]
        return checked(torch.cat(drawn), f"contexts at {scale}")

    @property
    def cdm_needed(self) -> ConditioningModel:
        """UserError without a CDM."""
        if self.cdm is None:
            raise UserError("cdm: none is loaded to draw conditions from; name one, or give embeddings of a slide")
        return self.cdm

    def denoiser(self, context: Tensor, guidance: float = 1.0) -> Denoiser:
        """denoise(z_t (b, 3, h, w), t (b,)) -> eps under `context` (b, 65, w); the null context is all zeros.

        t may be one past the schedule, as in the released sampler's first step; a v prediction then uses the last
        alpha_bar.
        """
        last = len(self.alpha_bar) - 1

        def under(context: Tensor) -> Denoiser:
            def denoise(z_t: Tensor, t: Tensor) -> Tensor:
                with self._autocast():
                    output = self.unet(z_t, t, context).to(z_t.dtype)
                a_t = at(self.alpha_bar, t.clamp(max=last), z_t)
                return predict(output, z_t, a_t, self.prediction).eps

            return denoise

        return guided(under(context), under(torch.zeros_like(context)), guidance)

    def activations(self, z_t: Tensor, t: Tensor, context: Tensor, block: int) -> Tensor:
        """Activations (b, c, h', w') of output block `block` of the U-Net, counted from 0 at the coarsest."""
        with self._autocast():
            middle_and_blocks = self.unet.features(z_t, t, context)
            return next(islice(middle_and_blocks, 1 + block, None)).to(z_t.dtype)

    def encode(self, x: Tensor) -> Tensor:
        """Images (b, 3, H, W) in [-1, 1] -> unquantised latents (b, 3, h, w). UserError unless 4 divides H and W."""
        with self._autocast():
            return self.autoencoder.encode(x).to(x.dtype)

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Latents (b, 3, h, w) -> images (b, 3, H, W), not clamped; quantised by default, as published.

        NotFiniteError for NaN or infinities in the latents or the images, which quantisation and clamping would hide.
        """
        checked(z, "latents")
        with self._autocast():
            return checked(self.autoencoder.decode(z, quantize).to(z.dtype), f"image decoded in {self.precision}")

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
        side, decoder = self.tile_px // self.autoencoder.downsample, self.autoencoder.decoder
        codes = torch.empty_like(z, device=self.device)  # (3, h, w)
        rows = max(1, side**2 // z.shape[-1])  # as many latents as a tile has, at a time
        for place, strip in zip(codes.split(rows, dim=1), z.to(self.device).split(rows, dim=1), strict=True):
            place[:] = self.autoencoder.codes(strip[None])[0]
        share = None if decoder.local else partial(share_statistics, decoder)
        decode = partial(self.decode, quantize=False)
        return decode_bands(decode, codes, side, decoder.reach, batch=batch_size, share=share)

    @torch.no_grad()
    def sample_latents(
        self,
        context: Tensor,
        *,
        guidance: float = 2.0,
        sampler: str = DEFAULT_SAMPLER,
        steps: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        progress: bool = False,
    ) -> Tensor:
        """Latents (n, 3, h, w) under `context` (n, 65, w); latent i depends on seed + i and its context alone.

        `steps`: by default 20 of "dpmpp" or 100 of "ddim". `progress` shows a bar.
        UserError for an unknown sampler ("dpmpp" | "ddim") or a number of steps that the schedule does not allow.
        """
        if sampler not in SAMPLERS:
            raise UserError(f"sampler: {sampler} is unknown; it is one of {', '.join(SAMPLERS)}")
        run, timesteps_of, usual = SAMPLERS[sampler]
        timesteps = timesteps_of(usual if steps is None else steps, self.alpha_bar)
        side = self.tile_px // self.downsample
        noise = _noise(len(context), (3, side, side), seed, FOR_LATENT).to(self.device)  # (n, 3, h, w)
        latents = []
        with tqdm(total=len(noise) * len(timesteps), unit="step", disable=not progress, leave=False) as bar:

            def advance(step: int, pred: Prediction) -> None:
                bar.update(len(pred.eps))

            for z_T, given in zip(noise.split(batch_size), context.split(batch_size), strict=True):
                denoise = self.denoiser(given, guidance)
                latents.append(run(denoise, z_T, self.alpha_bar, timesteps, callback=advance))
        return checked(torch.cat(latents), "latents")

    @torch.no_grad()
    def sample(
        self,
        scale: str,
        count: int | None = None,
        embeddings: Sequence[Tensor] | None = None,
        *,
        batch_size: int = 16,
        seed: int = 0,
        **sampling: Any,
    ) -> NDArray[np.uint8]:
        """Sample `count` images (n, H, W, 3) of one scale; image i depends on seed + i and its condition alone.

        Conditions are the grids `embeddings` (d, gh, gw), cycled to `count` images (default: one each); without them
        the CDM samples one per image. `sampling` goes to `sample_latents`: guidance, steps, sampler, progress.
        """
        count = (1 if embeddings is None else len(embeddings)) if count is None else count
        if count < 1 or (embeddings is not None and not len(embeddings)):
            raise UserError(f"count: {count} images asked; expected at least 1, and at least one grid of embeddings")
        if embeddings is None:
            context = self.sample_context(scale, count, seed=seed, batch_size=batch_size)
        else:
            context = self.context(embeddings, scale)
            context = context[torch.arange(count, device=context.device) % len(context)]  # (n, 65, w)
        z = self.sample_latents(context, batch_size=batch_size, seed=seed, **sampling)
        return np.concatenate([to_uint8(self.decode_sampled(part)) for part in z.split(batch_size)])


def _noise(count: int, shape: Sequence[int], seed: int, purpose: int) -> Tensor:
    """(count, *shape) standard normal; entry i depends on seed + i and `purpose` alone."""
    return torch.stack([seeded_noise(shape, seed + i, purpose) for i in range(count)])
