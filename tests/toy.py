"""A whole model at toy size with random weights, as run folders, and a prepared slide that fits it."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torchvision.models import alexnet

from ldm.checkpoint import join, save_weights
from ldm.config.objects import build
from ldm.config.run_config import save_config
from ldm.data.slide_writer import SlideWriter
from ldm.networks.weights_id import weights_id
from tests.golden.fill import fill_

TILE_PX, WIDTH, EMBEDDING, SCALES = 32, 32, 6, ("20x", "10x", "5x")
NETWORKS: dict[str, dict[str, Any]] = {
    "denoiser": {
        "target": "ldm.networks.unet.UNet",
        "width": 32,
        "multipliers": [1, 1],
        "blocks": 1,
        "attention": [2],
        "context_dim": WIDTH,
    },
    "summarizer": {
        "target": "ldm.networks.summarizer.Summarizer",
        "embedding_dim": EMBEDDING,
        "scales": len(SCALES),
        "width": WIDTH,
        "layers": 1,
        "heads": 2,
        "mlp": 32,
    },
    "autoencoder": {
        "target": "ldm.networks.autoencoder.Autoencoder",
        "width": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "codes": 64,
        "patch": 2,
        "norm": "pixel",
        "attention": False,
    },
    "cdm": {
        "target": "ldm.networks.dit.DiT",
        "context_dim": WIDTH,
        "width": 32,
        "layers": 1,
        "heads": 2,
        "scales": len(SCALES),
    },
}
SCHEDULES = {"zoomldm": "scaled_linear_alpha_bar", "cdm": "cosine_alpha_bar"}


def networks(*parts: str) -> dict[str, nn.Module]:
    """The named networks; no weight is zero, so every input matters."""
    built: dict[str, nn.Module] = {part: build(NETWORKS[part]) for part in parts}
    for part, network in built.items():
        fill_(network.state_dict(), f"{part}.")
    return built


def run_folder(folder: Path, system: str, **changes: Any) -> Path:
    """Write a finished run of `system` ("vq", "zoomldm" or "cdm"); `changes` replace entries of its config."""
    parts = {"vq": ["autoencoder"], "zoomldm": ["denoiser", "summarizer", "autoencoder"], "cdm": ["cdm"]}[system]
    built = {part: network.state_dict() for part, network in networks(*parts).items()}
    config: dict[str, Any] = {
        "system": system,
        "ladder": {"kind": "histology", "scales": len(SCALES)},
        "tile_px": TILE_PX,
        "encoder": "toy",
        "model": {part: NETWORKS[part] for part in parts},
    }
    if system in SCHEDULES:
        config["model"]["schedule"] = {"target": f"ldm.diffusion.schedule.{SCHEDULES[system]}"}
    if system == "zoomldm":
        config["model"]["prediction"] = "v"
    if system == "cdm":
        config["contexts_id"] = weights_id(*networks("summarizer").values())
    folder.mkdir(parents=True)
    save_config(folder, OmegaConf.create(config | changes))
    save_weights(folder / "weights.safetensors", built["cdm"] if system == "cdm" else join(built))
    return folder


def slide(path: Path, images: bool = True, **changes: Any) -> Path:
    """Write a prepared slide of 8x8 base tiles; `changes` replace its attributes."""
    rng = np.random.default_rng(0)
    attrs: dict[str, Any] = {
        "slide_id": path.stem,
        "source": "toy",
        "width_l0": 8 * TILE_PX,
        "height_l0": 8 * TILE_PX,
        "base_mpp": 0.5,
        "mpp_l0": 0.5,
        "kind": "histology",
        "scales": list(SCALES),
        "tile_px": TILE_PX,
        "encoder": "toy-0123456789ab",
        "autoencoder": "toy",
        "seed": 0,
        "settings": json.dumps({"cohort": {"version": 0}, "slide": {"source": path.stem}}),
    }
    with SlideWriter(path, attrs | changes) as writer:
        writer.create_embeddings(8, 8, EMBEDDING, 1)
        writer.write_embeddings(0, 0, 0, rng.normal(size=(8, 8, EMBEDDING)))
        for index, scale in enumerate(SCALES):
            side = 8 >> index
            ij = np.argwhere(np.ones((side, side)))
            latents = rng.normal(size=(len(ij), 3, TILE_PX // 4, TILE_PX // 4))
            files = [_png(np.full((TILE_PX, TILE_PX, 3), 3 * i, np.uint8)) for i in range(len(ij))] if images else None
            writer.append(scale, ij, np.ones(len(ij)), latents=latents, images=files)
    return path


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def alexnet_weights(path: Path) -> Path:
    """Random weights of AlexNet at `path`; its classifier, which LPIPS has no use for, takes no room."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in alexnet().state_dict().items()}
    state = {
        name: torch.zeros(1).expand(shape) if name.startswith("classifier.") else 0.1 * torch.randn(shape)
        for name, shape in shapes.items()
    }
    torch.save(state, path)
    return path
