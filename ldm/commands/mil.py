"""Slide labels from bags: cross-validation, its table, and attention maps."""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from data_prep.preparation_config import load_prepare_config
from data_prep.prepare import main as prepare
from ldm.data.bags import BagFolder, read_bag, subsets
from ldm.data.cohort import open_cohort
from ldm.data.h5 import SlideFile
from ldm.data.ids import safe_id
from ldm.data.labels import Labels, read_labels
from ldm.data.split_file import folds
from ldm.data.thumbnail import thumbnail
from ldm.errors import UserError
from ldm.evaluation.mil.attention_map import attention_map, attention_regions
from ldm.evaluation.mil.classifier import CrossValidation, cross_validate, half_interval
from ldm.evaluation.mil.features import FeatureExtractor
from ldm.images.contact_sheet import Pixels, contact_sheet, fitted
from ldm.images.geojson_writer import write_regions, written_here
from ldm.model_slides import matching_slide, pictures
from ldm.pipeline import ZoomLDM
from ldm.support.cache import digest_of
from ldm.support.files import atomic_write, check_destination, write_text

DEMO = "configs/demo/data_mil.yaml"
DEMO_FEATURES = Path("data/demo/mil-features")
DEMO_BAGS = [
    ("encoder", ["20x"]),
    *(("denoiser", [scale]) for scale in ("20x", "5x", "1.25x")),
    ("denoiser", ["20x", "5x"]),
    ("denoiser", ["20x", "10x", "5x", "2.5x", "1.25x"]),
]
NAMED = 5
"""slides without a bag that a message names"""
SHOWN = 3
"""slides of each label in the picture"""
SHOWN_PX = 320
REGIONS, MAPS, SHEET = "regions", "attention", "attention.png"
"""in --out: folders of GeoJSON and of pictures, one a slide, and the picture of all"""


def demo(args: argparse.Namespace) -> None:
    """Draw and prepare the demo cohort, extract its features, and fill in the arguments that name them."""
    config = load_prepare_config([DEMO])
    model = ZoomLDM.load(args.model)
    if model.ladder.kind != config.ladder.kind:
        found = f"none given, but the demo slides are of {config.ladder.kind} and --model {args.model} is not"
        raise UserError(f"--features: {found}; give folders of bags")
    if status := prepare(["--config", DEMO]):
        raise SystemExit(status)  # the command has printed why
    slides = [matching_slide(file.path, model) for file in open_cohort(config.out)]
    args.features, args.labels, args.cohort = [], str(Path(config.slides) / "labels.csv"), Path(config.out)
    for source, scales in DEMO_BAGS:
        extract = FeatureExtractor(model, scales, DEMO_FEATURES, source)
        for slide in tqdm(slides, desc=extract.folder.name, unit="slide"):
            extract(slide)
        args.features.append(extract.folder)


