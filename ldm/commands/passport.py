"""The passport of a folder of generated images: measure it against real ones, and write the page and its JSON."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm.errors import UserError, when_stopped
from ldm.evaluation.passport.duplicates import Pair
from ldm.evaluation.passport.figures import (
    PassportFigure,
    Sets,
    copies,
    memorisation,
    repeats,
    similarity,
    training_on_synthetic,
)
from ldm.evaluation.passport.file_figures import files, leaks
from ldm.evaluation.passport.folders import HELD_OUT, TRAIN, FolderImage, by_patient, images_of, some_of
from ldm.evaluation.passport.passport_page import PageSection, page
from ldm.evaluation.passport.reading import Folder, read
from ldm.evaluation.spaces import space
from ldm.images.contact_sheet import Pixels
from ldm.support.files import staged, write_text
from ldm.support.precision import chosen_device

SHOWN, PAIRS = 7, 4
FILES_NOTE = (
    "The folders differ in size, compression or resampling, which moves the distances below whatever the images show."
)
Pictures = list[tuple[Path, Pixels]]


def weights_of(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=PATH, ... UserError for anything else."""
    split = [pair.partition("=") for pair in pairs]
    for name, _, path in split:
        if not name or not path:
            raise UserError(f"--weights: {name}; expected NAME=PATH")
    return {name: path for name, _, path in split}


def check_apart(args: argparse.Namespace) -> None:
    """UserError for a folder that is, or lies in, another."""
    given = {"--train": args.train, "--generated": args.generated, "--real": args.real}
    paths = {option: path.resolve() for option, path in given.items() if path is not None}
    for option, path in paths.items():
        for other, outer in paths.items():
            if option != other and outer in (path, *path.parents):
                raise UserError(
                    f"{option}: {given[option]} is, or is inside, {other} {given[other]}; give folders apart"
                )


def real_parts(args: argparse.Namespace) -> tuple[list[FolderImage], list[FolderImage]]:
    """Training images, none where they are not stated, and the other real ones.

    UserError where some lie beside the folders of parts, so that it is not known what they are.
    """
    real = images_of(args.real, "--real")
    if args.train is not None:
        return images_of(args.train, "--train"), real
    training = [image for image in real if image.part in TRAIN]
    held_out = [image for image in real if image.part in HELD_OUT]
    if not training or len(held_out) < 2:
        return [], real
    if rest := [image for image in real if not image.part]:
        raise UserError(
            f"--real: {len(rest)} of {len(real)} images lie in no folder of training or held-out ones, for example "
            f"{rest[0].path}; move them to {TRAIN[0]} or {HELD_OUT[0]}, or out of {args.real}"
        )
    return training, held_out


def sets_of(args: argparse.Namespace) -> tuple[Sets, Folder, str]:
    """All folders, read; the real images that are not for training; and the space's id."""
    embed = space(args.space, weights_of(args.weights), chosen_device(args.device))
    training, held_out = real_parts(args)
    generated = images_of(args.generated, "--generated")

    def opened(images: Sequence[FolderImage], what: str) -> Folder:
        return read(some_of(images, args.count, args.seed), embed, args.batch_size, what)

    real, made = opened(held_out, "real"), opened(generated, "generated")
    trained = opened(training, "training") if training else None
    place = {image: number for number, image in enumerate(real.images)}
    reference, other = (real.part([place[image] for image in part]) for part in by_patient(real.images))
    if len(reference) < 2:
        found = f"one half of its patients has {len(reference)} image"
        raise UserError(f"--real: {found}; expected at least 2, with more images or a larger --count")
    sides = (reference, other) if trained is None else (trained, real)
    return Sets(made, reference, other, *sides, stated=trained is not None), real, embed.id


