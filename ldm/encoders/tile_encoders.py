"""Frozen tile encoders by name: uint8 tiles (n, h, w, 3) -> embeddings (n, d), one per base tile (paper, section 3.1).

`demo` needs no download (see ldm/encoders/demo_encoder.py). `colours` needs no weights at all: histograms of the tile's
colours, blind to shape and texture.

The others see the whole tile, resized to their input and normalised as in training: from timm `uni`, `uni2-h`,
`dinov2`, `clip` and `hipt` as published, or any timm model by its own name; `conch` by its authors' package.
"""

import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from PIL import Image
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from ldm.checkpoint import check_kinds, load_strict, load_weights
from ldm.encoders.demo_encoder import DEMO_WEIGHTS, DemoEncoder
from ldm.errors import UserError
from ldm.support.files import sha256
from ldm.support.finite import not_finite
from ldm.support.hub_files import TIMM_FILES, Repository, cached, check_access, explained, fetch

COLOUR_BINS = 8
CONCH_HUB = "MahmoodLab/conch"
LOCAL = "set encoder.weights to a local file"


class TileEncoder(Protocol):
    """Frozen weights: the same tile gives the same embedding."""

    id: str
    """names the weights; stored with every embedding"""
    width: int
    """channels d of an embedding"""
    preprocessing: str
    """from 8-bit pixels to what the network sees"""

    def __call__(self, tiles: Tensor, /) -> Tensor:
        """uint8 (n, h, w, 3) -> float32 (n, d), on the CPU."""


