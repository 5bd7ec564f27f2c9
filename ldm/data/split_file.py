"""The split of a cohort: a file that says which slides train, validate and test.

    # seed=0 validation=0.05 test=0.05
    slide,patient,part
    TCGA-A1-A0SB-01Z-00-DX1.00aa,TCGA-A1-A0SB,train

All slides of a patient are in one part, which depends on (seed, patient) alone: their hash, as a number in [0, 1),
means validation below the first share, test below the sum of both, else training. In a small cohort, a part that would
be empty gets one patient. Slides that are added later never move those that are listed. The file may be edited by hand;
a patient in two parts is refused.
"""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.support.csv_table import alike, is_known, read_csv, refuse_variants
from ldm.support.files import write_text
from ldm.support.typed import typed

NAME = "splits.csv"
"""file name in the cohort's folder"""
PARTS = ("train", "validation", "test")
COLUMNS = ["slide", "patient", "part"]
BARCODE = re.compile(r"TCGA-\w{2}-\w{4}(?=$|[-._])", re.IGNORECASE | re.ASCII)
"""TCGA barcode: project, site and participant, before sample and slide; may be in lower case"""
SETTINGS = re.compile(r"# seed=(\d+) validation=([\d.e-]+) test=([\d.e-]+)\s*$", re.ASCII)


class Shares(NamedTuple):
    """Shares of patients for validation and test; the rest is for training."""

    seed: int = 0
    validation: float = 0.05
    test: float = 0.05


class Line(NamedTuple):
    """One slide."""

    patient: str
    part: str


class Split(NamedTuple):
    """Lines by slide id, and the shares for further slides."""

    lines: dict[str, Line]
    shares: Shares

    def slides(self, part: str) -> list[str]:
        """The ids of "train", "validation" or "test"."""
        return [slide for slide, line in self.lines.items() if line.part == part]

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.slides(part))} {part}" for part in PARTS)
        return f"{counts} slides of {len({line.patient for line in self.lines.values()})} patients"


def patient_of(slide_id: str) -> str:
    """The participant of the TCGA barcode that begins a slide's name; any other slide is its own patient."""
    found = BARCODE.match(slide_id.rpartition("/")[2])
    return found.group().upper() if found else slide_id


def same_patient(name: str) -> str:
    """Normalised name of a patient; TCGA participants are written in capitals."""
    return name.upper() if BARCODE.fullmatch(name) else name


def patient_stated(cells: Mapping[str, str]) -> str:
    """The patient named by a row of a table; empty if none."""
    stated = cells.get("patient", "")
    return same_patient(stated) if is_known(stated) else ""


def draw(seed: int, patient: str) -> float:
    """Hash of (seed, patient) as a number in [0, 1)."""
    return int.from_bytes(hashlib.sha256(f"{seed} {patient}".encode()).digest()[:8]) / 2**64


def extend(split: Split, patients: Mapping[str, str]) -> Split:
    """Add the slides of `patients` (slide id -> patient) that `split` lacks; those it has stay as they are.

    A part with a share that would stay empty takes a new patient from the fullest, or from a later part.
    UserError for shares out of range, for a slide of another patient than before, for a patient of two spellings.
    """
    seed, validation, test = split.shares
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(f"split: shares {validation:g} and {test:g} found, expected two that leave some for training")
    for slide in sorted(patients.keys() & split.lines.keys()):
        if split.lines[slide].patient != patients[slide]:
            found = f"slide {slide} is of patient {split.lines[slide].patient} there, of {patients[slide]} now"
            raise UserError(f"split: {found}; correct one, or make another split")
    spelt: dict[object, str] = {}
    both = {slide: line.patient for slide, line in split.lines.items()} | dict(patients)
    for patient in [patient for slide, patient in both.items() if patient != slide]:
        if (other := spelt.setdefault(alike(patient), patient)) != patient:
            raise UserError(
                f"split: patients {other!r} and {patient!r} differ in spelling alone; write both the same way"
            )
    known = {line.patient: line.part for line in split.lines.values()}
    new: dict[str, list[str]] = {part: [] for part in PARTS}
    for patient in sorted(set(patients.values()) - known.keys(), key=lambda patient: draw(seed, patient)):
        number = draw(seed, patient)
        new["validation" if number < validation else "test" if number < validation + test else "train"].append(patient)
    _fill(
        new, Counter(known.values()), [part for part, share in zip(PARTS, (1, validation, test), strict=True) if share]
    )
    parts = known | {patient: part for part, members in new.items() for patient in members}
    lines = {slide: Line(patient, parts[patient]) for slide, patient in patients.items()}
    return Split(dict(sorted((lines | split.lines).items())), split.shares)


