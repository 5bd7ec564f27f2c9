"""Enlarge images, write them and, where the truth is given, score them."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from data_prep.slides.slide import Plane, open_slide
from ldm.commands.out_folder import out_folder, refuse_overwriting
from ldm.commands.preview_note import tell_without_preview
from ldm.commands.superres_inputs import check_given, truths
from ldm.commands.superres_layers import remove_figures_of, write_layers
from ldm.commands.superres_samples import check_samples, kept_samples, write_samples
from ldm.commands.superres_scores import compare, report, residual, scores
from ldm.data.h5 import SlideFile
from ldm.demo.world import generate
from ldm.diffusion.samplers import check_levels
from ldm.errors import UserError, when_stopped
from ldm.images.contact_sheet import Pixels
from ldm.images.pictures import (
    WHOLE_PX,
    Picture,
    destination,
    listed,
    read_located,
    read_picture,
    write_large,
    write_picture,
    write_scene,
)
from ldm.images.rasters import Place
from ldm.images.tensors import from_uint8, to_uint8
from ldm.model_slides import kind_notes, matching_slide, tile_place
from ldm.multiscale.conditions import Conditions, TokenMap, Unconditional, place_of, tokens_at
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.cost import cost_of
from ldm.multiscale.presets import SUPERRES_PRESETS, Settings, adapted
from ldm.multiscale.saved_states import StateFile, sample, shown
from ldm.multiscale.super_resolution import INVERSION_STEPS, SuperResolution, bicubic, inferred, magnification
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from ldm.support.cache import Identity, content, content_of
from ldm.support.files import atomic_write, check_inputs
from ldm.support.precision import announce, chosen_device
from ldm.view.catalogue import SUPERRES
from ldm.view.result_page import PREVIEW, write_preview

DEMO_SIDE_PX = 512
OTHER_IMAGE = 0.2
"""residual of a truth above which it is hardly that of the image; other filters than means leave less than 0.05"""


@dataclass(frozen=True)
class Job:
    """A picture to enlarge, and its ground truth if given."""

    name: str
    picture: Picture
    truth: Pixels | None = None
    place: Place | None = None
    """geographic place, if georeferenced"""


def load(path: Path, truth: Path | None, model: ZoomLDM, scales: Sequence[str]) -> Job:
    picture, place, notes = read_located(path)
    coarsest = max(scales, key=lambda name: model.ladder[name].index)
    for note in (*notes, *kind_notes(place, model, coarsest)):
        print(f"{path}: {note}", file=sys.stderr)
    return Job(path.name, picture, None if truth is None else read_picture(truth).pixels, place)


def demo(args: argparse.Namespace, model: ZoomLDM) -> Job:
    """A part of a bundled model's held-out slide, four times smaller; given conditions are that slide's."""
    bundled = BUNDLED.get(args.model)
    if bundled is None or args.scales != model.ladder.fourfold:
        known = " or ".join(BUNDLED)
        raise UserError(f"images: none given; only --model {known} brings its own, at the scales of its default")
    slide = SlideFile(bundled.slide)
    (path,) = generate(bundled.data / "held_out", 1, bundled.seed, bundled.kind, slide.attrs["width_l0"])
    drawn = open_slide(path, bundled.kind)
    row_l0, col_l0 = (model.tile_px * at for at in bundled.place)
    truth = Plane(drawn, drawn.mpp).read(col_l0, row_l0, DEMO_SIDE_PX, DEMO_SIDE_PX)
    if args.condition == "given" and args.slide is None:
        args.slide, args.place = str(bundled.slide), ",".join(map(str, bundled.place))
    factor, ground = magnification(model, args.scales), tile_place(slide, bundled.place)
    picture = Picture(to_uint8(Shrink(factor)(from_uint8(truth[None])))[0])
    return Job(f"{bundled.name}.png", picture, truth, None if ground is None else ground.scaled(factor))


@dataclass(frozen=True)
class InputImage:
    """The conditions of a picture, and what they depend on."""

    make: Callable[[], Tensor] | None = None
    """token map (d, rows, cols); None: unconditional"""
    inputs: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    inferred: bool = False

    def conditions(self, model: ZoomLDM, file: StateFile) -> Conditions:
        if self.make is None:
            return Unconditional(model)
        return TokenMap(model, file.kept("conditions", self.make) if self.inferred else self.make())


def source_of(args: argparse.Namespace, model: ZoomLDM, y: Pixels) -> InputImage:
    """The conditions that --condition asks for. UserError where the slide does not contain them."""
    condition = args.condition
    if condition == "none":
        return InputImage(settings={"condition": condition})
    if condition == "inferred":
        settings = {"condition": condition, "inversion_steps": INVERSION_STEPS}
        infer = partial(inferred, model, y, args.scales, seed=args.seed, progress=True)
        return InputImage(lambda: infer().tokens, settings=settings, inferred=True)
    if args.slide is None:
        raise UserError("--condition: given, but no slide; give --from SLIDE.h5 and --place ROW,COL")
    slide = matching_slide(args.slide, model)
    per_pixel = max(model.ladder[name].downsample for name in args.scales)
    rows, cols = (-(-length * per_pixel // model.tile_px) for length in y.shape[:2])
    place = place_of(args.place or "0,0")
    tokens = tokens_at(slide, place, rows, cols)
    return InputImage(lambda: tokens, {"slide": content(slide.path)}, {"condition": condition, "place": list(place)})


def slide_place(args: argparse.Namespace, model: ZoomLDM) -> Place | None:
    """Geographic place of an image that is a part of the slide of --from; None where neither is georeferenced."""
    if args.slide is None:
        return None
    ground = tile_place(matching_slide(args.slide, model), place_of(args.place or "0,0"))
    return None if ground is None else ground.scaled(max(model.ladder[name].downsample for name in args.scales))


def settings_of(args: argparse.Namespace, model: ZoomLDM) -> Settings:
    """The preset, as `model` can follow it, with the changes of the command line.

    Of several samples the denoiser is told the noise of the step alone: told more, it comes closer to the truth, but
    samples are then far more alike than they are like the truth (`benchmarks.superres_spread`).
    """
    keys = ("steps", "guidance", "guidance_interval")
    chosen = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.no_consistency:
        chosen["rounds"] = 0
    settings = replace(adapted(SUPERRES_PRESETS[args.preset], model), **chosen)
    return replace(settings, rule=replace(settings.rule, noise=0.0)) if args.samples > 1 else settings


def identity_of(args: argparse.Namespace, model: ZoomLDM, job: Job, source: InputImage) -> Identity:
    """Everything that the pixels of a picture's enlargement depend on."""
    settings = {
        "scales": args.scales,
        "seed": args.seed,
        **model.arithmetic,
        "batch_size": args.batch_size,
        **source.settings,
        "sampling": asdict(settings_of(args, model)),
    }
    inputs = {"picture": content_of(job.picture.pixels), **source.inputs}
    return Identity("super-resolution", model.weights, inputs, settings)


