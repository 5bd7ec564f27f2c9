"""The published networks at toy size, in float64, their weights from the formula: see README.md for the sizes."""

import torch

from benchmarks.fixtures.fill import fill_, value
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet


def small_unet(averaged: bool = False) -> UNet:
    """The U-Net, or the average of its weights that the published checkpoint holds beside them."""
    unet = UNet(width=32, multipliers=(1, 2), blocks=1, attention=(2,)).eval().requires_grad_(False)
    for name, weight in unet.state_dict().items():
        key = f"diffusion_model.{name}"
        key = f"model_ema.{key.replace('.', '')}" if averaged else f"model.{key}"
        weight.copy_(torch.from_numpy(value(key, weight.shape)))
    return unet.double()


def small_summarizer() -> Summarizer:
    summarizer = Summarizer(embedding_dim=64, layers=2, mlp=256).eval().requires_grad_(False)
    fill_(summarizer.state_dict(), "cond_stage_model.")
    return summarizer.double()


def small_autoencoder() -> Autoencoder:
    autoencoder = Autoencoder(width=32, blocks=1, codes=256).eval().requires_grad_(False)
    fill_(autoencoder.state_dict(), "first_stage_model.")
    return autoencoder.double()