@dataclass(frozen=True)
class Published:
    """A pathology or satellite encoder in timm: its architecture, where its weights are, who grants access to them."""

    architecture: str
    hub: str
    options: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    """of its tiles, where it differs from the architecture's in timm"""
    file: str = ""
    """where its weights are when no hub has them"""


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic"}
PUBLISHED = {
    "uni": Published(
        "vit_large_patch16_224",
        "MahmoodLab/UNI",
        {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
        IMAGENET,
    ),
    "uni2-h": Published(
        "vit_giant_patch14_224",
        "MahmoodLab/UNI2-h",
        {
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "mlp_layer": SwiGLUPacked,
            "act_layer": nn.SiLU,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        IMAGENET,
    ),
    "dinov2": Published(
        "vit_large_patch14_reg4_dinov2.lvd142m", "timm/vit_large_patch14_reg4_dinov2.lvd142m", {"img_size": 224}
    ),
    "clip": Published(  # what CLIP-FID measures in: the projected image embedding
        "vit_base_patch32_clip_quickgelu_224.openai", "timm/vit_base_patch32_clip_224.openai", {"num_classes": 512}
    ),
    "hipt": Published(
        "vit_small_patch16_224",
        "",
        {"img_size": 256},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "HIPT_4K/Checkpoints/vit256_small_dino.pth of https://github.com/mahmoodlab/HIPT",
    ),
}


def load_encoder(name: str, weights: str | Path | None = None, device: str = "cpu") -> TileEncoder:
    """The encoder `name`: one of OURS or PUBLISHED, or any timm model; `weights` is a local file.

    An id, as slides and models carry it, names the weights too: NAME-<12 digits of their sha256>.
    Raises UserError for an unknown name, and for weights that are missing, gated or not those of the id.
    """
    if asked := re.fullmatch(r"(.+)-[0-9a-f]{12}", name):
        encoder = load_encoder(asked[1], weights, device)
        if encoder.id != name:
            raise UserError(f"encoder: {encoder.id} is here, expected {name}; give the file of its weights")
        return encoder
    if name == "demo":
        return DemoEncoder.load(weights or DEMO_WEIGHTS, device)
    if name == "colours":
        return ColourEncoder()
    if name == "conch":
        return ConchEncoder(weights, device)
    if name not in PUBLISHED and not timm.is_model(name):
        known = ", ".join([*OURS, *PUBLISHED])
        raise UserError(f"encoder.name: {name} is unknown; expected {known} or a timm model name")
    return TimmEncoder(name, weights, device)


def known_width(name: str) -> int | None:
    """Channels of the encoder `name`, without its weights; None for one that is not known here."""
    if name in OURS:
        return OURS[name]
    if name not in PUBLISHED and not timm.is_model(name):
        return None
    published = PUBLISHED.get(name, Published(name, ""))
    with torch.device("meta"):
        network: Any = timm.create_model(published.architecture, **{"num_classes": 0, **published.options})
    return int(network.num_classes or network.num_features)


class TimmEncoder:
    """Pooled features of a timm network; of CLIP, their projection."""

    def __init__(self, name: str, weights: str | Path | None, device: str) -> None:
        published = PUBLISHED.get(name, Published(name, ""))
        self.network = _timm_network(name, published, weights).eval().requires_grad_(False).to(device)
        self.device = device
        self.id = name if weights is None else f"{name}-{sha256(weights)[:12]}"
        self.width = self.network.num_classes or self.network.num_features
        config = timm.data.resolve_data_config({}, model=self.network)
        self.size, self.interpolation = config["input_size"][1:], config["interpolation"]
        height, width = self.size
        self.preprocessing = (
            f"{self.interpolation}, antialiased, to {width}x{height}, mean {config['mean']}, std {config['std']}"
        )
        self.mean, self.std = (torch.tensor(config[key], device=device).view(3, 1, 1) for key in ("mean", "std"))

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        x = rearrange(tiles.to(self.device), "n h w c -> n c h w").float() / 255
        x = F.interpolate(x, self.size, mode=self.interpolation, antialias=True).clamp(0, 1)
        return self.network((x - self.mean) / self.std).float().cpu()  # (n, d)


def _timm_network(name: str, published: Published, weights: str | Path | None) -> Any:
    """Build and fill the network, without its classifier unless that is what is published."""
    overlay = dict(published.transform)
    if side := published.options.get("img_size"):
        overlay["input_size"] = (3, side, side)
    if published.hub:
        overlay["hf_hub_id"] = published.hub
    options = {"pretrained_cfg_overlay": overlay, "num_classes": 0, **published.options}
    if weights is not None:
        network = timm.create_model(published.architecture, pretrained=False, **options)
        load_strict(network, _local_state(network, weights), str(weights))
        return network
    if published.file:
        raise UserError(f"encoder.name: {name}: no hub has its weights; set encoder.weights to {published.file}")
    fetched = _fetched(
        name, published.hub, lambda: timm.create_model(published.architecture, pretrained=True, **options)
    )
    if wrong := not_finite(fetched.state_dict()):
        raise UserError(
            f"encoder.name: {name}: its weights, as fetched: {wrong} not finite; delete and fetch them again"
        )
    return fetched


def _fetched(name: str, hub: str, fetch: Callable[[], Any]) -> Any:
    """What `fetch` downloads from the hub's repository. UserError when it cannot: why, and how to do without."""
    if not hub and timm.is_model(name):
        published = timm.get_pretrained_cfg(name)
        hub = (published and published.hf_hub_id) or ""
    with explained(f"encoder.name: {name}: its weights could not be fetched", Repository(hub), LOCAL):
        if hub:
            check_access(Repository(hub), TIMM_FILES)
            if cached(Repository(hub), TIMM_FILES) is None:
                print(f"encoder.name: {name}: fetching its weights from {Repository(hub).page}", file=sys.stderr)
        return fetch()


def _local_state(network: Any, weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a file; position embeddings of another image size are resized, the classifier is left out.

    DINO's own files name the network `backbone`, inside `module` where it was trained on several GPUs.
    """
    tensors = load_weights(weights).items()
    state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in tensors}
    if isinstance(network, VisionTransformer):
        state = checkpoint_filter_fn(state, network)
    if network.num_classes:
        return state
    classifier = network.pretrained_cfg.get("classifier") or "head"
    return {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}


class ColourEncoder:
    """Histograms of red, green and blue over the tile, (n, 24)."""

    id, width = "colours", 3 * COLOUR_BINS
    preprocessing = "none"

    def __call__(self, tiles: Tensor) -> Tensor:
        bins = rearrange(tiles, "n h w c -> n c (h w)").cpu().int() * COLOUR_BINS // 256
        return torch.cat([reduce((bins == level).float(), "n c p -> n c", "mean") for level in range(COLOUR_BINS)], 1)


class ConchEncoder:
    """CONCH (Lu et al. 2024, Nature Medicine), which is not in timm: image embeddings before the projection to text."""

    width = 512
    preprocessing = "that of the package conch"

    def __init__(self, weights: str | Path | None, device: str) -> None:
        try:
            from conch.open_clip_custom import create_model_from_pretrained
        except ImportError as error:
            remedy = "pip install git+https://github.com/Mahmoodlab/CONCH.git"
            raise UserError(f"encoder.name: conch: its authors' package is missing ({error}); {remedy}") from error
        path = weights or fetch(Repository(CONCH_HUB), "pytorch_model.bin", "encoder.name: conch", LOCAL)
        tensors = {name.removeprefix("module."): value for name, value in load_weights(path).items()}  # runs no code
        try:
            network, self.transform = create_model_from_pretrained("conch_ViT-B-16", str(path))
        except (KeyError, RuntimeError, pickle.UnpicklingError) as error:
            raise _not_conch(path) from error
        own = {f"visual.{name}": value for name, value in network.visual.state_dict().items()}
        if (
            not {name for name in own if "caption" not in name} <= tensors.keys()
        ):  # what a file lacks the package leaves random; nothing here makes captions
            raise _not_conch(path)
        check_kinds(own, tensors, f"encoder.weights: {path}")
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device
        self.id = "conch" if weights is None else f"conch-{sha256(weights)[:12]}"

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        x = torch.stack([self.transform(Image.fromarray(tile.numpy())) for tile in tiles.cpu()])
        return self.network.encode_image(x.to(self.device), proj_contrast=False, normalize=False).float().cpu()


def _not_conch(path: str | Path) -> UserError:
    file = f"pytorch_model.bin of https://huggingface.co/{CONCH_HUB}"
    return UserError(f"encoder.weights: {path} is another network's; expected {file}")


OURS = {"demo": DemoEncoder.width, "colours": ColourEncoder.width, "conch": ConchEncoder.width}
"""widths of those that timm does not build"""