def sampled(args: argparse.Namespace, model: ZoomLDM, job: Job) -> tuple[SuperResolution, StateFile]:
    """The sampled canvas, ready to be decoded, and its state file. UserError where it does not fit in memory."""
    y = job.picture.pixels
    sampling = SuperResolution(
        model,
        y,
        args.scales,
        Unconditional(model),
        settings=settings_of(args, model),
        seed=args.seed,
        batch_size=args.batch_size,
    )
    joint = sampling.joint
    source = source_of(args, model, y)
    cost = cost_of(joint, source.inferred)
    cost.check(job.name, args.out, model.device)
    file = StateFile(args.out, identity_of(args, model, job, source))
    for note in file.notes() if args.alone else ():
        print(note)
    joint.conditions = source.conditions(model, file)
    print(f"{job.name}: {cost.told()}")
    sample(joint, file, job.name)
    return sampling, file


def several_of(args: argparse.Namespace, model: ZoomLDM, job: Job, path: Path) -> list[Path]:
    """The samples of --samples, as files."""

    def digest(own: argparse.Namespace) -> str:
        return identity_of(own, model, job, source_of(own, model, job.picture.pixels)).digest

    def make(own: argparse.Namespace) -> Iterator[Pixels]:
        sampling, file = sampled(own, model, job)
        yield from sampling.bands()
        file.remove()

    return kept_samples(args, path, digest, make)


