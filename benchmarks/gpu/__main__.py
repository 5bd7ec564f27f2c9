"""GPU benchmark: sampling and training at full size, in one table.

    python -m benchmarks.gpu                                    writes benchmarks/gpu.md
    python -m benchmarks.gpu --rows unet patches                some rows, printed only
    python -m benchmarks.gpu --size tiny --device cpu           the same in a minute, without a card: prints only

The published networks (U-Net of 400 M parameters, VQ-f4) are run with random weights in the device's default precision.
Each row is printed as soon as it is measured, after a run that is not. A row that fails says so, the others are
measured all the same, and the exit status is 2. Rows of compiled networks come last; their first run is mostly
compilation.

The operations of U-Net and autoencoder are counted, those of the Summarizer are not. The floor is the time that they
take at the rate of the card's data sheet for dense bf16 (where that is unknown, at the measured peak); the measured
peak is that of a large matrix product in the same precision on the same device. The row `check` compares pictures of
the bundled model with the CPU's, in fp32: they may differ only by rounding.
"""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.against_cpu import against_cpu
from benchmarks.gpu.meter import HEAD, GpuRow, Peaks, missing, peak, stated_peak
from benchmarks.gpu.networks_of_size import SIZES, Size, random_model
from benchmarks.gpu.preparation_rows import embedding
from benchmarks.gpu.profile import failure, write_profile
from benchmarks.gpu.sampling_rows import Bench, decoding, encoding, joint, patches, sampled, superres, unet
from benchmarks.gpu.training_rows import toy_training, training
from benchmarks.hardware import device_name
from ldm.errors import UserError, cli
from ldm.evaluation.experiments.operations import costs
from ldm.evaluation.tables import markdown
from ldm.pipeline import ZoomLDM
from ldm.support.arguments import Parser, output_file, output_folder, positive_int
from ldm.support.files import write_text
from ldm.support.precision import DTYPES, add_precision, choose

Row = Callable[[Bench], GpuRow]
CHECK = "check"
EXTRA = ("joint-4096-exact",)
"""rows that take a minute, measured where --rows names them"""


def _large(size: Size) -> Size:
    return replace(size, large_px=4 * size.large_px)


def _steps(bench: Bench) -> str:
    sampler, steps = bench.model.usual_sampling(steps=bench.size.steps)
    return f"{steps} steps of {sampler}"


def _sampling(compiled: bool) -> dict[str, Row]:
    """Rows of sampling by name, of the networks as they are or compiled."""
    end, said = ("-compiled", ", compiled") if compiled else ("", "")

    def model(bench: Bench) -> ZoomLDM:
        return bench.compiled if compiled else bench.model

    return {
        f"patches{end}": lambda b: sampled(f"patches, {_steps(b)}{said}", patches, model(b), b.size, b.costs),
        f"unet{end}": lambda b: unet(f"U-Net{said}", model(b), b.size, b.costs),
        f"decode{end}": lambda b: decoding(f"VQ-f4, decoding{said}", model(b), b.size, b.costs),
        f"encode{end}": lambda b: encoding(f"VQ-f4, encoding{said}", model(b), b.size, b.costs),
        f"joint-1024{end}": lambda b: sampled(f"joint sampling{said}", joint, model(b), b.size, b.costs),
        f"joint-1024-exact{end}": lambda b: sampled(
            f"joint sampling, preset exact{said}", partial(joint, preset="exact"), model(b), b.size, b.costs
        ),
        f"superres{end}": lambda b: sampled(f"super-resolution{said}", superres, model(b), b.size, b.costs),
        f"joint-4096{end}": lambda b: sampled(f"joint sampling{said}", joint, model(b), _large(b.size), b.costs),
    }


def _rows() -> dict[str, Row]:
    """All rows that a card is timed by, in their order."""
    compiled = _sampling(compiled=True)
    first = ("patches-compiled", "joint-4096-compiled")
    return {
        **_sampling(compiled=False),
        "training-32": lambda b: training(b, b.size.train_batch),
        "training-64": lambda b: training(b, 2 * b.size.train_batch),
        "toy-training": toy_training,
        "embedding-fp32": lambda b: embedding(b, "fp32"),
        "embedding": lambda b: embedding(b, b.model.precision),
        "joint-4096-exact": lambda b: sampled(
            "joint sampling, preset exact", partial(joint, preset="exact"), b.model, _large(b.size), b.costs
        ),
        "training-64-compiled": lambda b: training(b, 2 * b.size.train_batch, compiled=True),
        **{name: compiled[name] for name in first},
        **{name: row for name, row in compiled.items() if name not in first and "exact" not in name},
    }


ROWS = _rows()


