"""The Python API: load a model and sample images.

    model = ZoomLDM.load("demo")
    images = model.sample("5x", count=4)                        # conditions drawn from the CDM
    images = model.sample("5x", embeddings=[grid])              # the condition of a real region

Weights come from "demo" (in the package), a folder, a published file or a name on the hub: see `ldm.hub`.

Shapes: n images, b images in a batch, d embedding width, w context width, H pixels and h = H / 4 latents a side.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.checkpoint import join, split
from ldm.conditioning_model import ConditioningModel
from ldm.data.tokens import TOKENS
from ldm.diffusion.defaults import CONTEXT_STEPS
from ldm.errors import UserError
from ldm.hub import CDM, PREVIEW, build_part, load_network, open_source, save_model
from ldm.images.tensors import to_uint8
from ldm.latent_diffusion import FOR_CONTEXT, LatentDiffusion, image_noise
from ldm.model_card import Card, Facts, model_card
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.weights_id import weights_id
from ldm.preview_model import PreviewModel
from ldm.scales import ladder
from ldm.support.files import atomic_write
from ldm.support.finite import checked
from ldm.support.hub_files import push
from ldm.support.precision import allow_tf32, choose

REQUIRED = ("ladder.kind", "tile_px", "encoder", "model.prediction")
NO_CARD = Card()


def load_autoencoder(source: str | Path) -> tuple[Autoencoder, str]:
    """The autoencoder of "demo", a folder (vq or zoomldm), a file or a name on the hub, and its id "<name>-<12 hex>".

    A file may be ZoomLDM's or CompVis' VQ-f4. The id's digits are the first of the weights file's sha256.
    """
    found = open_source(source, "vq", "zoomldm")
    autoencoder: Autoencoder = load_network(found, "autoencoder", split(found.tensors))
    return autoencoder, found.id


@dataclass(eq=False)
class ZoomLDM(LatentDiffusion):
    """One multi-scale model, ready to sample."""

    cdm: ConditioningModel | None = None
    config: DictConfig | None = None
    """what builds them again"""

    @classmethod
    def load(
        cls,
        source: str | Path = "demo",
        cdm: str | Path | None = None,
        preview: str | Path | None = None,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        compile: bool = False,
    ) -> "ZoomLDM":
        """Load `source` and, from `cdm` and `preview`, its CDM and preview head.

        The bundled models, and models saved with them, bring their own; so does a model with a bundled autoencoder.

        `source`: `"demo"`, a folder, a file, or a name on the hub: `"StonyBrook-CVLab/ZoomLDM/brca"`, in general
        `"hf:ORG/NAME[/SUBFOLDER][@REVISION]"`.

        `precision` "auto" | "fp32" | "bf16" | "fp16" is the precision of the networks; latents stay in float32. "auto"
        is bf16 on cards and CPUs where it is faster, fp32 elsewhere; the model's `precision` says which.

        `compile`: U-Net, encoder and decoder are compiled at their first call: see `ldm.networks.compiled`.
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
            evaluations=config.model.get("evaluations"),
            compile=compile,
        )
        if cdm is not None:
            model.cdm = ConditioningModel.load(cdm)
            model.check_cdm(model.cdm, found.published)
        model.preview = PreviewModel.of(model.autoencoder, found.path.parent, preview)
        return model.to(device)

    def save_pretrained(self, folder: str | Path, card: Card = NO_CARD, source: str = "") -> Path:
        """Write a folder that `ZoomLDM.load` reads back bit-equal, CDM and preview head included; returns the folder.

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
        if self.preview is not None:
            self.preview.save(folder / PREVIEW)
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
        self._copies.clear()
        parts = [part.network for part in (self.cdm, self.preview) if part is not None]
        for network in (self.unet, self.summarizer, self.autoencoder, *parts):
            network.to(device)
        return self

    @property
    def cdm_needed(self) -> ConditioningModel:
        """UserError without a CDM."""
        if self.cdm is None:
            raise UserError("cdm: none is loaded to draw conditions from; name one, or give embeddings of a slide")
        return self.cdm

    @property
    def cdm_weights(self) -> dict[str, str]:
        """Ids of everything that its CDM's contexts depend on, besides noise. UserError without a CDM."""
        return self.cdm_needed.weights

    @torch.no_grad()
    def sample_context(
        self,
        scale: str,
        count: int = 1,
        *,
        seed: int = 0,
        steps: int = CONTEXT_STEPS,
        batch_size: int = 64,
        label: str | None = None,
    ) -> Tensor:
        """Sample contexts (n, 65, w) from the CDM; context i depends on seed + i alone.

        `label`: of slides that they are to be like. UserError without a CDM, or for a label that it does not know.
        """
        noise = image_noise(count, (TOKENS, self.cdm_needed.width), seed, FOR_CONTEXT)  # (n, 65, w)
        return torch.cat([self.context_from(scale, part, steps, label) for part in noise.split(batch_size)])

    @torch.no_grad()
    def context_from(self, scale: str, noise: Tensor, steps: int = CONTEXT_STEPS, label: str | None = None) -> Tensor:
        """The contexts (n, 65, w) that the CDM makes of standard normal noise (n, 65, w). UserError without a CDM."""
        cdm = self.cdm_needed
        with self._autocast():
            drawn = cdm.sample(noise.to(self.device), self._indices(scale, len(noise)), steps, label)
        return checked(drawn, f"contexts at {scale}")

    @torch.no_grad()
    def sample(
        self,
        scale: str,
        count: int | None = None,
        embeddings: Sequence[Tensor] | None = None,
        *,
        batch_size: int = 16,
        seed: int = 0,
        label: str | None = None,
        **sampling: Any,
    ) -> NDArray[np.uint8]:
        """Sample `count` images (n, H, W, 3) of one scale; image i depends on seed + i and its condition alone.

        Conditions are the grids `embeddings` (d, gh, gw), cycled to `count` images (default: one each); without them
        the CDM samples one per image, of slides like those of `label` if one is given. `sampling` goes to
        `sample_latents`: guidance, guidance_interval, steps, sampler, progress.
        """
        count = (1 if embeddings is None else len(embeddings)) if count is None else count
        if count < 1 or (embeddings is not None and not len(embeddings)):
            raise UserError(f"count: {count} images asked; expected at least 1, and at least one grid of embeddings")
        if embeddings is None:
            context = self.sample_context(scale, count, seed=seed, batch_size=batch_size, label=label)
        else:
            context = self.context(embeddings, scale)
            context = context[torch.arange(count, device=context.device) % len(context)]  # (n, 65, w)
        z = self.sample_latents(context, batch_size=batch_size, seed=seed, **sampling)
        return np.concatenate([to_uint8(self.decode_sampled(part)) for part in z.split(batch_size)])