def _fill(new: dict[str, list[str]], known: Counter[str], wanted: Sequence[str]) -> None:
    """Move a patient of `new` into each empty part of `wanted`, where another part has more than one."""
    for place, part in enumerate(wanted):
        sizes = {other: len(new[other]) + known[other] for other in wanted}
        donors = [other for other in wanted if new[other] and (sizes[other] > 1 or other in wanted[place + 1 :])]
        if sizes[part] == 0 and donors:
            donor = max(donors, key=lambda other: (sizes[other], wanted.index(other)))
            new[part].append(new[donor].pop(0))


def read_split(path: str | Path) -> Split:
    """UserError, with the line, when the file is missing or not a split, and when a patient is in two parts."""
    if not Path(path).is_file():
        raise UserError(f"{path}: is no split file; make it with {typed('splits')} --cohort {Path(path).parent}")
    table = read_csv(path, COLUMNS)
    if table.columns != COLUMNS:
        raise UserError(f"{path}: columns are {','.join(table.columns)}; expected {','.join(COLUMNS)}; restore line 1")
    lines: dict[str, Line] = {}
    for row in table.rows:
        slide, patient, part = (row.cells[name] for name in COLUMNS)
        if part not in PARTS or not slide or not patient:
            found = ",".join(row.cells.values())
            raise UserError(f"{path}: line {row.line}: {found} found, expected slide,patient,{'|'.join(PARTS)}")
        if slide in lines:
            raise UserError(f"{path}: line {row.line}: {slide} is there twice; remove one line")
        lines[slide] = Line(same_patient(patient), part)
    shared = [(row.line, lines[row.cells["slide"]].patient) for row in table.rows]
    refuse_variants(path, "patients", [each for each, slide in zip(shared, lines, strict=True) if each[1] != slide])
    _refuse_leakage(path, lines)
    return Split(lines, _shares(Path(path)))


def _shares(path: Path) -> Shares:
    """Seed and shares in the first line; defaults where it has none."""
    first = path.read_text(encoding="utf-8-sig").partition("\n")[0].rstrip()
    if not (first.startswith("#") and "seed" in first):
        return Shares()
    try:
        settings = SETTINGS.match(first)
        if settings is None:
            raise ValueError("expected # seed=0 validation=0.05 test=0.05")
        return Shares(int(settings[1]), float(settings[2]), float(settings[3]))
    except ValueError as error:
        raise UserError(f"{path}: line 1: {first[:80]!r} holds no numbers ({error}); restore it") from error


def _refuse_leakage(path: str | Path, lines: Mapping[str, Line]) -> None:
    first: dict[str, tuple[str, str]] = {}
    for slide, (patient, part) in lines.items():
        other, other_part = first.setdefault(patient, (slide, part))
        if part != other_part:
            raise UserError(
                f"{path}: patient {patient} is in {other_part} ({other}) and in {part} ({slide}); put all in one part"
            )


def write_split(path: str | Path, split: Split) -> None:
    """Write the file atomically."""
    text = io.StringIO()
    text.write("# seed={} validation={} test={}\n".format(*split.shares))
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([COLUMNS, *([slide, *line] for slide, line in split.lines.items())])
    write_text(path, text.getvalue())


def folds(patients: Sequence[str], labels: Sequence[str], k: int, seed: int = 0) -> NDArray[np.intp]:
    """(n,) the fold, 0 to k - 1, of each of n slides: those of a patient share one, labels are spread evenly.

    A patient counts by its most frequent label. The patients of a label are distributed in the order of their hashes,
    each label continuing where the last one ended. UserError when a label has fewer than `k` patients.
    """
    labels_of: dict[str, Counter[str]] = defaultdict(Counter)
    for patient, label in zip(patients, labels, strict=True):
        labels_of[patient][label] += 1
    groups: dict[str, list[str]] = defaultdict(list)
    for patient, counts in labels_of.items():
        groups[min(counts, key=lambda label: (-counts[label], label))].append(patient)
    dealt: dict[str, int] = {}
    for label, members in sorted(groups.items()):
        if len(members) < k:
            raise UserError(
                f"folds: label {label} has {len(members)} patients, expected at least {k}; make fewer folds"
            )
        for patient in sorted(members, key=lambda patient: draw(seed, patient)):
            dealt[patient] = len(dealt) % k
    return np.array([dealt[patient] for patient in patients])
