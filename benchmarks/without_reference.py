"""A large image without a reference: three ways to get conditions for the tiles under a context of the CDM.

    python benchmarks/without_reference.py --out benchmarks/without_reference.md

(a) the CDM samples a context for every tile; (b) embeddings are inferred from the sampled coarse image, by the
denoising loss; (c) embeddings are inferred from the CDM's context, through the Summarizer. The coarse canvas is the
same for all; a table goes to --out, a picture beside it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm.errors import cli
from ldm.evaluation.metrics.seams import gradient_energy, seam_strength
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.tensors import to_uint8
from ldm.multiscale.canvas import State
from ldm.multiscale.conditions import Conditions, TokenMap, drawn_tokens
from ldm.multiscale.inversion import Inversion
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, seed_int
from ldm.support.files import write_text
from ldm.support.precision import add_precision, announce

FINE, COARSE = "20x", "5x"
HEADER = "| conditions of the tiles | error, first step | last constraint | seam strength | gradient energy | CPU s |"


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


def conditions(model: ZoomLDM, from_context: Tensor, patch: Tensor, seed: int) -> dict[str, Conditions]:
    """Conditions of the three ways; `patch` (1, 3, h, w) is the coarse image."""
    tiles = model.ladder[COARSE].downsample
    drawn = model.sample_context(FINE, tiles**2, seed=seed)
    from_image = Inversion(model, COARSE, seed).from_latents(patch)[0]
    return {
        "(a) CDM, by tile": PerTile(drawn, tiles, patch.shape[-1]),
        "(b) from image": TokenMap(model, from_image),
        "(c) from context": TokenMap(model, from_context),
    }


def sampled(model: ZoomLDM, way: Conditions, coarse: State, size: int, seed: int) -> tuple[list[str], Pixels]:
    """The image under one way's conditions, and its cells of the table."""
    settings = replace(PRESETS["default"], seam="none" if isinstance(way, PerTile) else "jitter")
    joint = Joint(
        model=model,
        scales=[FINE, COARSE],
        height=size,
        width=size,
        conditions=way,
        settings=settings,
        seed=seed,
        states={COARSE: coarse},
    )
    started = time.process_time()
    errors = [state.error for _, state in joint.run() if state.error is not None]
    image = torch.cat(list(joint.bands()), dim=1)
    seconds = time.process_time() - started
    pixels = to_uint8(image[None])[0]
    cells = [f"{errors[0]:.3f}", f"{errors[-1]:.3f}", f"{seam_strength(pixels, model.tile_px):.3f}"]
    return [*cells, f"{1e3 * gradient_energy(pixels):.2f}e-3", f"{seconds:.0f}"], pixels


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Conditions for tiles under a context of the CDM.")
    parser.add_argument("--seed", type=seed_int, default=3, help="(%(default)s)")
    add_precision(parser.add_argument)
    parser.add_argument("--out", type=output_file, default="benchmarks/without_reference.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load("demo", precision=args.precision)
    announce(model.precision, model.device)
    tiles = model.ladder[COARSE].downsample
    size, side = tiles * model.tile_px, model.tile_px // model.autoencoder.downsample
    from_context = drawn_tokens(model, COARSE, tiles, tiles, seed=args.seed)
    coarse = coarse_canvas(model, from_context, size, args.seed)
    patch = coarse.z_t[None, :, :side, :side]
    lines, pictures = [HEADER, "|" + "---|" * 6], {f"the CDM's {COARSE}": to_uint8(model.decode(patch))[0]}
    for name, way in conditions(model, from_context, patch, args.seed).items():
        cells, pictures[name] = sampled(model, way, coarse, size, args.seed)
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    contact_sheet([list(pictures.values())], [""], list(pictures), args.out.with_suffix(".png"))
    write_text(args.out, "\n".join(lines) + "\n")
    print(args.out)


if __name__ == "__main__":
    cli(main)
