"""Make and show the split of a cohort (ldm/data/split_file.py): slides for training, validation and test, by patient.

    python data_prep/splits.py --cohort data/brca                           # patients from TCGA barcodes
    python data_prep/splits.py --cohort data/mine --table slides.csv        # from a column `patient`

The first call writes <cohort>/splits.csv; later ones add missing slides without changing the others, and print it. A
patient in two parts, after manual edits, is refused.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.slides.metadata import match_rows, read_table
from ldm.data.split_file import NAME, PARTS, Shares, Split, extend, patient_of, patient_stated, read_split, write_split
from ldm.errors import UserError, cli
from ldm.support.arguments import Parser, fraction, output_file, seed_int
from ldm.support.csv_table import refuse_variants

if TYPE_CHECKING:
    from ldm.data.h5 import SlideFile


def patients_of_table(path: str, slides: Sequence["SlideFile"]) -> dict[str, str]:
    """Slide ids and patients of the rows that name one of `slides` and have a patient.

    UserError without the column, and where no row names one of `slides`. A table may be of more slides.
    """
    rows = read_table(path)
    if rows and "patient" not in rows[0].values:
        found = ", ".join(["slide", *rows[0].values])
        raise UserError(f"{path}: columns are {found}, without patient; add it, or leave --table out")
    sources = {str(slide.attrs["slide_id"]): str(slide.attrs["source"]) for slide in slides}
    matched = match_rows(path, rows, sources, strict=False)
    if not matched:
        first = f"{rows[0].slide} first" if rows else "it has none"
        raise UserError(
            f"{path}: none of its {len(rows)} rows ({first}) names one of the {len(sources)} slides of the cohort "
            f"({min(sources)} first); name them in the column slide by id or by file"
        )
    if absent := sorted(sources.keys() - matched.keys()):
        print(f"{path}: has no row for {len(absent)} of {len(sources)} slides: {', '.join(absent[:3])} ...")
    stated = {slide_id: (row.line, patient_stated(row.values)) for slide_id, row in matched.items()}
    refuse_variants(path, "patients", sorted(each for each in stated.values() if each[1]))
    return {slide_id: patient for slide_id, (_, patient) in stated.items() if patient}


def refuse_moves(path: Path, known: Mapping[str, str], patients: Mapping[str, str], table: str | None) -> None:
    """UserError where slides of the split `path` have another patient now: they cannot move, models were trained."""
    moved = sorted(slide for slide in known.keys() & patients.keys() if known[slide] != patients[slide])
    if moved:
        first = moved[0]
        source = table or "the barcodes"
        raise UserError(
            f"{path}: was made with other patients: {len(moved)} slides differ, {first} first (patient {known[first]} "
            f"there, {patients[first]} in {source}); if nothing was trained on it, delete it and run the same command "
            "again, or make another split with --out FILE"
        )


def asked_shares(path: Path, before: Shares | None, args: argparse.Namespace) -> Shares:
    """Shares of the command line, else of the file, else defaults. UserError when the file has other ones."""
    asked = {"seed": args.seed, "validation": args.validation, "test": args.test}
    shares = Shares(
        **(before or Shares())._asdict() | {key: value for key, value in asked.items() if value is not None}
    )
    if before is not None and shares != before:
        made = " ".join(f"{key}={value}" for key, value in before._asdict().items())
        raise UserError(f"{path}: was made with {made}; leave these out, or make another with --out FILE")
    return shares


def table(split: Split, slides: Sequence["SlideFile"]) -> str:
    """Table of patients, slides and regions of each part, for slides in the cohort."""
    names = slides[0].ladder.names
    lines = [f"{'part':10}  patients  slides  {'  '.join(f'{name:>9}' for name in names)}"]
    for part in PARTS:
        here = [slide for slide in slides if split.lines[str(slide.attrs["slide_id"])].part == part]
        patients = {split.lines[str(slide.attrs["slide_id"])].patient for slide in here}
        regions = "  ".join(f"{sum(slide.count(name) for slide in here):9,}" for name in names)
        lines.append(f"{part:10}  {len(patients):8,}  {len(here):6,}  {regions}")
    return "\n".join(lines)


def origins(patients: Mapping[str, str], tabled: Mapping[str, str]) -> str:
    """Message about the sources of the patients."""
    counts = Counter(
        "the table"
        if slide in tabled
        else "slide names (one patient per slide)"
        if slide == patient
        else "barcodes or the file"
        for slide, patient in patients.items()
    )
    return ", ".join(f"{count} from {origin}" for origin, count in counts.most_common())


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser("splits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, help="folder of prepared slides")
    parser.add_argument("--by", choices=["patient", "slide"], default="patient", help="what is kept together")
    parser.add_argument("--table", help="CSV with columns slide and patient")
    parser.add_argument("--validation", type=fraction, help="share of patients, 0.05 by default")
    parser.add_argument("--test", type=fraction, help="share of patients, 0.05 by default")
    parser.add_argument("--seed", type=seed_int, help="another seed gives another split; 0 by default")
    parser.add_argument("--out", type=output_file, help=f"the file, <cohort>/{NAME} by default")
    args = parser.parse_args(argv)
    if args.table and args.by == "slide":
        raise UserError("--table: found beside --by slide, which keeps no patients together; leave one out")
    from ldm.data.cohort import open_cohort  # importing PyTorch takes seconds

    path: Path = args.out or args.cohort / NAME
    slides = open_cohort(args.cohort)
    ids = [str(slide.attrs["slide_id"]) for slide in slides]
    before = read_split(path) if path.exists() else None
    shares = asked_shares(path, before and before.shares, args)
    known = {slide: line.patient for slide, line in before.lines.items()} if before else {}
    tabled = patients_of_table(args.table, slides) if args.table else {}
    patients = {
        slide: slide if args.by == "slide" else tabled.get(slide) or known.get(slide) or patient_of(slide)
        for slide in ids
    }
    if before:
        refuse_moves(path, known, patients, args.table)
    split = extend(before or Split({}, shares), patients)
    if split != before:
        write_split(path, split)
    print(table(split, slides))
    print(f"patients: {origins(patients, tabled)}")
    print(f"{path}: {len(split.lines.keys() - known.keys())} slides added, {len(known)} were there")
    if others := sorted(split.lines.keys() - set(ids)):
        print(f"{path}: {len(others)} of its slides are not in {args.cohort}: {', '.join(others[:3])} ...")


if __name__ == "__main__":
    cli(main)
