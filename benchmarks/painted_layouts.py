"""Painted pictures judged: a small segmenter trained on them and tested on drawn slides.

    python -m benchmarks.painted_layouts

The segmenter is a small network on features of the frozen demo encoder, one class per 8 x 8 px. The demo world's true
map is known. Each layout is the map of a drawn slide that belongs neither to the palette nor to what the model was
trained on; its picture is sampled as `zoomldm joint --layout` does. Rows of the table, tested on drawn slides of other
seeds, as intersection over union (IoU) per class:

    drawn                   the drawn pixels with their true map
    drawn, a class a tile   the same pixels, labels blurred to one class per base tile: what a layout's grid can state
    painted                 sampled pixels with the layout as labels
    both                    drawn and painted together
    layout followed         the segmenter of the first row on painted pictures, against their layouts

A second table: discs of tumour in stroma of various widths; the share of a disc that this segmenter sees as tumour.
Means and standard deviations over the segmenters' seeds. Tables go to --out, pictures beside them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.hardware import device_name
from ldm.demo.histology import histology_slide
from ldm.demo.textures import STEP
from ldm.demo.true_map import CLASSES, true_map
from ldm.encoders.demo_encoder import DEMO_CHANNELS, DEMO_WEIGHTS, DemoEncoder
from ldm.errors import cli
from ldm.images.class_maps import Legend, outlined
from ldm.images.contact_sheet import Pixels, contact_sheet, fitted, save_png
from ldm.images.geojson import ClassRegion, ClassRegions
from ldm.images.pictures import read_picture
from ldm.images.tensors import to_uint8
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.joint import Joint
from ldm.multiscale.layout import fitted as fitted_layout
from ldm.multiscale.palette import Palette, load_palette
from ldm.multiscale.presets import PRESETS, adapted
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, integer, output_file, output_folder, positive_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.cache import Identity, content
from ldm.support.files import write_text
from ldm.support.precision import add_precision

SLIDE_PX, SIZE = 1024, 512
TRAIN_SEED, TEST_SEED = 3000, 4000
WIDTHS = (0.5, 1, 1.5, 2)
"""of discs, in base tiles"""
NAMES = list(CLASSES["histology"])
COLOURS = np.array(list(CLASSES["histology"].values()), np.uint8)
SHOWN, SHOWN_PX = 6, 256
Map = NDArray[np.uint8]


class Example(NamedTuple):
    """Pixels (SIZE, SIZE, 3), and classes (SIZE / STEP, SIZE / STEP)."""

    pixels: Pixels
    classes: Map


def drawn_example(seed: int) -> Example:
    """The part of a drawn slide with most different classes."""
    classes = true_map("histology", seed, SLIDE_PX)
    side = SIZE // STEP
    places = [(y, x) for y in range(0, len(classes) - side + 1, side) for x in range(0, len(classes) - side + 1, side)]
    shares = [
        np.bincount(classes[y : y + side, x : x + side].ravel(), minlength=len(NAMES)) / side**2 for y, x in places
    ]
    y, x = places[int(np.argmax([-(share * np.log(share + 1e-9)).sum() for share in shares]))]
    slide = histology_slide(seed, SLIDE_PX)
    pixels = slide[y * STEP : y * STEP + SIZE, x * STEP : x * STEP + SIZE]
    return Example(np.ascontiguousarray(pixels), classes[y : y + side, x : x + side])


def layout_of(classes: Map) -> ClassRegions:
    """A map as regions, as `zoomldm draw` writes them."""
    legend = {value: Legend(name) for value, name in enumerate(NAMES)}
    return ClassRegions(outlined(classes, legend, STEP, smooth=True))


def disc(width: float, tile_px: int) -> tuple[ClassRegions, Map]:
    """A disc of tumour, `width` base tiles wide, in stroma; its middle lies off the grid."""
    y, x = (np.indices((SIZE // STEP,) * 2) + 0.5) * STEP
    middle = SIZE / 2 + 0.3 * tile_px
    inside = np.hypot(y - middle, x - middle) < width * tile_px / 2
    area = shapely.Point(middle, middle).buffer(width * tile_px / 2)
    found = [ClassRegion("Stroma", shapely.box(0, 0, SIZE, SIZE)), ClassRegion("Tumor", area)]
    return ClassRegions(found), np.where(inside, NAMES.index("Tumor"), NAMES.index("Stroma")).astype(np.uint8)


def painted(model: ZoomLDM, palette: Palette, regions: ClassRegions, seed: int, kept: Path) -> Pixels:
    """The picture of a layout; one that was sampled before is read again."""
    if kept.is_file():
        return read_picture(kept).pixels
    scales = model.ladder.fourfold
    layout = fitted_layout(regions, palette, um=model.ladder.um(scales[0]), size=(SIZE, SIZE))
    tokens = layout.tokens(palette, model.tile_px, seed)
    conditions = TokenMap(model, tokens)
    joint = Joint(model=model, scales=scales, height=SIZE, width=SIZE, conditions=conditions, seed=seed)
    for _ in joint.run():
        pass
    pixels = to_uint8(torch.cat(list(joint.bands()), dim=1)[None])[0]
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_png(kept, pixels)
    return pixels


class Segmenter(nn.Module):
    """Features (n, 128, h / 8, w / 8) -> class scores (n, k, h / 8, w / 8); it sees 120 px around what they see."""

    def __init__(self, classes: int, channels: int = DEMO_CHANNELS, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 1), nn.SiLU()]
        for dilation in (1, 2, 4):
            layers += [nn.Conv2d(width, width, 3, 1, dilation, dilation), nn.BatchNorm2d(width), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Featured(NamedTuple):
    """Features (n, 128, h / 8, w / 8) of pictures by the frozen encoder, and classes (n, h / 8, w / 8)."""

    features: Tensor
    classes: Tensor


def featured(examples: Sequence[Example], encoder: DemoEncoder) -> Featured:
    maps = [encoder.maps(torch.tensor(example.pixels)[None])[0] for example in examples]
    classes = torch.from_numpy(np.stack([example.classes for example in examples]))
    return Featured(torch.cat(maps), classes.long())


def trained(given: Featured, seed: int, steps: int) -> Segmenter:
    """A segmenter after `steps` steps of four turned and mirrored examples."""
    torch.manual_seed(seed)
    network = Segmenter(len(NAMES))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(len(given.features), size=4))
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        x, y = (torch.rot90(part[rows], turns, (-2, -1)) for part in given)
        x, y = (part.flip(-1) if mirrored else part for part in (x, y))
        loss = F.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def predicted(network: Segmenter, given: Featured) -> NDArray[np.int64]:
    """Classes (n, h / 8, w / 8)."""
    return network(given.features).argmax(1).numpy()


def ious(found: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """(k,) intersection over union of each class over all pictures; NaN for a class that none has."""
    both = [((found == k) & (truth == k)).sum() for k in range(len(NAMES))]
    either = [((found == k) | (truth == k)).sum() for k in range(len(NAMES))]
    there = [(truth == k).any() for k in range(len(NAMES))]
    return np.where(there, np.array(both) / np.maximum(either, 1), np.nan)


def class_a_tile(example: Example, tile_px: int) -> Example:
    """Labels of one class per base tile: its largest."""
    cells = tile_px // STEP
    squares = rearrange(example.classes, "(r a) (c b) -> r c (a b)", a=cells, b=cells)
    counts = np.stack([(squares == k).sum(-1) for k in range(len(NAMES))], -1)
    most = counts.argmax(-1).astype(np.uint8)
    return example._replace(classes=np.repeat(np.repeat(most, cells, 0), cells, 1))


def row(name: str, values: Sequence[NDArray[np.float64]]) -> str:
    """A line of the table: IoU of each class and their mean, over seeds; - for a class that is nowhere."""
    table = np.stack([np.append(value, np.nanmean(value)) for value in values])
    spread = zip(table.mean(0), table.std(0, ddof=1), strict=True)
    cells = ["-" if np.isnan(mean) else f"{mean:.2f} ± {std:.2f}" for mean, std in spread]
    return f"| {name} | {' | '.join(cells)} |"


def share_seen(discs: Featured, networks: Sequence[Segmenter]) -> list[float]:
    """Share of the discs that each segmenter takes for tumour."""
    tumour = NAMES.index("Tumor")
    inside = discs.classes.numpy() == tumour
    return [float((predicted(network, discs)[inside] == tumour).mean()) for network in networks]


def coloured(classes: NDArray[np.integer]) -> Pixels:
    return np.repeat(np.repeat(COLOURS[classes], STEP, 0), STEP, 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Train a small segmenter on painted and on drawn pictures, and test it on drawn ones.")
    add = parser.add_argument
    add("--layouts", type=positive_int, default=8, help="training pictures (%(default)s)")
    add("--tests", type=positive_int, default=12, help="drawn pictures to test on (%(default)s)")
    add("--seeds", type=integer(2), default=3, help="segmenters a row, from 2 on (%(default)s)")
    add("--steps", type=positive_int, default=250, help="of a segmenter (%(default)s)")
    add("--discs", type=positive_int, default=2, help="pictures of each width (%(default)s)")
    add_precision(add)
    add("--data", type=output_folder, default="data/demo/layouts", help="painted pictures (%(default)s)")
    add("--out", type=output_file, default="samples/layout.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load("demo", precision=args.precision)
    drawn = [drawn_example(TRAIN_SEED + i) for i in tqdm(range(args.layouts), desc="drawn")]
    tests = [drawn_example(TEST_SEED + i) for i in tqdm(range(args.tests), desc="tests")]
    paint, discs = painted_examples(args, model, drawn)
    encoder = DemoEncoder.load(DEMO_WEIGHTS, "cpu")
    tested, followed = featured(tests, encoder), featured(paint, encoder)
    sets = {
        "drawn": drawn,
        "drawn, a class a tile": [class_a_tile(one, model.tile_px) for one in drawn],
        "painted": paint,
        "both": [*drawn, *paint],
    }
    title = f"{args.layouts} pictures of {SIZE} px, {args.tests} tests, {args.seeds} seeds"
    title += f"; {device_name()}, {model.precision}"
    lines = [title, "", "|".join(["", "trained on", *NAMES, "mean", ""]), "|---" * (len(NAMES) + 2) + "|"]
    first: list[Segmenter] = []
    for name, examples in sets.items():
        given = featured(examples, encoder)
        networks = [trained(given, seed, args.steps) for seed in range(args.seeds)]
        first = first or networks
        lines.append(row(name, [ious(predicted(network, tested), tested.classes.numpy()) for network in networks]))
        print(lines[-1], flush=True)
    truth = followed.classes.numpy()
    lines.append(row("layout followed", [ious(predicted(network, followed), truth) for network in first]))
    lines += ["", "|".join(["", "width of a disc of tumour, in base tiles", *map(str, WIDTHS), ""])]
    lines.append("|---" * (len(WIDTHS) + 1) + "|")
    seen = [share_seen(featured(discs[width], encoder), first) for width in WIDTHS]
    cells = [f"{np.mean(of):.2f} ± {np.std(of, ddof=1):.2f}" for of in seen]
    lines.append(f"| share seen as tumour | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    write_text(args.out, text)
    show(drawn, paint, predicted(first[0], followed), args.out.with_suffix(".png"))
    print(text, args.out, sep="\n")


def painted_examples(
    args: argparse.Namespace, model: ZoomLDM, drawn: Sequence[Example]
) -> tuple[list[Example], dict[float, list[Example]]]:
    """Pictures sampled for the layouts of `drawn`, and by width those of discs; they are kept in --data."""
    palette = load_palette(BUNDLED["demo"].palette)
    inputs = {"palette": content(BUNDLED["demo"].palette)}
    settings = {**model.arithmetic, "sampling": asdict(adapted(PRESETS["default"], model))}
    kept = args.data / Identity("painted layouts", model.weights, inputs, settings).digest
    paint = [
        Example(painted(model, palette, layout_of(one.classes), i, kept / f"layout_{i}.png"), one.classes)
        for i, one in enumerate(tqdm(drawn, desc="painted"))
    ]
    discs: dict[float, list[Example]] = {width: [] for width in WIDTHS}
    for width, i in tqdm([(width, i) for width in WIDTHS for i in range(args.discs)], desc="discs"):
        regions, classes = disc(width, model.tile_px)
        pixels = painted(model, palette, regions, i, kept / f"disc_{width:g}_{i}.png")
        discs[width].append(Example(pixels, classes))
    return paint, discs


def show(drawn: Sequence[Example], paint: Sequence[Example], found: NDArray[np.int64], path: Path) -> None:
    """Layouts, drawn and painted pixels, and what a segmenter `found` in the painted ones."""
    sheet = [
        [fitted(picture, SHOWN_PX) for picture in part[:SHOWN]]
        for part in (
            [coloured(one.classes) for one in drawn],
            [one.pixels for one in drawn],
            [one.pixels for one in paint],
            [coloured(classes) for classes in found],
        )
    ]
    contact_sheet(sheet, ["layout", "drawn", "painted", "segmented"], [""] * len(sheet[0]), path)


if __name__ == "__main__":
    cli(main)
