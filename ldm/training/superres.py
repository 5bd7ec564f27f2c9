"""system: superres. A super-resolution LDM, trained from nothing (paper, Table 3, row CompVis; Rombach et al. 2022).

    L = E || f([z_t, y], t) - target ||^2

y is the patch shrunk by `factor`, beside the noisy latent: no embedding, no other scale.
Shapes: z_0 (b, 3, h, w), t (b,), y (b, 3, h, w).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ldm.config.objects import build
from ldm.config.training_config import put
from ldm.data.batch import Batch, BatchRNG
from ldm.data.datamodule import CohortData
from ldm.data.dataset import pair_batch
from ldm.diffusion.defaults import SAMPLER
from ldm.diffusion.samplers import SAMPLERS, seeded_noise
from ldm.diffusion.schedule import add_noise, at, predict, target
from ldm.diffusion.timestep_sampling import Uniform
from ldm.errors import UserError
from ldm.images.contact_sheet import contact_sheet
from ldm.images.tensors import to_uint8
from ldm.multiscale.constraint import Shrink
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.concatenated import Concatenated
from ldm.networks.unet import UNet
from ldm.superres_ldm import at_latents
from ldm.training.base import COLUMNS, DenoisingSystem, OptimizerPlan, Run
from ldm.training.memory import saved_bytes
from ldm.training.zoomldm import PICTURE_STEPS, autoencoder_of


class SuperResTraining(DenoisingSystem):
    """Trains `denoiser` on latents of a frozen autoencoder, beside their images shrunk by `factor`."""

    def __init__(
        self,
        *,
        denoiser: UNet,
        alpha_bar: Tensor,
        scale_names: list[str],
        plan: OptimizerPlan,
        factor: int,
        downsample: int,
        prediction: str,
        times: Uniform,
    ) -> None:
        super().__init__(plan, alpha_bar, scale_names, times)
        self.denoiser, self.prediction = denoiser, prediction
        self.shrink, self.downsample = Shrink(factor), downsample

    def small(self, batch: Batch) -> Tensor:
        """The shrunk images (b, 3, h, w), a pixel for each latent."""
        assert batch.image is not None
        return at_latents(self.shrink(batch.image), self.shrink.factor, self.downsample)

    def losses(self, network: nn.Module, z_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(b,) squared error of the prediction, mean over a sample's elements."""
        a_t = at(self.alpha_bar, t, z_0)
        output = network(add_noise(z_0, eps, a_t), t)
        return (output.float() - target(z_0, eps, a_t, self.prediction)).square().flatten(1).mean(1)

    def training_step(self, batch: Batch) -> Tensor:
        generator, total = batch.stream.generator(self.device), batch.stream.total
        t = self.times(total, self.alpha_bar, generator)
        eps = torch.randn(total, *batch.z_0.shape[1:], generator=generator, device=self.device)
        t, eps = (batch.stream.local(drawn, len(batch)) for drawn in (t, eps))
        loss = self.losses(Concatenated(self.denoiser, self.small(batch)), batch.z_0, t, eps).mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch) -> None:
        network = Concatenated(self.denoiser, self.small(batch))
        self.validate(batch, batch.z_0, partial(self.losses, network, batch.z_0))


class SuperResRun(Run):
    system: SuperResTraining

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        if len(scales := config.data.get("scales") or self.ladder.names) > 1:
            raise UserError(f"data.scales: {', '.join(scales)} found, expected the one that images are enlarged to")
        model = config.model
        denoiser = build(model.denoiser, "model.denoiser", kind=UNet).to(memory_format=torch.channels_last)
        self.check_side(denoiser)
        self.system = SuperResTraining(
            denoiser=denoiser,
            alpha_bar=build(model.schedule, "model.schedule", kind=Tensor),
            scale_names=self.ladder.names,
            plan=self.plan,
            factor=model.factor,
            downsample=4,
            prediction=model.prediction,
            times=build(config.training.times, "training.times"),
        )

    def attach(self, data: CohortData) -> None:
        super().attach(data)
        self.autoencoder: Autoencoder = autoencoder_of(data, self.config.autoencoder)
        put(self.config, latents_id=self.autoencoder.latents_id())

    def networks(self) -> dict[str, nn.Module]:
        return {"denoiser": self.system.denoiser}

    def activations(self, dtype: torch.dtype = torch.float32) -> int:
        side = self.config.tile_px // self.system.downsample
        with torch.device("meta"):
            z_t, t = torch.zeros(1, 3, side, side, dtype=dtype), torch.zeros(1, dtype=torch.long)
        return saved_bytes(self.system.denoiser, lambda net: Concatenated(net, z_t)(z_t, t), dtype)

    def weights(self, data: CohortData) -> dict[str, Tensor]:
        return self.system.denoiser.state_dict()

    @torch.no_grad()
    def draw(self, path: Path, data: CohortData) -> None:
        """Rows of patches, of what the network is given, and of its samples."""
        picks = data.validation.spread(COLUMNS)[:COLUMNS]
        batch = pair_batch(picks, BatchRNG(0, 0, 0, len(picks)))
        assert batch.image is not None
        system = self.system
        small = system.small(replace(batch, image=batch.image.to(system.device)))
        network = Concatenated(system.denoiser, small)

        def denoise(z_t: Tensor, t: Tensor) -> Tensor:
            return predict(network(z_t, t), z_t, at(system.alpha_bar, t, z_t), system.prediction).eps

        run, timesteps_of, _ = SAMPLERS[SAMPLER]
        noise = torch.stack([seeded_noise(batch.z_0.shape[1:], i) for i in range(len(batch))]).to(system.device)
        z = run(denoise, noise, system.alpha_bar, timesteps_of(PICTURE_STEPS, system.alpha_bar))
        rows = [list(to_uint8(images)) for images in (batch.image, small, self.autoencoder.to(z.device).decode(z))]
        contact_sheet(rows, ["truth", "given", "sampled"], [""] * len(picks), path)
