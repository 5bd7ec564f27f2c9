"""Export a model's U-Net and autoencoder to folders that the package diffusers loads."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.checkpoint import load_strict
from ldm.errors import UserError
from ldm.networks.diffusers_layout import diffusers_package, unet_arguments, unet_weights, vq_arguments, vq_weights
from ldm.pipeline import ZoomLDM

TOLERANCE = 1e-5
"""largest difference of outputs, over their largest value"""
CONTEXT_TOKENS = 65
UNET, VQ = "unet", "vqvae"


def export(model: ZoomLDM, folder: Path) -> list[Path]:
    """Write `folder`/unet, a UNet2DConditionModel, and `folder`/vqvae, a VQModel; returns the two.

    Both are compared with ours before anything is written. UserError without diffusers, for a layout that it does not
    have, or when the outputs differ.
    """
    diffusers = diffusers_package()
    latents = model.tile_px // model.downsample
    made = {  # unsupported layouts are refused before anything is built
        UNET: (diffusers.UNet2DConditionModel, unet_arguments(model.unet, latents), unet_weights(model.unet)),
        VQ: (diffusers.VQModel, vq_arguments(model.autoencoder, model.tile_px), vq_weights(model.autoencoder)),
    }
    built: dict[str, Any] = {}
    for name, (kind, arguments, weights) in made.items():
        built[name] = kind(**arguments).eval()
        load_strict(built[name], weights, f"diffusers: {name}")
    compare(model, built[UNET], built[VQ])
    for name, network in built.items():
        network.save_pretrained(folder / name)
    return [folder / name for name in built]


@torch.no_grad()
def compare(model: ZoomLDM, unet: Any, vq: Any) -> None:
    """UserError where the outputs of diffusers' networks for noise differ from the model's."""
    rng = torch.Generator().manual_seed(0)
    side = 2 ** (len(unet.config.block_out_channels) - 1) * 2  # latents: two at the coarsest level
    z, t = torch.randn(1, unet.config.in_channels, side, side, generator=rng), torch.tensor([500])
    context = torch.randn(1, CONTEXT_TOKENS, unet.config.cross_attention_dim, generator=rng)
    x = torch.rand(1, 3, side * model.downsample, side * model.downsample, generator=rng) * 2 - 1
    ours, autoencoder = model.unet.cpu().float(), model.autoencoder.cpu().float()
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        "U-Net": (ours(z, t, context), unet(z, t, encoder_hidden_states=context).sample),
        "encoder": (autoencoder.encode(x), vq.encode(x).latents),
        "decoder": (autoencoder.decode(z), vq.decode(z).sample),
    }
    for name, (expected, found) in pairs.items():
        apart = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        if not apart <= TOLERANCE:
            raise UserError(
                f"diffusers: its {name} differs from ours by {apart:.1e} of the largest value, expected at most "
                f"{TOLERANCE:.0e}; nothing was written; use diffusers 0.35 or a later version"
            )


def run(args: argparse.Namespace) -> None:
    """Export the model of the command line; prints the folders."""
    for folder in export(ZoomLDM.load(args.model), args.out):
        print(folder)
