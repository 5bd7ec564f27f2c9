"""Splits: a patient is in one part, determined by (seed, patient) alone."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks.fixtures import toy
from ldm.commands.train_start import split_when_absent
from ldm.data.split_file import PARTS, Line, Shares, Split, draw, extend, folds, patient_of, read_split, write_split
from ldm.errors import UserError

COHORT = {
    f"TCGA-{n % 7:02}-A{n:03}-01Z-00-DX{m}.{n}-{m}": f"TCGA-{n % 7:02}-A{n:03}" for n in range(400) for m in (1, 2)
}
NONE = Split({}, Shares(validation=0.1, test=0.2))


def test_patients_are_read_from_tcga_barcodes() -> None:
    assert {slide: patient_of(slide) for slide in COHORT} == COHORT
    assert patient_of("brca/TCGA-A1-A0SB-01Z-00-DX1.b1e3") == "TCGA-A1-A0SB"
    assert patient_of("TCGA-A1-A0SB") == "TCGA-A1-A0SB"
    for other in ("sub/slide_1", "TCGA-A1-A0SBX-01", "x-TCGA-A1-A0SB-01"):
        assert patient_of(other) == other


def test_no_patient_is_in_two_parts_and_shares_are_kept() -> None:
    split = extend(NONE, COHORT)
    parts: dict[str, set[str]] = {}
    for line in split.lines.values():
        parts.setdefault(line.patient, set()).add(line.part)
    assert len(parts) == 400
    assert all(len(found) == 1 for found in parts.values())
    shares = [len(split.slides(part)) / len(COHORT) for part in PARTS]
    assert np.abs(np.array(shares) - (0.7, 0.1, 0.2)).max() < 0.05
    assert extend(Split({}, NONE.shares._replace(seed=1)), COHORT).slides("test") != split.slides("test")


def test_slides_added_later_move_none() -> None:
    """Whether the file is extended or made again, and in any order of slides."""
    slides = list(COHORT)
    first = extend(NONE, {slide: COHORT[slide] for slide in slides[:500]})
    later = extend(first, COHORT)
    assert first.lines.items() <= later.lines.items()
    assert later == extend(NONE, {slide: COHORT[slide] for slide in reversed(slides)})


def test_a_decision_in_the_file_is_kept() -> None:
    first = extend(NONE, {slide: COHORT[slide] for slide in list(COHORT)[::2]})
    (slide, line), *_ = first.lines.items()
    by_hand = Split(
        {**first.lines, slide: line._replace(part="test" if line.part == "train" else "train")}, first.shares
    )
    later = extend(by_hand, COHORT)
    assert {found.part for found in later.lines.values() if found.patient == line.patient} == {
        by_hand.lines[slide].part
    }
    with pytest.raises(UserError, match=f"slide {slide} is of patient {line.patient} there, of B now"):
        extend(first, {slide: "B"})


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_small_cohorts_have_every_part_that_they_can(count: int) -> None:
    for seed in range(20):
        split = extend(Split({}, Shares(seed)), {f"s{n}": f"s{n}" for n in range(count)})
        sizes = [len(split.slides(part)) for part in PARTS]
        assert sum(sizes) == count
        assert [size > 0 for size in sizes] == [True, count > 1, count > 2], (seed, sizes)


def test_numbers_are_uniform() -> None:
    numbers = np.sort([draw(0, patient) for patient in set(COHORT.values())])
    assert np.abs(numbers - np.linspace(0, 1, len(numbers))).max() < 1.6 / len(numbers) ** 0.5  # Kolmogorov, 1 %


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    split = extend(Split({}, Shares(3, 0.1, 0)), {**COHORT, 'odd, "name"': "p"})
    write_split(tmp_path / "splits.csv", split)
    assert read_split(tmp_path / "splits.csv") == split
    assert (tmp_path / "splits.csv").read_text().startswith("# seed=3 validation=0.1 test=0\nslide,patient,part\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,patient,part\na,P,train\nb,P,test\n", r"patient P is in train \(a\) and in test \(b\)"),
        ("slide,patient,part\na,P,train\na,P,train\n", "a is there twice"),
        ("slide,patient,part\na,P,val\n", r"line 2: a,P,val found, expected slide,patient,train\|validation\|test"),
        ("a,P,train\n", "line 1: has the columns a, P, train; expected slide,patient,part"),
        ("slide,part,patient\na,train,P\n", "columns are slide,part,patient; expected slide,patient,part"),
        ("slide,patient,part\na,,train\n", "line 2: a,,train found"),
        ("slide,patient,part\na,P,train\nb,p,test\n", "line 2 has 'P' and line 3 'p', patients that differ"),
        ("slide,patient,part\na,TCGA-A1-A0SB,train\nb,tcga-a1-a0sb,test\n", "patient TCGA-A1-A0SB is in train"),
        ("#seed=3 validation=0.1 test=0.1\nslide,patient,part\na,P,train\n", "line 1: '#seed=3 .* holds no numbers"),
        ("# seed=-1 validation=0.1 test=0.1\nslide,patient,part\na,P,train\n", "line 1: .* holds no numbers"),
        ("# seed=0 validation=0.1.2 test=0\nslide,patient,part\na,P,train\n", "line 1: .* holds no numbers"),
    ],
)
def test_files_that_leak_or_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_split(tmp_path / "splits.csv")


@pytest.mark.parametrize("share", [0.1234567, 1e-7, 1 / 3])
def test_shares_come_back_exactly(share: float, tmp_path: Path) -> None:
    write_split(tmp_path / "splits.csv", Split({}, Shares(3, share, share)))
    assert read_split(tmp_path / "splits.csv").shares == Shares(3, share, share)


def test_a_patient_of_two_spellings_is_refused_before_it_is_in_two_parts() -> None:
    with pytest.raises(UserError, match="'P1' and 'p1' differ in spelling alone"):
        extend(Split({}, Shares()), {"a": "P1", "b": "p1"})
    with pytest.raises(UserError, match="'P1' and '\uff301'"):
        extend(Split({"a": Line("P1", "train")}, Shares()), {"b": "\uff301"})


def test_slides_that_are_their_own_patients_may_have_names_alike(tmp_path: Path) -> None:
    split = extend(Split({}, Shares()), {"1": "1", "01": "01", "x/7": "x/7"})
    write_split(tmp_path / "splits.csv", split)
    assert read_split(tmp_path / "splits.csv") == split


def test_the_bundled_models_split_is_whole() -> None:
    split = read_split(Path(__file__).parents[2] / "configs" / "demo" / "splits.csv")
    assert split.lines["histology_100"].part == "validation"  # the bundled slide
    histology = [slide for slide in split.slides("train") if slide.startswith("histology")]
    assert len(histology) == 194


def test_folds_keep_patients_together_and_labels_even() -> None:
    rng = np.random.default_rng(0)
    label_of = {
        patient: str(rng.choice(["IDC", "ILC", "other"], p=[0.7, 0.2, 0.1])) for patient in set(COHORT.values())
    }
    patients = [COHORT[slide] for slide in COHORT]
    labels = [label_of[patient] for patient in patients]
    found = folds(patients, labels, 5)
    assert len(set(zip(patients, found, strict=True))) == len(label_of)
    for label in set(labels):
        sizes = [sum(f == fold and x == label for f, x in zip(found, labels, strict=True)) for fold in range(5)]
        assert max(sizes) - min(sizes) <= 2, (label, sizes)  # one patient, of two slides
    order = rng.permutation(len(patients))
    assert (folds([patients[i] for i in order], [labels[i] for i in order], 5) == found[order]).all()
    assert (folds(patients, labels, 5, seed=1) != found).any()
    with pytest.raises(UserError, match="label ILC has 1 patients, expected at least 2"):
        folds(["a", "b", "c"], ["IDC", "IDC", "ILC"], 2)


def test_training_writes_the_split_of_a_cohort_that_has_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A1-A0SB-01Z-00-DX2", "TCGA-A1-A0SC-01Z-00-DX1"):
        toy.slide(tmp_path / f"{name}.h5")
    config = OmegaConf.create({"data": {"cohort": str(tmp_path), "split": None}})
    split_when_absent(config)
    assert "2 patients" in capsys.readouterr().out
    first = (tmp_path / "splits.csv").read_text()
    toy.slide(tmp_path / "TCGA-A1-A0SD-01Z-00-DX1.h5")
    split_when_absent(config)  # further slides are added by the user
    assert (tmp_path / "splits.csv").read_text() == first
    (tmp_path / "splits.csv").unlink()
    config.data.split = "elsewhere.csv"
    split_when_absent(config)
    assert not (tmp_path / "splits.csv").exists()
