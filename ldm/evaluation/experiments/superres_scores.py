"""Super-resolution against the truth (paper, Table 3): PSNR, SSIM, LPIPS, similarity of embeddings, residual A x - y.

Shapes: H, W pixels of the truth, f the factor, h = H / f, w = W / f.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from ldm.evaluation.experiments.context import SHOWN, Embedder, EvalContext, Report, Sheet
from ldm.evaluation.experiments.given_images import enlarged_of
from ldm.evaluation.experiments.image_sets import SampleCache
from ldm.evaluation.experiments.superres_methods import Enlarge, LowRes
from ldm.evaluation.metrics.extractors import Extractor
from ldm.evaluation.metrics.fidelity import (
    LPIPS_REMEDY,
    Features,
    Lpips,
    alexnet_file,
    encoder_distance,
    encoder_similarity,
    psnr,
    ssim,
)
from ldm.evaluation.metrics.seams import gradient_energy
from ldm.evaluation.tables import markdown, spread
from ldm.images.contact_sheet import Pixels, save_png
from ldm.images.pictures import read_picture
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import image_tokens
from ldm.multiscale.constraint import Residual, Shrink
from ldm.multiscale.super_resolution import magnification

DIGITS = {"PSNR": 2, "gradient energy": 2, "encoder distance": 4, "LR residual": 4, "CPU s": 1}
"""digits of a column, where not 3"""


def scores(
    image: Pixels,
    truth: Pixels,
    y: Pixels,
    spaces: Sequence[Extractor],
    patch_px: int,
    features: Features | None,
    lpips: Lpips | None,
) -> dict[str, float]:
    """Scores of `image` (H, W, 3) against the truth; measures whose weights are missing are left out.

    Each of `spaces` gives the cosine of whole images, at its own input size (224 px: as the paper), and the mean cosine
    of patches of `patch_px`. `features` replace LPIPS' where its weights are missing.
    """
    pair = image[None], truth[None]
    residual = Residual(from_uint8(y[None])[0], len(image) // len(y))
    residual.add(from_uint8(image[None])[0])
    found = {"PSNR": float(psnr(*pair)[0]), "SSIM": float(ssim(*pair)[0])}
    if lpips is not None:
        found[f"LPIPS, {lpips.id}"] = float(lpips(*pair)[0])
    if features is not None:
        found["encoder distance"] = float(encoder_distance(features, *pair)[0])
    for space in spaces:
        patches = [whole_patches(picture, patch_px) for picture in (image, truth)]
        found[f"{space.id}, whole"] = float(encoder_similarity(space, *pair)[0])
        found[f"{space.id}, {patch_px} px"] = float(encoder_similarity(space, *patches).mean())
    found["gradient energy"] = gradient_energy(image) / gradient_energy(truth)
    found["LR residual"] = residual.rms
    return found


def whole_patches(image: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> its whole patches (n, side, side, 3)."""
    height, width = (length - length % side for length in image.shape[:2])
    return rearrange(image[:height, :width], "(r h) (c w) d -> (r c) h w d", h=side, w=side)


def run(
    setup: EvalContext,
    truths: Sequence[Path],
    scales: Sequence[str],
    methods: Mapping[str, Enlarge],
    generated: Mapping[str, Path],
    embed: Embedder,
    features: Features | None = None,
    lpips: Lpips | None = None,
) -> Report:
    """Shrink every truth to the coarsest of `scales`, enlarge it by every method, and score it.

    The shrunk images are written beside the table, for the methods whose images are given in the folders `generated`,
    under the names of the truths. `embed` gives the embeddings of the truth's tiles; `features` and `lpips` are those
    of `scores`. UserError for an image that a folder lacks, or of another size.
    """
    tile_px, factor = setup.model.tile_px, magnification(setup.model, scales)
    sizes = {path.stem: read(path, factor).shape[:2] for path in truths} if generated else {}
    given = {name: enlarged_of(folder, sizes) for name, folder in generated.items()}
    if setup.processes.first:
        for path in truths:
            save_png(setup.out / "superres" / "inputs" / f"{path.stem}.png", shrunk(read(path, factor), factor))
    columns = [[read(path, factor) for path in truths[:SHOWN]]]
    records = []
    for name in [*methods, *given]:
        seconds = np.nan
        if name in given:
            images = given[name]
        else:
            made = generate(setup, name, methods[name], truths, scales, embed)
            images, seconds = made.loaders(len(truths)), made.seconds
        for path, image in zip(truths, images, strict=True):
            truth = read(path, factor)
            found = scores(image(), truth, shrunk(truth, factor), setup.spaces, tile_px, features, lpips)
            records.append({"method": name, "image": path.name, **found, "CPU s": seconds})
        columns.append([load() for load in images[:SHOWN]])
    before = [shrunk(truth, factor) for truth in columns[0]]
    rows = [list(row) for row in zip(before, *columns[1:], columns[0], strict=True)]
    sheet = Sheet(rows, [""] * len(rows), ["input", *methods, *given, "truth"])
    lacking = "" if lpips else f"\n\nNo LPIPS: {alexnet_file()} is missing; {LPIPS_REMEDY}\n"
    return Report(records, f"{len(truths)} images, mean ± standard deviation.\n\n{table(records)}{lacking}", sheet)


def cache_of(
    setup: EvalContext, name: str, method: Enlarge, truths: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> SampleCache:
    """The cache of a method's images."""
    identity = setup.identity_of(method, truths, scales, embed if method.embeds else None)
    return SampleCache(setup.samples, f"superres {name}", identity)


def generate(
    setup: EvalContext, name: str, method: Enlarge, truths: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> SampleCache:
    """The images of a method; missing ones are made."""
    kept = cache_of(setup, name, method, truths, scales, embed)
    factor = magnification(setup.model, scales)

    def make(numbers: range) -> Iterator[Pixels]:
        for i in numbers:
            truth = read(truths[i], factor)
            tokens = partial(image_tokens, truth, embed, setup.model.tile_px)
            yield method(setup.model, LowRes(setup.seed + i, shrunk(truth, factor), tokens, scales, setup.batch))

    kept.fill(len(truths), make, processes=setup.processes)
    return kept


def read(path: Path, factor: int) -> Pixels:
    """Read a truth (H, W, 3), cropped to a multiple of the factor."""
    image = read_picture(path).pixels
    height, width = (length - length % factor for length in image.shape[:2])
    return image[:height, :width]


def shrunk(truth: Pixels, factor: int) -> Pixels:
    """y, the f x f means of a truth."""
    return to_uint8(Shrink(factor)(from_uint8(truth[None])))[0]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Table of mean and standard deviation over images, with a row per method and a column per measure."""
    columns = [key for key in records[0] if key not in ("method", "image")]
    rows = []
    for method in dict.fromkeys(record["method"] for record in records):
        of_method = [record for record in records if record["method"] == method]
        values = {key: [record[key] for record in of_method] for key in columns}
        rows.append([method, *(spread(values[key], DIGITS.get(key, 3)) for key in columns)])
    return markdown(["", *columns], rows)
