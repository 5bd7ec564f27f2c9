"""The demo's tile encoder, which needs no download: uint8 tiles (n, h, w, 3) -> embeddings (n, 256).

A random ResNet-18, cut after its second stage, sees the tile at half resolution; channel means and standard deviations
over space are standardised by statistics measured once on demo slides. It ships in the package and is made by

    python data_prep/demo_encoder.py --fit SLIDES --out ldm/weights/demo/encoder.safetensors
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from data_prep.slide import Plane, open_slide
from data_prep.tissue import PER_TILE, read_foreground, tile_shares
from ldm.arguments import Parser, output_file, seed_int
from ldm.checkpoint import load_strict, load_weights, save_weights
from ldm.errors import UserError, cli
from ldm.files import sha256
from ldm.scales import ladder

DEMO_WEIGHTS = Path(__file__).parents[1] / "ldm" / "weights" / "demo" / "encoder.safetensors"
DEMO_CHANNELS = 128
DEMO_TILE_PX = 128
LEAST_STD = 0.3
"""of the median channel's: one that hardly ever fires is not blown up"""


class DemoEncoder(nn.Module):
    """Random features with measured statistics: 128 channel means and 128 standard deviations."""

    mean: Tensor
    std: Tensor
    width = 2 * DEMO_CHANNELS
    preprocessing = "2x2 means, / 127.5 - 1"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(2,))
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("std", torch.ones(self.width))
        self.id = "demo"
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
    parser = Parser(description="Make the demo encoder's weights.")
    parser.add_argument("--fit", type=Path, required=True, help="folder of demo slides to measure")
    parser.add_argument("--out", type=output_file, default=str(DEMO_WEIGHTS), help="safetensors file to write")
    parser.add_argument("--seed", type=seed_int, default=5, help="of the random backbone")
    arguments = parser.parse_args(argv)
    digest = fit_demo(arguments.fit, arguments.out, arguments.seed)
    print(f"{arguments.out}: demo-{digest[:12]}")


if __name__ == "__main__":
    cli(main)
