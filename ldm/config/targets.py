"""What the `target` of a training config may be: classes and functions of this project, and one loss of taming.

The arguments are those of the constructor, which `ldm.config.objects.build` checks.
"""

from typing import Literal

from pydantic import ConfigDict

from ldm.config.schema import STRICT, NonNegative, Positive, Section, Text


class Target(Section):
    """A class or function, and its arguments."""

    model_config = ConfigDict(**{**STRICT, "extra": "allow"})
    target: Text


class Optimizer(Target):
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0


class Times(Target):
    target: Literal["ldm.diffusion.timestep_sampling.Uniform", "ldm.diffusion.timestep_sampling.LogNormal"]


class Loss(Target):
    target: Literal[
        "ldm.training.losses.ReconstructionLoss",
        "ldm.training.losses.TextureLoss",
        "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator",
    ]


class Schedule(Target):
    target: Literal["ldm.diffusion.schedule.scaled_linear_alpha_bar", "ldm.diffusion.schedule.cosine_alpha_bar"]


class Denoiser(Target):
    target: Literal["ldm.networks.unet.UNet"]


class SummarizerTarget(Target):
    target: Literal["ldm.networks.summarizer.Summarizer", "ldm.networks.summarizer.CNNSummarizer"]


class AutoencoderTarget(Target):
    target: Literal["ldm.networks.autoencoder.Autoencoder"]


class Cdm(Target):
    target: Literal["ldm.networks.dit.DiT"]


class ControlTarget(Target):
    target: Literal["ldm.networks.controlnet.Control"]
    unet: Denoiser


class PreviewTarget(Target):
    target: Literal["ldm.networks.preview_head.PreviewHead"]
