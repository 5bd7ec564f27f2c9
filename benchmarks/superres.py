"""Super-resolution of held-out patches, four times: bicubic, and the model under no, inferred and given embeddings.

    python benchmarks/superres.py --out benchmarks/superres.md

(paper, Table 3.) Patches of 128 px at 20x, from the tissue of the six demo slides that no network saw (seeds 300 to
305), are shrunk to 32 px at 5x and enlarged again. Each is sampled on its own: they are the windows of one canvas. A
table goes to --out, a picture beside it.

Letters: n patches, w of them in a row of the canvas, d channels of an embedding.
"""

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from tqdm import tqdm

from data_prep.demo_world import generate
from data_prep.encoders import DEMO_WEIGHTS, DemoEncoder
from data_prep.slide import Plane, open_slide
from data_prep.tissue import PER_TILE, read_foreground, tile_shares
from ldm.conditions import Conditions, TokenMap, Unconditional, laid_out
from ldm.errors import cli
from ldm.evaluation.large_image import gradient_energy
from ldm.evaluation.superres import Values, encoder_distance, encoder_similarity, psnr, ssim
from ldm.files import whole
from ldm.io import Pixels, contact_sheet
from ldm.joint import Joint
from ldm.pipeline import PRECISIONS, ZoomLDM, from_uint8, to_uint8
from ldm.sampling.constraints import Shrink, back_project
from ldm.superres import CONSISTENT, bicubic, inferred, magnification

SCALES = ("20x", "5x")
SEEDS, SLIDE_PX, TILE_PX = range(300, 306), 4096, 128
TISSUE = 0.9
"""least share of a patch"""
ACROSS, SHOWN = 8, 8
HEADER = (
    "| | PSNR, dB | SSIM | encoder distance | encoder cosine | gradient energy, of real | residual before "
    "| residual | CPU s |\n|" + "---|" * 9
)


def held_out(count: int, folder: Path) -> Pixels:
    """`count` patches (n, 128, 128, 3), as many of each slide, anywhere in its tissue."""
    patches = []
    paths = generate(folder, len(SEEDS), SEEDS[0], "histology", SLIDE_PX)
    for seed, path, share in zip(SEEDS, paths, np.array_split(np.arange(count), len(paths)), strict=True):
        slide = open_slide(path, "histology")
        side = SLIDE_PX // TILE_PX
        mask = read_foreground(Plane(slide, slide.mpp * TILE_PX / PER_TILE), side, side).mask
        tissue = np.argwhere(tile_shares(mask) >= TISSUE)
        chosen = np.random.default_rng(seed).choice(tissue, len(share), replace=False)
        plane = Plane(slide, slide.mpp)
        patches += [plane.read(col * TILE_PX, row * TILE_PX, TILE_PX, TILE_PX) for row, col in chosen.tolist()]
    return np.stack(patches)


def enlarged(model: ZoomLDM, y: Pixels, conditions: Conditions) -> tuple[Pixels, Pixels]:
    """Patches y (n, h, h, 3) enlarged, without and with the consistency step."""
    factor = magnification(model, SCALES)
    canvas = rearrange(from_uint8(y), "(i j) c h w -> c (i h) (j w)", j=ACROSS)
    joint = Joint(
        model=model,
        scales=SCALES,
        height=factor * canvas.shape[1],
        width=factor * canvas.shape[2],
        conditions=conditions,
        settings=replace(CONSISTENT, seam="none"),
        fixed=canvas,
    )
    for _ in tqdm(joint.run(), total=joint.steps, unit="step", leave=False):
        pass
    side = model.tile_px // model.autoencoder.downsample
    z = rearrange(joint.states[SCALES[0]].z_t, "c (i h) (j w) -> (i j) c h w", h=side, w=side)
    with torch.no_grad():
        x = model.decode(z).clamp(-1, 1)
    return to_uint8(x), to_uint8(back_project(x, from_uint8(y), Shrink(factor), CONSISTENT.rounds))


def conditions_of(name: str, model: ZoomLDM, y: Pixels, truth: Pixels, encoder: DemoEncoder) -> Conditions:
    """ "none", "inferred" from each patch of y alone, or "given": the embeddings of the truth."""
    if name == "none":
        return Unconditional(model)
    if name == "given":
        tokens = encoder(torch.from_numpy(truth))[:, :, None, None]  # (n, d, 1, 1)
    else:
        patches = tqdm(y, desc="inversion", unit="patch", leave=False)
        tokens = torch.stack([inferred(model, patch, SCALES, seed=i).tokens for i, patch in enumerate(patches)])
    return TokenMap(model, laid_out(tokens, len(y) // ACROSS, 0))


def residuals(images: Pixels, y: Pixels) -> Values:
    """Root mean square of A x - y (n,), both in [-1, 1]."""
    shrink = Shrink(images.shape[1] // y.shape[1])
    return (shrink(from_uint8(images)) - from_uint8(y)).square().mean((1, 2, 3)).sqrt().numpy()


def measured(images: Pixels, truth: Pixels, encoder: DemoEncoder) -> list[Values]:
    """The columns of the table that compare with the truth, a value a patch."""
    energy, real = (np.array([gradient_energy(image) for image in side]) for side in (images, truth))
    return [
        psnr(images, truth),
        ssim(images, truth),
        encoder_distance(lambda pixels: encoder.backbone(from_uint8(pixels.numpy())), images, truth),
        encoder_similarity(encoder, images, truth),
        energy / real,
    ]


def cell(values: Values, digits: int) -> str:
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare ways of super-resolution; writes a table and a picture.")
    parser.add_argument("--count", type=int, default=32, help=f"patches, a multiple of {ACROSS} (%(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="(%(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("data/demo/held_out"), help="where the slides go (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/superres.md"), help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load("demo", precision=args.precision)
    encoder = DemoEncoder.load(DEMO_WEIGHTS, "cpu")
    truth = held_out(args.count, args.data)
    factor = magnification(model, SCALES)
    y = to_uint8(Shrink(factor)(from_uint8(truth)))
    text = [
        f"`python benchmarks/superres.py --count {args.count}`: 5x to 20x, mean ± standard deviation over the patches; "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {args.precision}\n",
        HEADER,
    ]
    shown = {"5x": y, "bicubic": np.stack([bicubic(patch, factor) for patch in y])}
    for name in ("bicubic", "none", "inferred", "given"):
        started = time.process_time()
        before = after = shown.get(name, y)
        if name != "bicubic":
            before, after = enlarged(model, y, conditions_of(name, model, y, truth, encoder))
            shown[name] = after
        seconds = time.process_time() - started
        columns = zip(measured(after, truth, encoder), (2, 3, 4, 3, 2), strict=True)
        cells = [name, *(cell(values, digits) for values, digits in columns)]
        cells += [cell(residuals(images, y), 4) for images in (before, after)]
        text.append(f"| {' | '.join(cells)} | {seconds:.0f} |")
        print(text[-1], flush=True)
    with whole(args.out) as partial:
        partial.write_text("\n".join(text) + "\n")
    rows = [list(images[:: len(y) // SHOWN]) for images in (*shown.values(), truth)]
    contact_sheet(rows, [*shown, "truth"], [""] * SHOWN, args.out.with_suffix(".png"))
    print(args.out)


if __name__ == "__main__":
    cli(main)
