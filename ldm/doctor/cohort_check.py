"""Check a cohort folder: every checksum and value of its slides, their consistency, the report and the split."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ldm.data.cohort import prepared_slides
from ldm.data.dataset import Cohort, split_slides
from ldm.data.h5 import SlideFile
from ldm.data.split_file import NAME, read_split
from ldm.doctor.finding import Finding, fail, ok, warn
from ldm.doctor.slide_check import examine
from ldm.doctor.weights_check import Wanted
from ldm.errors import UserError
from ldm.support.typed import typed

GB = 1e9


def cohort(folder: Path, wanted: Wanted | None = None) -> Iterator[Finding]:
    """Read a whole cohort; `wanted` is what a model needs of it."""
    slides = prepared_slides(folder)
    whole: list[SlideFile] = []
    for slide in tqdm(slides, desc="slides", unit="slide", leave=False):
        try:
            examine(slide)
            whole.append(slide)
        except UserError as error:
            yield fail(str(error))
    if whole:
        size = sum(slide.path.stat().st_size for slide in whole)
        regions = sum(slide.count(scale) for slide in whole for scale in slide.attrs["scales"])
        yield ok(f"{folder}: {len(whole)} of {len(slides)} slides complete, {regions:,} regions, {size / GB:.2f} GB")
        yield from agreement(whole, wanted)
    yield from reported(folder, whole)
    yield from split_findings(folder, slides)
    leftovers = sorted([*folder.rglob(".*.partial"), *folder.rglob(".*.claim")])
    if leftovers:
        remedy = "a preparation is running, or was killed: running its command again removes them"
        yield warn(f"{folder}: {len(leftovers)} temporary files, such as {leftovers[0]}; {remedy}")


def agreement(slides: list[SlideFile], wanted: Wanted | None) -> Iterator[Finding]:
    """Whether slides share ladder, patch size, encoder and autoencoder, and the last two are the model's."""
    try:
        found = Cohort(slides)
    except UserError as error:
        yield fail(str(error))
        return
    networks = f"encoder {found.encoder}, autoencoder {found.autoencoder or 'none'}"
    yield ok(f"slides agree: {', '.join(found.ladder.names)}, {found.tile_px} px, {networks}")
    if not slides[0].settings:
        yield warn("settings: not recorded by the version that prepared these slides; assumed to be equal")
    for name in found.ladder.names:
        counts = [(slide.count(name), slide.eligible(name)) for slide in slides]
        here, eligible = (sum(count or 0 for count in column) for column in zip(*counts, strict=True))
        if here < eligible:
            yield ok(f"{name}: {here:,} of {eligible:,} regions with tissue, drawn at random (regions_per_scale)")
    if wanted is None:
        return
    if found.encoder != wanted.encoder and not found.encoder.startswith(f"{wanted.encoder}-"):
        yield fail(f"encoder: slides have {found.encoder}, the model {wanted.encoder}; prepare them with the model's")
    if found.latents_id not in ("", wanted.latents_id):
        yield fail(
            f"autoencoder: latents are of {found.autoencoder}, which encodes otherwise than the model's: good for "
            "conditions alone; prepare them with the model's"
        )


def reported(folder: Path, slides: list[SlideFile]) -> Iterator[Finding]:
    """Compare report.json with the files."""
    path = folder / "report.json"
    if not path.is_file():
        yield warn(f"{path}: missing, so it is not known what was left out; {typed('prepare')} writes it at its end")
        return
    try:
        reports: dict[str, Any] = {report["slide_id"]: report for report in json.loads(path.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        yield fail(f"{path}: cannot be read ({type(error).__name__}); run the preparation's command again")
        return
    ids = {slide.attrs["slide_id"]: slide for slide in slides}
    failed = [report for report in reports.values() if report.get("status") == "failed"]
    for report in failed:
        yield warn(f"{path}: {report['slide_id']} failed: {report.get('message')}")
    waiting = [name for name, report in reports.items() if report.get("status") == "waiting"]
    if waiting:
        yield warn(f"{path}: {', '.join(waiting)} not prepared yet; run the preparation's command again")
    missing = [name for name in reports if name not in ids and reports[name].get("status") in ("prepared", "kept")]
    if missing:
        yield fail(
            f"{path}: lists {', '.join(missing)}, but no whole file is there; run the preparation's command again"
        )
    unlisted = [name for name in ids if name not in reports]
    if unlisted:
        yield warn(f"{path}: does not list {', '.join(unlisted)}; they are of another preparation")
    for name in ids.keys() & reports.keys():
        counts = {scale: ids[name].count(scale) for scale in ids[name].attrs["scales"]}
        if reports[name].get("regions") not in ({}, counts):
            yield fail(f"{path}: {name} has other regions than its file; run the preparation's command again")
    if not missing and not failed and not waiting:
        yield ok(f"{path}: {len(reports)} slides, none failed")


def split_findings(folder: Path, slides: list[SlideFile]) -> Iterator[Finding]:
    """Compare splits.csv with the files."""
    path = folder / NAME
    if not path.is_file():
        yield warn(f"{path}: missing; training will write one, or use {typed('splits')} --cohort {folder}")
        return
    try:
        split = read_split(path)
        split_slides(slides, path)
    except UserError as error:
        yield fail(str(error))
        return
    absent = split.lines.keys() - {slide.path.relative_to(folder).with_suffix("").as_posix() for slide in slides}
    yield ok(f"{path}: {split}" + f"; {len(absent)} of them are not in the cohort" * bool(absent))
