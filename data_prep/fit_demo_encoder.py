"""Makes the weights of a bundled encoder: a random backbone, and statistics of its features on tissue, or on ground.

python data_prep/fit_demo_encoder.py --fit SLIDES --out ldm/weights/demo/encoder.safetensors
python data_prep/fit_demo_encoder.py --fit SCENES --kind satellite --out ldm/weights/satellite/encoder.safetensors
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from data_prep.slides.slide import Plane, open_slide
from data_prep.slides.tissue import PER_TILE, read_foreground, tile_shares
from ldm.checkpoint import save_weights
from ldm.encoders.demo_encoder import DEMO_TILE_PX, DemoEncoder
from ldm.errors import UserError, cli
from ldm.scales import ladder
from ldm.support.arguments import Parser, output_file, seed_int
from ldm.support.bundled_models import model_of_kind

LEAST_STD = 0.3
"""least standard deviation, relative to the median channel's, so that inactive channels are not amplified"""


def fit_demo(slides: Path, out: Path, seed: int, kind: str = "histology") -> str:
    """Draw an encoder's backbone from `seed`, measure its statistics on the foreground of `slides`, and save it.

    Returns the sha256 of the file. UserError when the folder holds no slide.
    """
    paths = sorted(slides.glob("*.tif*"))
    if not paths:
        raise UserError(f"--fit: {slides} holds no *.tiff; draw some with ldm/demo/world.py")
    torch.manual_seed(seed)
    encoder = DemoEncoder().half().float()  # as stored
    tiles = (tiles for path in paths for tiles in _foreground_tiles(path, kind))
    features = torch.cat([encoder.features(some) for some in tiles])  # (n, d)
    std = features.std(0)
    std = std.clamp_min(LEAST_STD * std.median().item())
    state = encoder.state_dict()
    for name, value in state.items():
        if name.startswith("backbone.") and value.is_floating_point():
            state[name] = value.half()
    return save_weights(out, state | {"mean": features.mean(0), "std": std})


def _foreground_tiles(path: Path, kind: str) -> Iterator[Tensor]:
    """Rows of base tiles with foreground (n, h, w, 3) of a slide of `kind`."""
    slide, mpp = open_slide(path, kind), ladder(kind).base_mpp
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
    parser.add_argument("--kind", choices=("histology", "satellite"), default="histology", help="(%(default)s)")
    parser.add_argument("--out", type=output_file, help="safetensors file to write; default: the bundled one")
    parser.add_argument("--seed", type=seed_int, default=5, help="of the random backbone")
    arguments = parser.parse_args(argv)
    arguments.out = arguments.out or model_of_kind(arguments.kind).encoder
    digest = fit_demo(arguments.fit, arguments.out, arguments.seed, arguments.kind)
    print(f"{arguments.out}: {arguments.out.parent.name}-{digest[:12]}")


if __name__ == "__main__":
    cli(main)
