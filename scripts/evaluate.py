"""Measure a model: patches of every scale, large images, super-resolution, memorisation.

Without arguments each command measures the bundled demo model, on slides of the demo world that it never saw, in the
space of the demo encoder: minutes on a laptop. An interrupted command, typed again, goes on.
"""

import argparse
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from data_prep.demo_encoder import DemoEncoder
from data_prep.held_out import held_out_cohort, held_out_pictures, training_cohort
from data_prep.spaces import space
from ldm.arguments import ACCELERATORS, Parser, non_negative, output_folder, positive_int, seed_int
from ldm.data.h5 import SlideFile
from ldm.data.splits import patient_of
from ldm.errors import UserError, cli
from ldm.evaluation.extractors import Extractor
from ldm.evaluation.memorization import check_apart
from ldm.evaluation.superres import Lpips
from ldm.evaluation.tables import write_results
from ldm.io import contact_sheet
from ldm.pictures import listed
from ldm.pipeline import ZoomLDM
from ldm.precision import add_precision, announce, choose
from ldm.processes import Processes, launch
from ldm.protocols import large, memorization, patches, superres
from ldm.protocols.bench import Bench, Report
from ldm.protocols.sources import (
    Source,
    cohort,
    halves,
    slide_id,
    slide_of,
    slides_of_run,
    spread_over,
    statistics_name,
)
from ldm.sampling.samplers import DEFAULT_SAMPLER, SAMPLERS
from ldm.slides import matching_slide

COUNTS = {"patches": 128, "large": 4, "superres": 8, "memorization": 64}
"""images of each method"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Measure a model.", epilog="example: python scripts/evaluate.py patches --scale 5x --count 512"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about, options in (
        ("patches", "Frechet distance and KID of patches at every scale", (_slides, _sampling, _patches)),
        ("large", "large images: whole, in crops, constraint, seams, texture", (_pictures, _large)),
        ("superres", "super-resolution against the truth", (_pictures, _superres)),
        ("memorization", "whether samples are copies of training images", (_slides, _sampling, _memorization)),
    ):
        command = commands.add_parser(name, help=about, description=f"Measure {about}.")
        for add in (_common, *options):
            add(command.add_argument)
        command.set_defaults(count=COUNTS[name])
    return parser.parse_args(argv)


Add = Callable[..., Any]


def _common(add: Add) -> None:
    add("--model", default="demo", help="demo (the default), a run folder or a published weights file")
    add("--space", nargs="+", metavar="NAME", help="where to compare: demo, inception, clip, uni, any timm model ...")
    add("--weights", nargs="+", default=[], metavar="NAME=PATH", help="local files of those (superres: and of lpips)")
    add("--count", type=positive_int, help="images of each method (%(default)s)")
    add("--seed", type=seed_int, default=0, help="image i depends on seed + i (%(default)s)")
    add("--batch", type=positive_int, default=16, help="images at a time (%(default)s)")
    add_precision(add)
    add("--devices", type=positive_int, default=1, help="GPUs or processes that share the images (%(default)s)")
    add("--nodes", type=positive_int, default=1, help="(%(default)s)")
    add("--accelerator", choices=ACCELERATORS, default="auto", help="cpu, cuda ... (%(default)s)")
    add("--out", type=output_folder, default="results", help="folder of tables, pictures and images (%(default)s)")


def _slides(add: Add) -> None:
    add("--cdm", help="the model's CDM, named likewise; the demo model brings its own")
    add("--real", type=Path, metavar="COHORT|FOLDER", help="prepared slides, held out (patches: or images, statistics)")
    add("--scale", nargs="+", metavar="NAME", help="scales to measure; default: all")


def _sampling(add: Add) -> None:
    add("--guidance", type=non_negative, default=2.0, help="1 is none (%(default)s)")
    add("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER, help="(%(default)s)")
    add("--steps", type=positive_int, help="default: 20 of dpmpp, 100 of ddim")


def _patches(add: Add) -> None:
    add("--generated", nargs="+", metavar="NAME=FOLDER", help="measure these images instead of sampling")
    add(
        "--statistics",
        type=output_folder,
        metavar="FOLDER",
        help="write those of the real images: to share, to use as --real",
    )


def _memorization(add: Add) -> None:
    add("--train", type=Path, metavar="COHORT", help="prepared slides that the model was trained on")


def _pictures(add: Add) -> None:
    add("--scales", default="20x,5x", help="finest and coarser ones (%(default)s; satellite: 1x,3x)")
    add("--real", type=Path, metavar="FOLDER", help="real images at the finest scale (data_prep/crops.py makes them)")


def _large(add: Add) -> None:
    add("--size", type=positive_int, default=512, help="of the demo's real images, in pixels (%(default)s)")
    usual = ["independent", "interpolated", "ours"]
    add("--methods", nargs="*", default=usual, choices=large.METHODS, help="(%(default)s)")
    add("--generated", nargs="+", metavar="NAME=FOLDER", help="images made elsewhere: a row each")
    add("--crop-space", nargs="+", metavar="NAME", help="where crops of a patch's size are compared")


def _superres(add: Add) -> None:
    add("--size", type=positive_int, default=256, help="of the demo's real images, in pixels (%(default)s)")
    add("--methods", nargs="+", choices=superres.ORDER, help="(all that there are)")
    add("--control", metavar="RUN", help="a run of configs/controlnet_sr.yaml; the demo model brings its own")


def extractors(args: argparse.Namespace, names: Sequence[str] | None, usual: str, device: str) -> list[Extractor]:
    """Those that are named; else the demo encoder for the demo model, or what is `usual`."""
    names = names or ["demo" if args.model == "demo" else usual]
    return [space(name, named(args.weights, "--weights"), device) for name in names]


def named(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """NAME=PATH, ... UserError for anything else."""
    split = {pair: pair.partition("=") for pair in pairs or []}
    for pair, (name, _, path) in split.items():
        if not name or not path:
            raise UserError(f"{option}: {pair}; expected NAME=PATH")
    return {name: path for name, _, path in split.values()}


def load(args: argparse.Namespace, fabric: Fabric) -> ZoomLDM:
    cdm = getattr(args, "cdm", None)
    return ZoomLDM.load(args.model, cdm=cdm, device=fabric.device, precision=args.precision)


class Embedder:
    """The model's own tile encoder, loaded when it is first needed."""

    def __init__(self, args: argparse.Namespace, model: ZoomLDM, device: str) -> None:
        self._load = cache(lambda: space(model.encoder, named(args.weights, "--weights"), device))

    @property
    def id(self) -> str:
        return self._load().id

    def __call__(self, tiles: Tensor) -> Tensor:
        return self._load()(tiles)