class GpuTable:
    """The table, printed line by line and written to `out` after every row."""

    def __init__(self, command: str, head: str, peaks: Peaks, out: Path | None) -> None:
        self.command, self.head, self.peaks, self.out = command, head, peaks, out
        self.rows: list[list[str]] = []
        self.notes: list[str] = []
        self.checked: list[list[str]] = []
        print(f"{head}\n\n{markdown(HEAD, [])}", flush=True)

    def add(self, row: GpuRow) -> None:
        self.notes += row.notes
        self._add(row.cells(self.peaks))

    def add_missing(self, name: str, why: str) -> None:
        self._add(missing(name, why))

    def add_check(self, rows: list[list[str]]) -> None:
        self.checked = rows
        self._write()

    def _add(self, cells: list[str]) -> None:
        self.rows.append(cells)
        print(f"| {' | '.join(cells)} |", flush=True)
        self._write()

    @property
    def tail(self) -> str:
        """What stands below the table."""
        parts = ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        if self.checked:
            table = markdown(["", "mean difference", "most", "pixels off by more than 1"], self.checked)
            parts.append(f"The bundled model in fp32 against the CPU, in levels of 255:\n\n{table}")
        return "\n\n".join(parts)

    def _write(self) -> None:
        if self.out is not None:
            table = markdown(HEAD, self.rows)
            write_text(self.out, f"# On a GPU\n\n    {self.command}\n\n{self.head}\n\n{table}\n\n{self.tail}\n")


def measure(bench: Bench, report: GpuTable, names: Sequence[str], until: float) -> list[str]:
    """Measure rows into the report, none that would begin after `until` by time.monotonic(); those that failed."""
    failed = []
    for name in names:
        if time.monotonic() > until:
            report.add_missing(name, "not run, the time of --limit was over")
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            if name == CHECK:
                report.add_check(against_cpu(bench.model.device, bench.size))
            else:
                report.add(ROWS[name](bench))
            why = None
        except Exception as error:  # whatever a device, its driver or a compiler throws: the other rows are measured
            why = failure(error)
        if why is not None:
            report.add_missing(name, why)
            failed.append(name)
        gc.collect()
        if bench.model.device.type == "cuda":
            torch.cuda.empty_cache()
    return failed


def opened(device: torch.device, size: Size, precision: str) -> tuple[Bench, Peaks, str]:
    """The networks with their costs, the device's peaks, and the report's first lines."""
    model = random_model(size, device, precision)
    bench = Bench(model, size, costs(model.unet, model.autoencoder, size.tile_px, size.context_dim))
    dtype = getattr(torch, DTYPES[precision])
    peaks = Peaks(peak(device, dtype, size.product), stated_peak(device, precision))
    parameters = sum(weight.numel() for weight in model.unet.parameters())
    stated = f"{1000 * peaks.stated:.0f} TFLOP/s by its data sheet, " if peaks.stated else ""
    head = (
        f"{device_name(device)}, PyTorch {torch.__version__}, {precision}. U-Net of {parameters / 1e6:.0f} M "
        f"parameters, random weights. Peak: {stated}{1000 * peaks.measured:.3g} TFLOP/s measured, of a product of "
        f"{size.product} x {size.product} matrices."
    )
    return bench, peaks, head


def main(argv: Sequence[str] | None = None) -> None:
    started = time.monotonic()
    parser = Parser(description="Measure a GPU: sampling and training at full size.")
    add = parser.add_argument
    add("--device", default="cuda", help="(%(default)s)")
    add("--size", choices=SIZES, default="full", help="of the networks; tiny: to try the command (%(default)s)")
    add_precision(add)
    names = (*ROWS, CHECK)
    usual = f"all but {', '.join(EXTRA)}"
    add("--rows", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)} (default: {usual})")
    add("--limit", type=positive_int, default=180, help="seconds after which no further row begins (%(default)s)")
    add("--profile", type=output_folder, metavar="FOLDER", help="write the heaviest kernels, and attention by backend")
    add("--batch-size", type=positive_int, help="images of a training step; the larger one has twice as many (32)")
    add("--out", type=output_file, help="default: benchmarks/gpu.md for all rows at full size on a card, else none")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device: no CUDA device is there; run this on a machine with one, or try --device cpu --size tiny"
        )
    size = SIZES[args.size]
    if args.batch_size:
        size = replace(size, train_batch=args.batch_size)
    whole = args.rows is None and device.type == "cuda" and args.size == "full"
    out = args.out or (Path(__file__).parents[1] / "gpu.md" if whole else None)
    eager = [name for name in ROWS if not name.endswith("compiled") and name not in EXTRA]
    rows = args.rows or [*eager, CHECK, *(name for name in ROWS if name.endswith("compiled"))]

    bench, peaks, head = opened(device, size, choose(args.precision, device))
    command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)])
    report = GpuTable(command, head, peaks, out)
    before = [name for name in rows if not name.endswith("compiled")]
    failed = measure(bench, report, before, started + args.limit)
    if args.profile:
        for path in write_profile(args.profile, bench):
            print(path, file=sys.stderr, flush=True)
    failed += measure(bench, report, [name for name in rows if name not in before], started + args.limit)
    print(f"\n{report.tail}", flush=True)
    if out is not None:
        print(out)
    if failed:
        raise UserError(f"{', '.join(failed)}: not measured; the table says why")


if __name__ == "__main__":
    cli(main)
