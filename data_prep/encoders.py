"""Frozen tile encoders: uint8 tiles (n, h, w, 3) -> embeddings (n, d), one per base tile (paper, section 3.1).

`demo` needs no download: a random ResNet-18, cut after its second stage, sees the tile at half resolution; channel
means and standard deviations over space are standardised by statistics measured once on demo slides. It ships in the
package and is made by

    python data_prep/encoders.py --fit SLIDES --out ldm/weights/demo/encoder.safetensors

`colours` needs no weights at all: histograms of the tile's colours, blind to shape and texture.

The others come from timm: `uni`, `uni2-h`, `dinov2`, `clip` and `hipt` as published, or any timm model by its own name.
Those see the whole tile, resized to their input and normalised as in training.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils.logging import set_verbosity_error
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from data_prep.slide import Plane, open_slide
from data_prep.tissue import PER_TILE, read_foreground, tile_shares
from ldm.checkpoint import load_strict, load_weights, save_weights
from ldm.errors import UserError, cli
from ldm.files import sha256
from ldm.scales import ladder

DEMO_WEIGHTS = Path(__file__).parents[1] / "ldm" / "weights" / "demo" / "encoder.safetensors"
DEMO_CHANNELS = 128
DEMO_TILE_PX = 128
COLOUR_BINS = 8
LEAST_STD = 0.3
"""of the median channel's: one that hardly ever fires is not blown up"""


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
    """The encoder `name`: demo, colours, one of PUBLISHED, or any timm model; `weights` is a local file.

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
    if name not in PUBLISHED and not timm.is_model(name):
        known = ", ".join(["demo", "colours", *PUBLISHED])
        raise UserError(f"encoder.name: {name} is unknown; expected {known} or a timm model name")
    return TimmEncoder(name, weights, device)


def known_width(name: str) -> int | None:
    """Channels of the encoder `name`, without its weights; None for one that is not known here."""
    if name == "demo":
        return 2 * DEMO_CHANNELS
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
    set_verbosity_error()  # one line of ours says it all
    try:
        return timm.create_model(published.architecture, pretrained=True, **options)
    except (OSError, RuntimeError, HfHubHTTPError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0].split('. ')[0]}"
        page = f"accept the licence at https://huggingface.co/{published.hub}, run `hf auth login`, or "
        remedy = f"{page if published.hub else ''}set encoder.weights to a local file"
        raise UserError(f"encoder.name: {name}: its weights could not be fetched ({reason}); {remedy}") from error


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


class DemoEncoder(nn.Module):
    """Random features with measured statistics: 128 channel means and 128 standard deviations."""

    mean: Tensor
    std: Tensor
    preprocessing = "2x2 means, / 127.5 - 1"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(2,))
        self.register_buffer("mean", torch.zeros(2 * DEMO_CHANNELS))
        self.register_buffer("std", torch.ones(2 * DEMO_CHANNELS))
        self.id, self.width = "demo", 2 * DEMO_CHANNELS
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path, device: str) -> "DemoEncoder":
        encoder = cls()
        load_strict(encoder, load_weights(path), str(path))
        encoder.id = f"demo-{sha256(path)[:12]}"
        return encoder.to(device)

    @torch.inference_mode()
    def forward(self, tiles: Tensor) -> Tensor:
        return ((self.features(tiles) - self.mean) / self.std).cpu()

    def features(self, tiles: Tensor) -> Tensor:
        """uint8 (n, h, w, 3) -> (n, 256), before standardisation."""
        x = reduce(tiles.to(self.mean.device).float(), "n (h a) (w b) c -> n c h w", "mean", a=2, b=2) / 127.5 - 1
        maps = self.backbone(x)[0]  # (n, 128, h / 16, w / 16)
        return torch.cat([reduce(maps, "n c h w -> n c", "mean"), maps.std((2, 3))], 1)

    @torch.inference_mode()
    def maps(self, images: Tensor) -> list[Tensor]:
        """uint8 (n, h, w, 3) -> [(n, 128, h / 8, w / 8)]: stands in for LPIPS' features; at full resolution."""
        x = rearrange(images.to(self.mean.device).float(), "n h w c -> n c h w") / 127.5 - 1
        return self.backbone(x)


def fit_demo(slides: Path, out: Path, seed: int) -> str:
    """Draw the demo encoder's backbone from `seed`, measure its statistics on the tissue of `slides`, and save it.

    Returns the sha256 of the file. UserError when the folder holds no slide.
    """
    paths = sorted(slides.glob("*.tif*"))
    if not paths:
        raise UserError(f"--fit: {slides} holds no *.tiff; draw some with data_prep/demo_world.py")
    torch.manual_seed(seed)
    encoder = DemoEncoder().half().float()  # as it will be read back
    features = torch.cat([encoder.features(tiles) for path in paths for tiles in _tissue_tiles(path)])  # (n, d)
    std = features.std(0)
    std = std.clamp_min(LEAST_STD * std.median().item())
    state = encoder.state_dict()
    for name, value in state.items():
        if name.startswith("backbone.") and value.is_floating_point():
            state[name] = value.half()
    return save_weights(out, state | {"mean": features.mean(0), "std": std})


def _tissue_tiles(path: Path) -> Iterator[Tensor]:
    """Rows of base tiles with tissue (n, h, w, 3) of a histology slide."""
    slide, mpp = open_slide(path, "histology"), ladder("histology").base_mpp
    plane = Plane(slide, mpp)
    rows, cols = plane.height // DEMO_TILE_PX, plane.width // DEMO_TILE_PX
    mask = read_foreground(Plane(slide, mpp * DEMO_TILE_PX / PER_TILE), rows, cols).mask
    for row, shares in enumerate(tile_shares(mask)):
        band = plane.read(0, row * DEMO_TILE_PX, cols * DEMO_TILE_PX, DEMO_TILE_PX)
        tiles = rearrange(band, "h (n w) c -> n h w c", n=cols)[shares > 0]
        if len(tiles):
            yield torch.from_numpy(tiles)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the demo encoder's weights.")
    parser.add_argument("--fit", type=Path, required=True, help="folder of demo slides to measure")
    parser.add_argument("--out", type=Path, default=DEMO_WEIGHTS, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=5, help="of the random backbone")
    arguments = parser.parse_args(argv)
    digest = fit_demo(arguments.fit, arguments.out, arguments.seed)
    print(f"{arguments.out}: demo-{digest[:12]}")


if __name__ == "__main__":
    cli(main)