def enlarge(args: argparse.Namespace, model: ZoomLDM, job: Job) -> dict[str, Any]:
    """Enlarge one picture, write it, score it; returns the figures. UserError for a truth of another size."""
    started = time.monotonic()
    y, profile = job.picture
    factor = magnification(model, args.scales)
    height, width = (factor * length for length in y.shape[:2])
    large = max(height, width) > WHOLE_PX
    if job.truth is not None and (job.truth.shape[:2] != (height, width) or large):
        found = f"{job.truth.shape[1]}x{job.truth.shape[0]} px"
        raise UserError(f"{job.name}: its truth is {found}; expected {width}x{height} and no side above {WHOLE_PX}")
    if job.truth is not None and (gap := residual(job.truth, y)) > OTHER_IMAGE:
        found = f"its truth, shrunk, differs from it by {gap:.2f} (root mean square, values from -1 to 1)"
        print(f"{job.name}: {found}; check that it shows the same place", file=sys.stderr)
    place = job.place or slide_place(args, model)
    place = None if place is None else place.scaled(1 / factor)
    check_samples(args, large)
    path = destination(args.out, job.name, height, width, place)
    figures: dict[str, Any] = {"image": str(path), "width": width, "height": height}
    several = several_of(args, model, job, path) if args.samples > 1 else []
    single = args.method != "bicubic" and not several
    sampling, file = sampled(args, model, job) if single else (None, None)
    ready = read_picture(several[0]).pixels if several else bicubic(y, factor)
    bands = iter([ready]) if sampling is None else sampling.bands()
    bands = shown(bands, height, f"{job.name}, decoding", len)
    remove_figures_of(path)
    for name in (SUPERRES, PREVIEW):  # of an earlier command
        (args.out / name).unlink(missing_ok=True)
    if place is not None:
        image = write_scene(path, bands, height, width, place)
    elif large:
        write_large(path, bands, height, width, min(model.ladder.um(name) for name in args.scales))
    else:
        image = write_picture(path, bands, profile)
    if sampling is not None and file is not None:
        figures |= {"residual_before": sampling.before.rms, "residual": sampling.after.rms}
        file.remove()
    layers = {"input": y} | ({} if large or args.method == "bicubic" else {"bicubic": bicubic(y, factor)})
    if several:
        of_samples, spread = write_samples(path, several, y, job.truth, model, args.scales, place)
        figures |= of_samples
        layers |= spread
    write_layers(path, layers | ({} if job.truth is None else {"truth": job.truth}))
    figures["seconds"] = round(time.monotonic() - started, 1)
    if job.truth is not None:
        images = {"bicubic": bicubic(y, factor), args.method: image}
        figures["scores"] = {name: scores(image, y, job.truth) for name, image in images.items()}
        compare({"input": y, **images, "truth": job.truth}, path.with_name(f"{path.stem}.comparison.png"))
    return figures


@when_stopped("the same command continues from what was saved; finished images are made again")
def run(args: argparse.Namespace) -> int:
    paths = listed(args.images)
    check_given(args, paths)
    check_inputs({"--from": args.slide, "--truth": args.truth})
    truth = truths(args, paths)
    if args.out is not None:
        refuse_overwriting([*paths, *truth.values()], args.out)
    device = chosen_device(args.device)
    model = ZoomLDM.load(
        args.model, preview=args.preview, device=device, precision=args.precision, compile=args.compile
    )
    args.out = out_folder(args, "samples/superres", model)
    check_levels(args.guidance_interval, model.alpha_bar)
    refuse_overwriting([*paths, *truth.values()], args.out)
    announce(model.precision, model.device)
    tell_without_preview(args.preset, model)
    args.scales = args.scales or model.ladder.fourfold
    args.condition = args.condition or ("given" if args.slide else "inferred")
    sampling = settings_of(args, model)
    args.steps, args.guidance = sampling.steps, sampling.guidance
    jobs = [partial(load, path, truth.get(path), model, args.scales) for path in paths] or [partial(demo, args, model)]
    args.alone = len(jobs) == 1
    done, failed = [], []
    for job in jobs:
        try:
            done.append(enlarge(args, model, job()))
            report(done[-1])
        except UserError as error:
            if len(jobs) == 1:
                raise
            failed.append(str(error))
    args.precision = model.precision
    settings = {key: value for key, value in vars(args).items() if key not in ("images", "alone")}
    with atomic_write(args.out / SUPERRES) as unfinished:
        content = {"settings": settings, "images": done, "failed": failed}
        unfinished.write_text(json.dumps(content, indent=2, default=str) + "\n")
    write_preview(args.out)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0