def demo_only(args: argparse.Namespace, option: str) -> None:
    """UserError unless the demo's own data will do."""
    if args.model != "demo":
        raise UserError(f"{option}: none given; only the demo model brings its own data")


def own_slides(args: argparse.Namespace, trained_on: bool) -> tuple[Path, list[SlideFile]]:
    """Slides that the model was trained on, or that it never saw, and their folder: the demo's, or the run's cohort.

    UserError for a model that is neither.
    """
    if args.model == "demo":
        folder = training_cohort() if trained_on else held_out_cohort()
        return folder, cohort(folder)
    return slides_of_run(Path(args.model), trained_on)


def run_patches(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    generated = {name: Path(path) for name, path in named(args.generated, "--generated").items()}
    model = None if generated else load(args, fabric)
    spaces = extractors(args, args.space, "inception", str(fabric.device))
    slides = None
    if args.real is None:
        args.real, slides = processes.once(lambda: own_slides(args, trained_on=False))
    real = Source(args.real, args.scale or (model.ladder.names if model else []), slides)
    if not real.scales:
        raise UserError("--scale: none given; name the scales of the images")
    given: Sequence[SlideFile] = []
    if model and real.slides:
        for slide in real.slides:
            matching_slide(slide.path, model)
        real.slides, given = halves(real.slides, slide_id)
    bench = Bench(model, spaces, args.out, args.seed, args.batch, processes)
    sampling = None if model is None else {key: getattr(args, key) for key in ("guidance", "sampler", "steps")}
    sources = {name: Source(path, real.scales) for name, path in generated.items()}
    report = patches.run(bench, real, given, args.count, sampling, sources)
    if args.statistics:
        for scale in real.scales:
            for space in spaces:
                found = real.described(scale, space, processes, args.batch).statistics
                if fabric.global_rank == 0:
                    found.save(args.statistics / statistics_name(scale, space))
    if not all(source.lossless for source in (real, *sources.values())):
        report.text += "\nSome images went through JPEG, which moves these distances.\n"
    return report


def run_large(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    model = load(args, fabric)
    device = str(fabric.device)
    spaces, crop_spaces = (
        extractors(args, names, usual, device)
        for names, usual in ((args.space, "clip"), (args.crop_space, "inception"))
    )
    if args.real is None:
        demo_only(args, "--real")
        paths = processes.once(lambda: held_out_pictures(args.size, 8 * args.count))
    else:
        paths = listed([args.real])
    reference, given = halves(paths, slide_of)
    bench = Bench(model, spaces, args.out, args.seed, args.batch, processes)
    methods = {name: large.METHODS[name] for name in args.methods}
    generated = {name: Path(path) for name, path in named(args.generated, "--generated").items()}
    real = reference, spread_over(given, args.count)
    return large.run(
        bench, real, args.scales.split(","), methods, generated, crop_spaces, Embedder(args, model, device)
    )


def run_superres(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    model = load(args, fabric)
    spaces = extractors(args, args.space, model.encoder, str(fabric.device))
    if args.real is None:
        demo_only(args, "--real")
        paths = processes.once(lambda: held_out_pictures(args.size, args.count))
    else:
        paths = spread_over(listed([args.real]), args.count)
    bench = Bench(model, spaces, args.out, args.seed, args.batch, processes)
    scales = args.scales.split(",")
    methods = superres.methods(args.methods, superres.control_for(args.control, model, scales))
    demo = next((space for space in spaces if isinstance(space, DemoEncoder)), None)
    features = None if demo is None else demo.maps
    lpips = Lpips.found(named(args.weights, "--weights").get("lpips"))
    embed = Embedder(args, model, str(fabric.device))
    return superres.run(bench, paths, scales, methods, embed, features, lpips)


def run_memorization(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    model = load(args, fabric)
    spaces = extractors(args, args.space, model.encoder, str(fabric.device))
    sides = []
    for folder, trained_on in ((args.train, True), (args.real, False)):
        if folder is None:
            sides.append(processes.once(partial(own_slides, args, trained_on))[1])
        else:
            sides.append(cohort(folder, trained_on))
    training, held_out = sides
    check_apart(
        *({slide_id(slide): patient_of(slide_id(slide)) for slide in slides} for slides in (training, held_out))
    )
    bench = Bench(model, spaces, args.out, args.seed, args.batch, processes)
    sampling = {key: getattr(args, key) for key in ("guidance", "sampler", "steps")}
    scales = args.scale or model.ladder.names
    return memorization.run(bench, training, held_out, halves(held_out, slide_id)[1], scales, args.count, sampling)


RUNS = {"patches": run_patches, "large": run_large, "superres": run_superres, "memorization": run_memorization}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if args.count < 2:
        raise UserError(f"--count: {args.count}; expected at least 2 images, to have a spread")
    started = time.monotonic(), time.process_time()
    fabric, processes = launch(args.devices, args.nodes, args.accelerator)
    args.precision = choose(args.precision, fabric.device)
    if fabric.is_global_zero:
        announce(args.precision, fabric.device)
    try:
        report = RUNS[args.command](args, fabric, processes)
    except torch.OutOfMemoryError as error:
        raise UserError(f"--batch: memory is short at {args.batch}; choose fewer: the images are the same") from error
    if fabric.global_rank > 0:
        return
    wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    typed = shlex.join(["python", "scripts/evaluate.py", *(sys.argv[1:] if argv is None else argv)])
    hardware = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {fabric.device.type}"
    head = f"`{typed}`: {hardware}, {args.precision}; {wall:.0f} s, {cpu:.0f} CPU s\n\n"
    settings = {key: str(value) for key, value in vars(args).items()}
    table = write_results(args.out / args.command, args.command, settings, report.records, head + report.text)
    print(head + report.text)
    sheet = report.sheet
    if sheet.rows:
        contact_sheet(sheet.rows, sheet.row_labels, sheet.columns, table.with_suffix(".png"))
    print(table, *([table.with_suffix(".png")] if sheet.rows else []), sep="\n")


if __name__ == "__main__":
    cli(main)
