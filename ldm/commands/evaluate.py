"""Measuring a model: the experiments that the command line asks for, and their tables on disk."""

import argparse
import platform
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from data_prep.held_out import held_out_cohort, held_out_pictures, training_cohort
from ldm.commands.out_folder import out_folder
from ldm.data.h5 import SlideFile
from ldm.data.split_file import patient_of
from ldm.diffusion.defaults import SAMPLING
from ldm.diffusion.samplers import check_levels
from ldm.encoders.demo_encoder import DemoEncoder
from ldm.errors import UserError, when_stopped
from ldm.evaluation.experiments import large_images, memorization, patches, superres_methods, superres_scores
from ldm.evaluation.experiments.context import EvalContext, Report
from ldm.evaluation.experiments.given_images import check_names
from ldm.evaluation.experiments.image_sets import (
    ImageSet,
    cohort,
    halves,
    slide_id,
    slide_of,
    slides_of_run,
    spread_over,
    statistics_name,
)
from ldm.evaluation.experiments.names import SUPERRES
from ldm.evaluation.metrics.extractors import Extractor
from ldm.evaluation.metrics.fidelity import Lpips
from ldm.evaluation.metrics.nearest import check_apart
from ldm.evaluation.spaces import space
from ldm.evaluation.tables import write_results
from ldm.images.contact_sheet import contact_sheet
from ldm.images.pictures import listed
from ldm.model_slides import matching_slide
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED, BundledModel
from ldm.support.files import check_inputs
from ldm.support.precision import announce, choose
from ldm.support.processes import Processes, launch


def extractors(args: argparse.Namespace, names: Sequence[str] | None, usual: str, device: str) -> list[Extractor]:
    """The extractors of `--space`; by default the model's own encoder for a bundled model, else `usual`."""
    names = names or [BUNDLED[args.model].folder.name if args.model in BUNDLED else usual]
    return [space(name, named(args.weights, "--weights"), device) for name in names]


def named(pairs: Sequence[str] | None, option: str) -> dict[str, str]:
    """Parse NAME=PATH, ... UserError for anything else, and for a name given twice."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UserError(f"{option}: {pair}; expected NAME=PATH")
        if name in found:
            raise UserError(f"{option}: {name} is named twice; name it once")
        found[name] = path
    return found


def generated_folders(args: argparse.Namespace, rows: Sequence[str]) -> dict[str, Path]:
    """The folders of `--generated` by name. UserError for a name of one of the command's own `rows`."""
    folders = {name: Path(path) for name, path in named(args.generated, "--generated").items()}
    check_inputs({f"--generated: {name}": path for name, path in folders.items()})
    check_names(folders, rows)
    return folders


def load(args: argparse.Namespace, fabric: Fabric) -> ZoomLDM:
    cdm = getattr(args, "cdm", None)
    model = ZoomLDM.load(args.model, cdm=cdm, device=fabric.device, precision=args.precision, compile=args.compile)
    for scale in args.scales or ():
        model.ladder[scale]  # UserError for an unknown one, before slides are drawn
    args.out = out_folder(args, "results", model)
    if "sampler" in args:
        args.sampler, args.steps = model.usual_sampling(args.sampler, args.steps)
        check_levels(args.guidance_interval, model.alpha_bar, args.sampler, args.steps)
    return model


class ModelEmbedder:
    """The model's own tile encoder, loaded when it is first needed."""

    def __init__(self, args: argparse.Namespace, model: ZoomLDM, device: str) -> None:
        self._load = cache(lambda: space(model.encoder, named(args.weights, "--weights"), device))

    @property
    def id(self) -> str:
        return self._load().id

    def __call__(self, tiles: Tensor) -> Tensor:
        return self._load()(tiles)


def bundled_only(args: argparse.Namespace, option: str) -> BundledModel:
    """The bundled model, which brings its own data. UserError for any other model, of which none was given."""
    if args.model not in BUNDLED:
        raise UserError(f"{option}: none given; only --model {' or '.join(BUNDLED)} brings its own data")
    return BUNDLED[args.model]


def own_slides(args: argparse.Namespace, trained_on: bool) -> tuple[Path, list[SlideFile]]:
    """Slides that the model was trained on, or held-out slides, and their folder: a bundled model's, or the run's.

    UserError for a model that is neither.
    """
    if bundled := BUNDLED.get(args.model):
        folder = training_cohort(bundled) if trained_on else held_out_cohort(bundled)
        return folder, cohort(folder)
    return slides_of_run(Path(args.model), trained_on)


