"""How near samplers come, in few steps, to where many steps of the same path end.

    python -m benchmarks.solver_steps

Patches of every scale of a bundled model are sampled from the same noise and conditions by every sampler and number of
steps, and compared with 100 steps of DPM-Solver++(2M). A table goes to --out.
"""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from benchmarks.hardware import device_name
from ldm.data.h5 import SlideFile
from ldm.errors import cli
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, positive_int
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import atomic_write
from ldm.support.precision import add_precision, announce

REFERENCE = 100
STEPS = {"dpmpp": (4, 5, 6, 8, 10, 12, 20), "ddim": (6, 12, 20, 50, 100)}


def conditions(model: ZoomLDM, slide: SlideFile, count: int) -> torch.Tensor:
    """Contexts (scales * count, 65, w) of regions spread over the slide, scale by scale."""
    found = []
    for scale in model.ladder.names:
        rows = torch.linspace(0, slide.count(scale) - 1, count).int().tolist()
        found.append(model.context([slide.embedding(scale, row) for row in rows], scale))
    return torch.cat(found)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Compare samplers in few steps with many steps; writes a table.")
    add = parser.add_argument
    add("--model", choices=list(BUNDLED), default="demo", help="a bundled one (%(default)s)")
    add("--count", type=positive_int, default=6, help="patches a scale (%(default)s)")
    add_precision(add)
    add("--out", type=output_file, default="samples/solver_steps.md", help="(%(default)s)")
    args = parser.parse_args(argv)
    model = ZoomLDM.load(args.model, precision=args.precision)
    announce(model.precision, model.device)
    context = conditions(model, SlideFile(BUNDLED[args.model].slide), args.count)
    exact = model.sample_latents(context, sampler="dpmpp", steps=REFERENCE, progress=True)
    image = model.decode_sampled(exact).clamp(-1, 1)
    lines = [
        "|".join(["", "sampler", "steps", *model.ladder.names, "all", "pixels", "standard deviation", ""]),
        "|---" * (len(model.ladder) + 5) + "|",
    ]
    rows = [(sampler, steps) for sampler, numbers in STEPS.items() for steps in numbers]
    for sampler, steps in tqdm(rows, unit="row"):
        z = model.sample_latents(context, sampler=sampler, steps=steps)
        off = (z - exact).square().mean(dim=(1, 2, 3))  # (scales * count,)
        pixels = (model.decode_sampled(z).clamp(-1, 1) - image).square().mean().sqrt()
        errors = [*off.reshape(len(model.ladder), -1).mean(1).sqrt(), off.mean().sqrt(), pixels, z.std() / exact.std()]
        lines.append("|".join(["", sampler, str(steps), *(f"{float(error):.3f}" for error in errors), ""]))
    title = (
        f"{args.model}, {args.count} patches a scale; {device_name()}, {model.precision}. Root mean square of the "
        f"difference from {REFERENCE} steps of dpmpp, in latents (of standard deviation {float(exact.std()):.2f}) "
        "and in pixels of [-1, 1]; standard deviation of the latents over that of the reference's."
    )
    with atomic_write(args.out) as partial:
        partial.write_text(f"{title}\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines), args.out, sep="\n")


if __name__ == "__main__":
    cli(main)
