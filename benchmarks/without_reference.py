"""A large image that no reference describes: three ways to get conditions for the tiles under a context of the CDM.

    python benchmarks/without_reference.py --out benchmarks/without_reference.md

(a) the CDM draws a context for every tile on its own; (b) the embeddings that the sampled coarse image is denoised best
under are inferred from it; (c) the embeddings that the Summarizer turns into the CDM's context are inferred from that
context. The coarse canvas is the same for all; a table goes to --out, a picture beside it.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ldm.conditions import Conditions, TokenMap, drawn_tokens
from ldm.errors import cli
from ldm.evaluation.large_image import gradient_energy, seam_strength
from ldm.files import whole
from ldm.inferred import Inference
from ldm.io import contact_sheet
from ldm.joint import Joint
from ldm.pipeline import PRECISIONS, ZoomLDM, to_uint8
from ldm.sampling.multiscale import State
from ldm.sampling.presets import PRESETS

FINE, COARSE = "20x", "5x"
HEADER = (
    "| conditions of the tiles | error before the constraint | error after | seam strength | gradient energy | CPU s |"
)


@dataclass(frozen=True)
class PerTile:
    """Contexts (n, 65, w) drawn for the tiles of a canvas `across` tiles wide; windows must stand on the tiles."""

    contexts: Tensor
    across: int
    side: int

    def context(self, scale: str, places: Tensor) -> Tensor:
        row, col = (places // self.side).T
        return self.contexts[row * self.across + col]

    def guidance(self, asked: float) -> float:
        return asked


def coarse_canvas(model: ZoomLDM, tokens: Tensor, size: int, seed: int) -> State:
    """The canvas of COARSE that all ways share."""
    joint = Joint(model=model, scales=[COARSE], height=size // 4, width=size // 4, conditions=TokenMap(model, tokens))
    joint.seed = seed
    *_, (_, state) = joint.run()
    return state


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Conditions for tiles under a context of the CDM.")
    parser.add_argument("--seed", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/without_reference.md"), help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load("demo", precision=args.precision)
    tiles = model.ladder[COARSE].downsample
    size = tiles * model.tile_px
    side = model.tile_px // model.autoencoder.downsample
    from_context = drawn_tokens(model, COARSE, tiles, tiles, seed=args.seed)
    coarse = coarse_canvas(model, from_context, size, args.seed)
    patch = coarse.z_t[None, :, :side, :side]
    from_image = Inference(model, COARSE, args.seed).from_latents(patch)[0]
    drawn = model.sample_context(FINE, tiles**2, seed=args.seed)
    ways: dict[str, Conditions] = {
        "(a) the CDM, tile by tile": PerTile(drawn, tiles, side),
        "(b) inferred from the coarse image": TokenMap(model, from_image),
        "(c) inferred from the CDM's context": TokenMap(model, from_context),
    }
    lines, pictures = [HEADER, "|" + "---|" * 6], [to_uint8(model.decode(patch))[0]]
    for name, conditions in ways.items():
        seam = "none" if isinstance(conditions, PerTile) else "jitter"
        joint = Joint(
            model=model,
            scales=[FINE, COARSE],
            height=size,
            width=size,
            conditions=conditions,
            settings=replace(PRESETS["default"], seam=seam),
            seed=args.seed,
            states={COARSE: coarse},
        )
        started = time.process_time()
        errors = [state.error for canvas, state in joint.run() if state.error is not None]
        image = torch.cat(list(joint.bands()), dim=1)
        seconds = time.process_time() - started
        y = joint.image(COARSE)[:, : size // 4, : size // 4]
        shrunk = rearrange(image, "c (h a) (w b) -> c h a w b", a=4, b=4).mean((2, 4))
        pixels = to_uint8(image[None])[0]
        cells = [f"{errors[0]:.3f}", f"{(shrunk - y).square().mean().sqrt():.3f}"]
        cells += [
            f"{seam_strength(pixels, model.tile_px):.3f}",
            f"{1e3 * gradient_energy(pixels):.2f}e-3",
            f"{seconds:.0f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        pictures.append(pixels)
        print(lines[-1], flush=True)
    labels = [f"the CDM's {COARSE}", *ways]
    contact_sheet([[np.asarray(p) for p in pictures]], [""], labels, args.out.with_suffix(".png"))
    with whole(args.out) as partial:
        partial.write_text("\n".join(lines) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
