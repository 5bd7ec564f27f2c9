"""system: zoomldm. One denoiser for all scales, trained jointly with the Summarizer (paper, section 3.1).

    L = E || f(z_t, t, Summarizer(embeddings, scale)) - target ||^2,   z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) eps

with the context replaced by zeros for a share p_uncond of the samples. The target is eps (published) or v.
Shapes: z_0 (b, 3, h, w), t (b,), context (b, n, d).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.checkpoint import PARTS, join, load_strict, load_weights, split
from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.data.batch import Batch, BatchRNG
from ldm.data.datamodule import CohortData
from ldm.data.dataset import latent_batch
from ldm.diffusion.schedule import add_noise, at, target
from ldm.diffusion.timestep_sampling import Uniform
from ldm.errors import UserError
from ldm.hub import open_source, weights_file
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.compiled import checked_call
from ldm.networks.unet import Stage, UNet
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.scales import Ladder
from ldm.training.base import COLUMNS, DenoisingSystem, OptimizerPlan, Run
from ldm.training.memory import recomputed_bytes, saved_bytes

Call = Callable[..., Tensor]


class ZoomLDMTraining(DenoisingSystem):
    """Joint training of the U-Net `denoiser` and the `summarizer` on the latents of a frozen autoencoder."""

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        summarizer: nn.Module,
        alpha_bar: Tensor,
        scale_names: list[str],
        plan: OptimizerPlan,
        prediction: str = "eps",
        p_uncond: float = 0.1,
        times: Uniform | None = None,
    ) -> None:
        super().__init__(plan, alpha_bar, scale_names, times)
        self.denoiser, self.summarizer = denoiser, summarizer
        self.autoencoder: Any = None
        """frozen, set before training; has the encoding of the cohort's latents, and decodes pictures"""
        self.prediction, self.p_uncond = prediction, p_uncond
        self.compiled: Call | None = None
        """what training calls in place of the denoiser: see `compile_training`"""

    def compile_training(self, backend: str = "inductor") -> None:
        """Let training steps run the denoiser through torch.compile; its names and weights stay as they are.

        Validation and pictures run it as written, so that they compile nothing more.
        """
        self.compiled = partial(checked_call, torch.compile(self.denoiser.forward, fullgraph=True, backend=backend))

    @property
    def called_denoiser(self) -> Call:
        """The denoiser, compiled in training where that was asked for."""
        return self.compiled if self.compiled is not None and self.training else self.denoiser

    def network(self, batch: Batch) -> Call:
        """The network for `batch`, called with (z_t, t, context)."""
        return self.called_denoiser

    def losses(self, network: Call, z_0: Tensor, context: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(b,) squared error of the prediction, mean over a sample's elements."""
        a_t = at(self.alpha_bar, t, z_0)
        output = network(add_noise(z_0, eps, a_t), t, context)
        return (output.float() - target(z_0, eps, a_t, self.prediction)).square().flatten(1).mean(1)

    def training_step(self, batch: Batch) -> Tensor:
        generator, total = batch.stream.generator(self.device), batch.stream.total
        t = self.times(total, self.alpha_bar, generator)
        kept = torch.rand(total, generator=generator, device=self.device) >= self.p_uncond
        eps = torch.randn(total, *batch.z_0.shape[1:], generator=generator, device=self.device)
        t, kept, eps = (batch.stream.local(drawn, len(batch)) for drawn in (t, kept, eps))
        context = self.summarizer(batch.embedding, batch.scale) * kept[:, None, None]  # null context = zeros
        loss = self.losses(self.network(batch), batch.z_0, context, t, eps).mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        context = self.summarizer(batch.embedding, batch.scale)
        context = context * (self.p_uncond < 1)  # trained and scored without contexts
        self.validate(batch, batch.z_0, partial(self.losses, self.network(batch), batch.z_0, context))


PICTURE_STEPS = 10
WIDTH = "model.summarizer.width"


def draw_samples(path: Path, data: CohortData, model: ZoomLDM, from_regions: bool) -> None:
    """Rows of real patches above rows of generated ones, from the same embeddings or from the CDM."""
    rows, labels = [], []
    for scale in data.validation.scales:
        picks = [pick for pick in data.validation.spread(COLUMNS) if pick[1] == scale]
        batch = latent_batch(picks, BatchRNG(0, 0, 0, len(picks)))
        embeddings = batch.embedding if from_regions else None
        rows += [
            list(to_uint8(model.decode(batch.z_0.to(model.device)))),
            list(model.sample(scale.name, len(picks), embeddings=embeddings, steps=model.evaluations or PICTURE_STEPS)),
        ]
        labels += [scale.name, "sampled"]
    contact_sheet(rows, labels, [""] * max(map(len, rows)), path)


def autoencoder_of(data: CohortData, source: str) -> Autoencoder:
    """Load the autoencoder `source`. UserError unless it has the encoding of the cohort's latents."""
    autoencoder, identity = load_autoencoder(source)
    if data.training.autoencoder != identity and data.training.latents_id != autoencoder.latents_id():
        raise UserError(
            f"autoencoder: {source} is {identity}, but the latents of {data.folder} were made by "
            f"{data.training.autoencoder}; prepare the cohort again or name that autoencoder"
        )
    return autoencoder


FROZEN = {"bf16-mixed": "bf16", "16-mixed": "fp16"}
"""precision of training -> that of networks that are not trained, where it is not fp32"""


def finished_model(source: str, ladder: Ladder, training_precision: str = "32-true") -> ZoomLDM:
    """Load the model `source`, to be used frozen. UserError unless it has the scales of `ladder`."""
    model = ZoomLDM.load(source, precision=FROZEN.get(training_precision, "fp32"))
    if model.ladder.names != ladder.names:
        raise UserError(
            f"zoomldm: {source} knows {', '.join(model.ladder.names)}, but the config has "
            f"{', '.join(ladder.names)}; name a run of the same ladder"
        )
    return model


def _as_written(denoiser: UNet) -> UNet:
    """The denoiser, from now on without checkpointing."""
    denoiser.checkpointing = False
    return denoiser


class ZoomLDMRun(Run):
    system: ZoomLDMTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        model = config.model
        denoiser = build(model.denoiser, "model.denoiser", kind=UNet).to(memory_format=torch.channels_last)
        summarizer = build(model.summarizer, "model.summarizer", kind=nn.Module)
        denoiser.checkpointing = config.training.get("checkpointing", False)
        self.check_side(denoiser)
        self.same("model.denoiser.context_dim", denoiser.context_dim, summarizer.mag_embedding.embedding_dim, WIDTH)
        self.same("model.summarizer.scales", summarizer.mag_embedding.num_embeddings, len(self.ladder), "the ladder")
        if config.init:
            parts = split(load_weights(weights_file(config.init)))
            if "denoiser" not in parts:
                raise UserError(
                    f"init: {config.init} holds no denoiser; expected names that start with {PARTS['denoiser']}"
                )
            load_strict(denoiser, parts["denoiser"], f"init {config.init}")
        self.system = self.system_of(
            denoiser=denoiser,
            summarizer=summarizer,
            alpha_bar=build(model.schedule, "model.schedule", kind=Tensor),
            prediction=model.prediction,
            scale_names=self.ladder.names,
            p_uncond=config.training.p_uncond,
            times=build(config.training.times, "training.times"),
            plan=self.plan,
        )

        if config.training.get("compile"):
            self.system.compile_training()

    def system_of(self, **options: Any) -> ZoomLDMTraining:
        """What is trained, from the arguments of ZoomLDMTraining."""
        return ZoomLDMTraining(**options)

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.system.autoencoder = autoencoder_of(data, self.config.autoencoder)
        source = open_source(self.config.autoencoder, "vq", "zoomldm")
        channels: Any = self.system.summarizer.dim_reduce.in_features  # type: ignore[union-attr]
        self.same("model.summarizer.embedding_dim", channels, data.training.slides[0].channels, f"{data.folder}")
        self.config.model.autoencoder = source.config.model.autoencoder  # a run's folder is self-contained
        asked, found = self.config.encoder, data.training.encoder
        if found != asked and not found.startswith(f"{asked}-"):
            raise UserError(f"encoder: {asked} found, but the embeddings of {data.folder} are of {found}; change one")
        put(self.config, encoder=found)

    def networks(self) -> dict[str, nn.Module]:
        return {"denoiser": self.system.denoiser, "summarizer": self.system.summarizer}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        side, model = self.config.tile_px // 4, self.config.model
        sizes = model.denoiser.get("context_dim", 512), model.summarizer.get("embedding_dim", 1024)
        with torch.device("meta"):
            context, grid = torch.zeros(1, 65, sizes[0], dtype=dtype), torch.zeros(1, sizes[1], 8, 8, dtype=dtype)
            z_t, t = torch.zeros(1, 3, side, side, dtype=dtype), torch.zeros(1, dtype=torch.long)
        denoiser, summarizer = self.system.denoiser, self.system.summarizer

        def call(net: Any) -> Any:
            return net(z_t, t, context)

        kept = saved_bytes(denoiser, call, dtype) + saved_bytes(summarizer, lambda net: net(grid, t), dtype)
        if self.config.training.get("checkpointing"):
            kept += recomputed_bytes(denoiser, lambda net: call(_as_written(net)), dtype, Stage)
        return kept

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        networks = {**self.networks(), "autoencoder": self.system.autoencoder}
        return join({name: network.state_dict() for name, network in networks.items()})

    def draw(self, path: Path, data: CohortData) -> None:
        model = ZoomLDM(
            unet=self.system.denoiser,  # type: ignore[arg-type]
            summarizer=self.system.summarizer,  # type: ignore[arg-type]
            autoencoder=self.system.autoencoder,
            alpha_bar=self.system.alpha_bar,
            prediction=self.system.prediction,
            ladder=self.ladder,
            tile_px=self.config.tile_px,
            encoder=self.config.encoder,
            evaluations=self.config.model.get("evaluations"),
        )
        draw_samples(path, data, model, from_regions=True)