def pictures(folder: Folder) -> Pictures:
    """Some images of a folder, spread evenly."""
    count = min(SHOWN, len(folder))
    chosen = [folder.images[i * len(folder) // count] for i in range(count)]
    return [(image.path, image.pixels()) for image in chosen]


def pairs_of(found: Sequence[Pair], first: Folder, second: Folder) -> Pictures:
    chosen = [(first.images[pair.first], second.images[pair.second]) for pair in found[:PAIRS]]
    return [(image.path, image.pixels()) for pair in chosen for image in pair]


def sections_of(sets: Sets, real: Folder, space_id: str) -> list[PageSection]:
    """The passport, in reading order."""
    files_of = list(files(sets.generated, real))
    differ = any(figure.verdict == "look" for figure in files_of)
    near_figures, near = memorisation(sets)
    closest: Pictures = []
    if near is not None:
        order = near.distance.argsort()[:PAIRS].tolist()
        chosen = [(sets.generated.images[i], sets.training.images[int(near.training[i])]) for i in order]
        closest = [(image.path, image.pixels()) for pair in chosen for image in pair]
    known = sets.training if sets.stated else real
    copied, copied_pairs = copies(sets.generated, known)
    repeated, repeated_pairs = repeats(sets.generated)
    copy_pictures = {
        "Copies: generated, real": pairs_of(copied_pairs, sets.generated, known),
        "Repeated: generated, generated": pairs_of(repeated_pairs, sets.generated, sets.generated),
        "Nearest: generated, training": closest,
    }
    found = [
        PageSection("Images", pictures={"Generated": pictures(sets.generated), "Real": pictures(real)}),
        PageSection("Files", files_of),
        PageSection("Similarity", list(similarity(sets, space_id)), note=FILES_NOTE if differ else ""),
        PageSection("Copies", [*near_figures, copied, repeated], copy_pictures, paired=True),
    ]
    if sets.stated:
        figures, leaked = leaks(sets.training, real)
        shown = {"Held out, training": pairs_of(leaked, real, sets.training)}
        found.append(PageSection("Leaks between real folders", figures, shown, paired=True))
    if taught := list(training_on_synthetic(sets)):
        found.append(PageSection("Use for training", taught))
    return found


def about(args: argparse.Namespace, sets: Sets, real: Folder, space_id: str) -> list[str]:
    patients = len({image.patient for image in real.images})
    trained = f"; training: {len(sets.training)} images" if sets.stated else ""
    stands = "" if sets.stated else " No training images are stated, so half of the real patients stand for them."
    lines = [
        f"Generated: {args.generated}, {len(sets.generated)} images. Real: {args.real}, {len(real)} images of "
        f"{patients} patients or slides{trained}. Space: {space_id}.{stands}",
        "± is a standard error. The real column measures as many real images of other patients in the same way; a line "
        "is marked where the generated images differ from them by more than chance.",
    ]
    if not len(sets.other):
        lines.append("All real images are of one patient or slide, so there is no real column.")
    return lines


def plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """NaN becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in numbers.items()
    }


def record(figure: PassportFigure) -> dict[str, Any]:
    return {
        "key": figure.key,
        "name": figure.name,
        "verdict": figure.verdict,
        **plain(figure.numbers),
        "says": figure.says,
    }


@when_stopped("the same command begins again")
def run(args: argparse.Namespace) -> None:
    check_apart(args)
    sets, real, space_id = sets_of(args)
    sections = sections_of(sets, real, space_id)
    lines = about(args, sets, real, space_id)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    figures = [record(figure) for section in sections for figure in section.figures]
    content = {"settings": settings, "space": space_id, "figures": figures}
    with staged(args.out, ["passport.html", "passport.json"]) as stage:
        write_text(stage / "passport.html", page("Passport of generated images", lines, sections))
        write_text(stage / "passport.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    for section in sections:
        for figure in section.figures:
            print(f"{figure.verdict:8} {figure.name}: {figure.value} (real: {figure.real})")
    print(args.out / "passport.html", args.out / "passport.json", sep="\n")
