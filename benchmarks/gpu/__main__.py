"""GPU benchmark: training, patches, joint sampling and super-resolution at full size, in one table.

    python -m benchmarks.gpu                                    writes benchmarks/gpu.md
    python -m benchmarks.gpu --size tiny --device cpu           the same in a minute, without a card: prints only

First the bundled model samples on the CPU and on the device, in fp32: pictures may differ only by rounding. Then the
published networks (U-Net of 400 M parameters, VQ-f4) are run with random weights in the device's default precision. The
operations of U-Net and autoencoder are counted, those of the Summarizer are not; the peak is that of a large matrix
product in the same precision on the same device.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.against_cpu import against_cpu
from benchmarks.gpu.gpu_tasks import TASKS, peak, sampled, training
from benchmarks.gpu.networks_of_size import SIZES, Size, random_model
from benchmarks.hardware import device_name
from ldm.errors import UserError, cli
from ldm.evaluation.experiments.operations import costs
from ldm.evaluation.tables import markdown
from ldm.support.arguments import Parser, output_file, positive_int
from ldm.support.files import write_text
from ldm.support.precision import add_precision, choose


def report(device: torch.device, size: Size, precision: str) -> str:
    """The whole report, as Markdown."""
    checked = against_cpu(device, size)
    model = random_model(size, device, precision)
    each = costs(model.unet, model.autoencoder, size.tile_px, size.context_dim)
    most = peak(device, precision, size.product)
    rows = [sampled(name, model, size, each) for name in TASKS]
    rows.append(training(model, size))
    parameters = sum(weight.numel() for weight in model.unet.parameters())
    head = ["", "images/s", "seconds", "memory, GiB", "PFLOP", "of the peak"]
    return "\n".join(
        [
            f"{device_name(device)}, PyTorch {torch.__version__}, {precision}. U-Net of {parameters / 1e6:.0f} M "
            f"parameters, random weights; the peak, of a product of {size.product} x {size.product} matrices, is "
            f"{1000 * most:.3g} TFLOP/s.\n",
            markdown(head, [row.cells(most) for row in rows]),
            "\nThe bundled model in fp32 against the CPU, in levels of 255:\n",
            markdown(["", "mean difference", "most", "pixels off by more than 1"], checked),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description="Measure a GPU: training, patches, joint sampling, super-resolution at full size.")
    add = parser.add_argument
    add("--device", default="cuda", help="(%(default)s)")
    add("--size", choices=SIZES, default="full", help="of the networks; tiny: to try the command (%(default)s)")
    add_precision(add)
    add("--batch-size", type=positive_int, help="images of a training step (32)")
    add("--out", type=output_file, help="default: benchmarks/gpu.md for full size on a card, else none")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device: no CUDA device is there; run this on a machine with one, or try --device cpu --size tiny"
        )
    size = SIZES[args.size]
    if args.batch_size:
        size = replace(size, train_batch=args.batch_size)
    try:
        text = report(device, size, choose(args.precision, device))
    except torch.OutOfMemoryError as error:
        raise UserError(f"--batch: memory is short at {size.train_batch}; choose fewer") from error
    print(text)
    measured = device.type == "cuda" and args.size == "full"
    out = args.out or (Path(__file__).parents[1] / "gpu.md" if measured else None)
    if out is not None:
        write_text(out, f"# On a GPU\n\n    python -m benchmarks.gpu\n\n{text}\n")
        print(out)


if __name__ == "__main__":
    cli(main)