def labelled(path: str, features: Sequence[Path]) -> Labels:
    """Labels of the slides in `path` with a bag in every folder, by the bags' names. UserError when too few."""
    bags = [
        {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.h5")} for folder in features
    ]
    everywhere = set.intersection(*bags)
    labels = read_labels(path)
    if labels.unlabelled:
        print(f"{path}: {labels}")
    labels = replace(labels, slides=[bag_of(slide, everywhere) for slide in labels.slides])
    for slide, count in Counter(labels.slides).items():
        if count > 1:
            raise UserError(f"{path}: {count} rows name the slide {slide}, by its file and by its id; remove one")
    for folder, found in zip(features, bags, strict=True):
        if not found & set(labels.slides):
            _refuse_parent(folder, found, labels)
    kept = labels.only(everywhere)
    if missing := [slide for slide in labels.slides if slide not in everywhere]:
        named = ", ".join(missing[:NAMED]) + (" ..." if len(missing) > NAMED else "")
        print(f"{len(missing)} of {len(labels.slides)} labelled slides have no bag: left out ({named})")
    for folder in features:
        if told := subsets([folder / f"{slide}.h5" for slide in kept.slides]):
            print(f"{folder.name}: {told}")
    return kept


def bag_of(slide: str, bags: set[str]) -> str:
    """The bag of a table's `slide`: a slide id, or a file name, from which preparation made the id."""
    ids = (slide, safe_id(slide), safe_id(PurePosixPath(slide).with_suffix("").as_posix()) if slide else slide)
    return next((name for name in ids if name in bags), slide)


def _refuse_parent(folder: Path, found: set[str], labels: Labels) -> None:
    """UserError where the folders inside `folder` have the bags, but not itself."""
    for inside in sorted({name.partition("/")[0] for name in found if "/" in name}):
        within = {name.removeprefix(f"{inside}/") for name in found}
        if any(bag_of(slide, within) in within for slide in labels.slides):
            raise UserError(f"--features: {folder} holds folders of bags; name one, for example {folder / inside}")


class ScoreRow(NamedTuple):
    """A row of the table: the cross-validations of one folder of bags, one per column."""

    name: str
    columns: list[list[CrossValidation]]

    @property
    def aucs(self) -> list[list[float]]:
        """AUC of every fold, one list per column."""
        return [[auc for run in runs for auc in run.aucs] for runs in self.columns]

    def cells(self) -> list[str]:
        return [f"{np.mean(aucs):.3f} ± {np.std(aucs, ddof=1):.3f}" for aucs in self.aucs]


def compare(labels: Labels, args: argparse.Namespace, splits: Sequence[int]) -> list[ScoreRow]:
    """Cross-validate every folder of bags and, last, the last folder under shuffled labels.

    Each cross-validation is repeated for `args.repeats` splits. All features are reduced to the width of the narrowest.
    """
    names = [folder.name for folder in args.features]
    names = [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, args.features, strict=True)]
    bags_of = {name: BagFolder(folder, labels.slides) for name, folder in zip(names, args.features, strict=True)}
    rows, least = [], narrowest(bags_of.values())
    repeats = range(args.seed, args.seed + args.repeats)
    for name, bags in bags_of.items():
        columns = [[validated(bags, labels, k, seed, least) for seed in repeats] for k in splits]
        rows.append(ScoreRow(name, columns))
        print(" | ".join([name, *rows[-1].cells()]), flush=True)
    if args.shuffles:
        drawn = range(args.seed, args.seed + args.shuffles)
        columns = [[validated(bags, labels.shuffled(seed), k, seed, least) for seed in drawn] for k in splits]
        rows.append(ScoreRow(f"{name}, shuffled labels", columns))
        print(" | ".join([rows[-1].name, *rows[-1].cells()]), flush=True)
    return rows


def narrowest(folders: Iterable[BagFolder]) -> int:
    """The fewest channels of any of them."""
    return min(bags[0].shape[1] for bags in folders)


def validated(bags: BagFolder, labels: Labels, k: int, seed: int, components: int) -> CrossValidation:
    fold = folds(labels.patients, [labels.names[value] for value in labels.values], k, seed)
    return cross_validate(bags, labels.values, fold, seed, components)


def table(rows: Sequence[ScoreRow], labels: Labels, splits: Sequence[int], args: argparse.Namespace) -> str:
    """Markdown in the layout of the paper's Table 4."""
    shuffles, times = args.shuffles, f"{args.repeats} splits" if args.repeats > 1 else "one split"
    lines = [
        f"AUC of {labels.names[1]} against {labels.names[0]}, mean ± standard deviation over the folds of {times}; "
        f"{labels.values.sum()} and {(1 - labels.values).sum()} slides of {len(set(labels.patients))} patients.\n",
        f"| features | {' | '.join(f'{k}-fold' for k in splits)} |",
        "|---" * (1 + len(splits)) + "|",
        *(f"| {row.name} | {' | '.join(row.cells())} |" for row in rows),
    ]
    if shuffles:
        means = [[run.mean for run in runs] for runs in rows[-1].columns]
        spread = [f" ± {half_interval(of):.3f}" if len(of) > 1 else "" for of in means]
        told = [f"{np.mean(of):.3f}{s} ({k}-fold)" for k, of, s in zip(splits, means, spread, strict=True)]
        what = f"{shuffles} shuffles of the labels and its 95 % interval"
        lines.append(f"\nMean under {what if shuffles > 1 else 'one shuffle of the labels'}: {', '.join(told)}.")
    return "\n".join(lines) + "\n"


Thumbnails = dict[int, tuple[Pixels, float]]
"""by slide number: the thumbnail, and full-resolution pixels per thumbnail pixel"""


def examples(labels: Labels) -> list[int]:
    """Numbers of the slides to show, SHOWN of each label."""
    return [i for value in (1, 0) for i in np.flatnonzero(labels.values == value)[:SHOWN].tolist()]


