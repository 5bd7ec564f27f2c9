"""Cut large pictures out of the tissue of slides, as lossless files: the reference for large images.

python data_prep/crops.py SLIDE.svs FOLDER ... --kind histology --size 1024 --count 4 --out crops
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.slides.find import SUFFIXES
from ldm.errors import UserError, cli
from ldm.images.contact_sheet import save_png
from ldm.scales import ladder
from ldm.support.arguments import Parser, output_folder, positive_int, seed_int
from ldm.support.cache import Identity, content
from ldm.support.files import write_text

KEPT = "crops.json"
TISSUE = 0.9
"""least share of tissue of a picture"""
GRAIN_PX = 128
"""corners of pictures are multiples of it"""


def cut(slides: Sequence[Path], kind: str, size_px: int, count: int, out: Path, seed: int = 0) -> list[Path]:
    """`count` pictures (size_px, size_px, 3) of each slide at the base scale, apart, as out/<slide>_<row>_<col>.png,
    of a georeferenced scene .tif.

    Places depend on the slide and on `seed` alone; existing files of the same slide and size (recorded in KEPT) are
    kept. Row and column are pixels of the base scale. UserError for a slide with less tissue than that.
    """
    from data_prep.slides.slide import Plane, open_slide  # OpenSlide and rasterio take a while to import
    from data_prep.slides.tissue import PER_TILE, read_foreground, tile_shares
    from ldm.images.cog import CogWriter

    by_stem: dict[str, Path] = {}
    for path in slides:
        if (other := by_stem.setdefault(path.stem, path)) != path:
            raise UserError(f"{other} and {path}: their pictures would have one name; rename one, or cut them apart")
    paths, kept = [], _kept(out / KEPT)
    for path in tqdm(slides, desc=f"{size_px} px pictures", unit="slide"):
        slide, mpp = open_slide(path, kind), ladder(kind).base_mpp
        plane = Plane(slide, mpp)
        rows, cols = plane.height // GRAIN_PX, plane.width // GRAIN_PX
        found = read_foreground(Plane(slide, mpp * GRAIN_PX / PER_TILE), rows, cols)
        places = apart(tile_shares(found.mask), -(-size_px // GRAIN_PX), count, seed)
        if len(places) < count:
            raise UserError(
                f"{path}: {len(places)} places of {size_px} px in its tissue; expected {count}: ask for fewer"
            )
        for row, col in places:
            x, y, ground = col * GRAIN_PX, row * GRAIN_PX, plane.place
            paths.append(out / f"{path.stem}_{y}_{x}{'.png' if ground is None else '.tif'}")
            settings = {"kind": kind, "size": size_px, "place": [y, x]}
            identity = Identity("crop", inputs={"slide": content(path)}, settings=settings).digest
            if paths[-1].is_file() and kept.get(paths[-1].name) == identity:
                continue
            pixels = plane.read(x, y, size_px, size_px)
            if ground is None:
                save_png(paths[-1], pixels)
            else:
                with CogWriter(paths[-1], size_px, size_px, ground.moved(x, y)) as writer:
                    writer.write(pixels)
            kept[paths[-1].name] = identity
            write_text(out / KEPT, json.dumps(kept, indent=1) + "\n")
    return paths


def _kept(path: Path) -> dict[str, str]:
    """Picture name -> digest of its source; empty where unknown."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def apart(shares: NDArray[np.floating], side: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Up to `count` squares of side x side tiles, apart, with enough tissue: their first (row, col), shuffled."""
    if side > min(shares.shape):
        return []
    windows = np.lib.stride_tricks.sliding_window_view(shares, (side, side)).mean((2, 3))
    candidates = np.random.default_rng(seed).permutation(np.argwhere(windows >= TISSUE))
    places: list[tuple[int, int]] = []
    for row, col in candidates.tolist():
        if len(places) < count and all(max(abs(row - i), abs(col - j)) >= side for i, j in places):
            places.append((row, col))
    return places


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("crops", description="Cut large pictures out of the tissue of slides.")
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE|FOLDER")
    parser.add_argument("--kind", choices=("histology", "satellite"), default="histology", help="(%(default)s)")
    parser.add_argument("--size", type=positive_int, default=1024, help="pixels a side (%(default)s)")
    parser.add_argument("--count", type=positive_int, default=4, help="pictures a slide (%(default)s)")
    parser.add_argument("--seed", type=seed_int, default=0, help="(%(default)s)")
    parser.add_argument("--out", type=output_folder, default="data/crops", help="folder (%(default)s)")
    args = parser.parse_args(argv)
    slides = [path for given in args.slides for path in (sorted(given.iterdir()) if given.is_dir() else [given])]
    slides = [path for path in slides if path.suffix.lower() in SUFFIXES]
    if not slides:
        raise UserError(
            f"{' '.join(map(str, args.slides))}: no slide found, expected files of {', '.join(sorted(SUFFIXES))}"
        )
    paths = cut(slides, args.kind, args.size, args.count, args.out, args.seed)
    print(f"{len(paths)} pictures in {args.out}")


if __name__ == "__main__":
    cli(main)