def run_patches(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    generated = generated_folders(args, (patches.REAL, patches.GIVEN, patches.DRAWN))
    if generated and not args.scales:
        raise UserError("--scales: none given; name the scales of the images")
    model = None if generated else load(args, fabric)
    args.out = out_folder(args, "results", model)
    spaces = extractors(args, args.space, "inception", str(fabric.device))
    slides = None
    if args.real is None:
        args.real, slides = processes.once(lambda: own_slides(args, trained_on=False))
    real = ImageSet(args.real, args.scales or (model.ladder.names if model else []), slides)
    given: Sequence[SlideFile] = []
    if model and real.slides:
        for slide in real.slides:
            matching_slide(slide.path, model)
        real.slides, given = halves(real.slides, slide_id)
    setup = EvalContext(model, spaces, args.out, args.seed, args.batch_size, processes)
    sampling = None if model is None else {key: getattr(args, key) for key in SAMPLING}
    sources = {name: ImageSet(path, real.scales) for name, path in generated.items()}
    report = patches.run(setup, real, given, args.count, sampling, sources)
    if args.statistics:
        for scale in real.scales:
            for space in spaces:
                found = real.described(scale, space, processes, args.batch_size).statistics
                if fabric.global_rank == 0:
                    found.save(args.statistics / statistics_name(scale, space))
    if not all(source.lossless for source in (real, *sources.values())):
        report.text += "\nSome images went through JPEG, which moves these distances.\n"
    return report


def run_large(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    generated = generated_folders(args, (large_images.REAL, *large_images.METHODS))
    model = load(args, fabric)
    args.scales = args.scales or model.ladder.fourfold
    device = str(fabric.device)
    spaces, crop_spaces = (
        extractors(args, names, usual, device)
        for names, usual in ((args.space, "clip"), (args.crop_space, "inception"))
    )
    if args.real is None:
        bundled = bundled_only(args, "--real")
        paths = processes.once(lambda: held_out_pictures(bundled, args.size, 8 * args.count))
    else:
        paths = listed([args.real])
    reference, given = halves(paths, slide_of)
    setup = EvalContext(model, spaces, args.out, args.seed, args.batch_size, processes)
    methods = {name: large_images.METHODS[name] for name in args.methods}
    real = reference, spread_over(given, args.count)
    return large_images.run(
        setup, real, args.scales, methods, generated, crop_spaces, ModelEmbedder(args, model, device)
    )


def run_superres(args: argparse.Namespace, fabric: Fabric, processes: Processes) -> Report:
    generated = generated_folders(args, (*SUPERRES, "input", "truth"))
    if not args.methods and args.methods is not None and not generated:
        raise UserError("--methods: none given, and no --generated; name something to measure")
    model = load(args, fabric)
    spaces = extractors(args, args.space, model.encoder, str(fabric.device))
    if args.real is None:
        bundled = bundled_only(args, "--real")
        paths = processes.once(lambda: held_out_pictures(bundled, args.size, args.count))
    else:
        paths = spread_over(listed([args.real]), args.count)
    setup = EvalContext(model, spaces, args.out, args.seed, args.batch_size, processes)
    scales = args.scales = args.scales or model.ladder.fourfold
    control = superres_methods.control_for(args.control, model, scales)
    ldm = superres_methods.ldm_for(args.superres_ldm, model, scales)
    methods = superres_methods.methods(args.methods, control, ldm)
    demo = next((space for space in spaces if isinstance(space, DemoEncoder)), None)
    features = None if demo is None else demo.maps
    lpips = Lpips.found(named(args.weights, "--weights").get("lpips"))
    embed = ModelEmbedder(args, model, str(fabric.device))
    return superres_scores.run(setup, paths, scales, methods, generated, embed, features, lpips)


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
    setup = EvalContext(model, spaces, args.out, args.seed, args.batch_size, processes)
    sampling = {key: getattr(args, key) for key in SAMPLING}
    scales = args.scales or model.ladder.names
    return memorization.run(setup, training, held_out, halves(held_out, slide_id)[1], scales, args.count, sampling)


RUNS = {"patches": run_patches, "large": run_large, "superres": run_superres, "memorization": run_memorization}


@when_stopped("the same command continues: images that are made are kept")
def run(args: argparse.Namespace) -> None:
    if args.count < 2:
        raise UserError(f"--count: {args.count}; expected at least 2 images, to have a spread")
    check_inputs({f"--{key}": getattr(args, key, None) for key in ("real", "train")})
    started = time.monotonic(), time.process_time()
    fabric, processes = launch(args.devices, args.nodes, args.accelerator)
    args.precision = choose(args.precision, fabric.device)
    if fabric.is_global_zero:
        announce(args.precision, fabric.device)
    try:
        report = RUNS[args.command](args, fabric, processes)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"--batch-size: memory is short at {args.batch_size}; choose fewer: the images are the same"
        ) from error
    if fabric.global_rank > 0:
        return
    wall, cpu = time.monotonic() - started[0], time.process_time() - started[1]
    threads = torch.get_num_threads()
    processor = platform.processor() or platform.machine()
    hardware = f"{processor}, {threads} thread{'s' * (threads > 1)}, {fabric.device.type}"
    head = f"`{args.typed}`: {hardware}, {args.precision}; {wall:.0f} s, {cpu:.0f} CPU s\n\n"
    table = write_results(args.out / args.command, args.command, vars(args), report.records, head + report.text)
    print(head + report.text)
    sheet = report.sheet
    if sheet.rows:
        contact_sheet(sheet.rows, sheet.row_labels, sheet.columns, table.with_suffix(".png"))
    print(table, *([table.with_suffix(".png")] if sheet.rows else []), sep="\n")