def thumbnails(labels: Labels, args: argparse.Namespace) -> Thumbnails:
    """The slides to show. UserError for one that is not there or that the model cannot decode."""
    model = ZoomLDM.load(args.model)
    slides = {i: SlideFile(args.cohort / f"{labels.slides[i]}.h5") for i in examples(labels)}
    return {i: thumbnail(slide, partial(pictures, model=model)) for i, slide in slides.items()}


def draw_attention(labels: Labels, run: CrossValidation, shown: Thumbnails, args: argparse.Namespace) -> Path:
    """Write an attention map for each slide shown, and a contact sheet of all of them."""
    rows, names = [], []
    for i, (picture, px_l0) in shown.items():
        bag, prediction = read_bag(args.features[-1] / f"{labels.slides[i]}.h5"), run.predictions[i]
        side = bag.side_l0 / px_l0  # of a tile in the thumbnail, which begins with the first one
        attention = attention_map(picture, prediction.attention.numpy(), bag.ij[:, ::-1] * side, side)
        both = Image.fromarray(np.concatenate([picture, attention], axis=1))
        with atomic_write(args.out / MAPS / f"{labels.slides[i]}.jpg") as unfinished:
            both.save(unfinished, format="JPEG", quality=85)
        rows.append([fitted(picture, SHOWN_PX), fitted(attention, SHOWN_PX)])
        probability = 1 / (1 + np.exp(-prediction.logit))
        names.append(f"{labels.names[labels.values[i]]}: P({labels.names[1]}) {probability:.2f}")
    sheet = args.out / SHEET
    contact_sheet(rows, names, ["slide", "attention"], sheet)
    return sheet


def attentive(rows: Sequence[ScoreRow], args: argparse.Namespace) -> CrossValidation:
    """The classifiers whose attention is shown: of the last features, with the labels as they are."""
    return rows[len(args.features) - 1].columns[0][0]


def write_attention(labels: Labels, rows: Sequence[ScoreRow], args: argparse.Namespace) -> Path:
    """Write the attention on the slides shown as GeoJSON for QuPath: their tiles, in pixels of full resolution."""
    folder, run = Path(args.out) / REGIONS, attentive(rows, args)
    for i in examples(labels):
        bag = read_bag(args.features[-1] / f"{labels.slides[i]}.h5")
        attention = run.predictions[i].attention.numpy()
        write_regions(folder / f"{labels.slides[i]}.geojson", attention_regions(bag, attention))
    return folder


def remove_attention(out: Path) -> None:
    """Remove what earlier classifiers attended to, which would lie beside the new table."""
    for path in (out / REGIONS).rglob("*.geojson"):
        if written_here(path):
            path.unlink()
    for path in [*(out / MAPS).rglob("*.jpg"), out / SHEET]:
        path.unlink(missing_ok=True)


def own_folder(args: argparse.Namespace) -> Path:
    """Where results go without --out: those of other features or labels have another folder."""
    folder = Path("samples/mil")
    if args.features:
        given = [str(Path(path).resolve()) for path in (args.labels or "", *args.features)]
        folder /= f"{Path(args.features[0]).resolve().name}-{digest_of(json.dumps(given))[:8]}"
    check_destination(folder, folder=True)
    return folder


def run(args: argparse.Namespace) -> None:
    splits: list[int] = args.splits
    if args.out is None:
        args.out = own_folder(args)
    if args.features is None:
        demo(args)
    elif not args.labels:
        raise UserError("--labels: missing; give a CSV with columns slide, label")
    elif twice := [folder for folder in args.features if args.features.count(folder) > 1]:
        raise UserError(f"--features: {twice[0]} is named twice; name it once")
    labels = labelled(args.labels, args.features)
    shown = thumbnails(labels, args) if args.cohort else {}
    rows = compare(labels, args, splits)
    text = table(rows, labels, splits, args)
    remove_attention(args.out)
    write_text(args.out / "table.md", text)
    results = {row.name: dict(zip(map(str, splits), row.aucs, strict=True)) for row in rows}
    record = {"seed": args.seed, "repeats": args.repeats, "slides": labels.slides, "auc": results}
    write_text(args.out / "results.json", json.dumps(record, indent=1) + "\n")
    print(text, args.out / "table.md", sep="\n")
    print(write_attention(labels, rows, args))
    if shown:
        print(draw_attention(labels, attentive(rows, args), shown, args))
