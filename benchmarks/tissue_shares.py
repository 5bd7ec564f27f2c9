"""Which scales show the label of `zoomldm draw --kind neighbours`, by features that see everything in their tile.

    python -m benchmarks.tissue_shares

Features are the true shares of tissue classes under a tile, drawn from the same layout as the slide, in place of a
network's: what a perfect encoder of single tiles would give. Five splits into five folds, as in `zoomldm mil`.

Shapes: n tiles, d classes.
"""

import argparse

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from ldm.data.split_file import folds
from ldm.demo.histology_map import region_maps
from ldm.demo.textures import STEP
from ldm.demo.world import are_beside
from ldm.evaluation.mil.classifier import cross_validate
from ldm.support.arguments import positive_int

TILE_PX, SIZE_PX = 128, 2048
SETS = {"20x": (1,), "5x": (4,), "1.25x": (16,), "20x and 5x": (1, 4), "20x, 5x and 1.25x": (1, 4, 16)}
"""side of the regions whose features a 20x tile is given, in tiles"""


def shares(seed: int) -> Tensor:
    """(d, rows, columns) share of nest, lymphocytes, fat and vessel in each 20x tile of a slide."""
    maps = region_maps(np.random.default_rng([seed, 0]), SIZE_PX, are_beside(seed))
    names = ("nest", "fat", "vessel")
    classes = [(maps[name] > 0).astype(np.float32) for name in names] + [maps["lymphocytes"]]
    side = TILE_PX // STEP
    return torch.from_numpy(reduce(np.stack(classes), "d (r h) (c w) -> d r c", "mean", h=side, w=side).copy())


def bag(tiles: Tensor, sides: tuple[int, ...]) -> Tensor:
    """(n, d len(sides)): a row for each tile of the finest of `sides`, with the features of the regions around it."""
    finest, rows = sides[0], []
    for side in sides:
        pooled = torch.nn.functional.avg_pool2d(tiles[None], side)[0]
        rows.append(pooled.repeat_interleave(side // finest, 1).repeat_interleave(side // finest, 2))
    return rearrange(torch.cat(rows), "d r c -> (r c) d")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=positive_int, default=80)
    parser.add_argument("--seeds", type=positive_int, default=5)
    args = parser.parse_args()
    seeds = range(500, 500 + args.slides)
    labels = np.array([int(are_beside(seed)) for seed in seeds])
    drawn = [shares(seed) for seed in seeds]
    print("| features | AUC |\n|---|---|")
    for name, sides in SETS.items():
        bags = [bag(tiles, sides) for tiles in drawn]
        means = []
        for seed in range(args.seeds):
            fold = folds([str(number) for number in seeds], labels.astype(str).tolist(), 5, seed)
            means.append(cross_validate(bags, labels, fold, seed, components=4).mean)
        print(f"| {name} | {np.mean(means):.3f} ± {np.std(means, ddof=1):.3f} |", flush=True)


if __name__ == "__main__":
    main()
