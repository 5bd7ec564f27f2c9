"""The command that makes and shows a split."""

from pathlib import Path

import pytest

from benchmarks.fixtures import toy
from data_prep.splits import main
from ldm.data.split_file import read_split
from ldm.errors import UserError


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    for number in range(12):
        toy.slide(tmp_path / "cohort" / f"TCGA-A1-{number // 2:04}-01Z-00-DX{number % 2}.h5")
    return tmp_path / "cohort"


def test_patients_stay_together_and_the_table_counts_them(cohort: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--cohort", str(cohort)])
    header, *parts, origin, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["part", "patients", "slides", "20x", "10x", "5x"]
    split = read_split(cohort / "splits.csv")
    for line in parts:
        part, patients, slides, base, *_ = line.split()
        assert int(slides) == len(split.slides(part)) == 2 * int(patients) > 0
        assert int(base.replace(",", "")) == 64 * int(slides)
    assert origin == "patients: 12 from barcodes or the file"
    assert last == f"{cohort / 'splits.csv'}: 12 slides added, 0 were there"


def test_a_second_call_changes_nothing_and_a_third_adds(cohort: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--cohort", str(cohort), "--validation", "0.3", "--seed", "4"])
    first = (cohort / "splits.csv").read_text()
    main(["--cohort", str(cohort)])
    assert (cohort / "splits.csv").read_text() == first
    toy.slide(cohort / "sub" / "new.h5")
    toy.slide(cohort / "TCGA-A1-0003-01Z-00-DX7.h5")
    main(["--cohort", str(cohort)])
    later = (cohort / "splits.csv").read_text()
    assert set(first.splitlines()) < set(later.splitlines())
    assert "2 slides added, 12 were there" in capsys.readouterr().out
    split = read_split(cohort / "splits.csv")
    assert split.lines["TCGA-A1-0003-01Z-00-DX7"] == split.lines["TCGA-A1-0003-01Z-00-DX0"]
    with pytest.raises(UserError, match=r"was made with seed=4 validation=0\.3 test=0\.05"):
        main(["--cohort", str(cohort), "--seed", "5"])


def test_a_table_says_who_is_who(cohort: Path, tmp_path: Path) -> None:
    """Rows of slides that are not prepared are left alone."""
    rows = [f"TCGA-A1-{number // 2:04}-01Z-00-DX{number % 2},P{number // 4}" for number in range(12)]
    (tmp_path / "slides.csv").write_text("\n".join(["slide,patient", *rows, "elsewhere,P9"]))
    out = tmp_path / "other.csv"
    main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv"), "--out", str(out)])
    assert {line.patient for line in read_split(out).lines.values()} == {"P0", "P1", "P2"}
    assert not (cohort / "splits.csv").exists()
    main(["--cohort", str(cohort)])
    told = r"12 slides differ, .* first \(patient TCGA-A1-0000 there, P0 in .*\); if nothing was trained on it, delete"
    with pytest.raises(UserError, match=f"{cohort / 'splits.csv'}: was made with other patients: {told}"):
        main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv")])
    (tmp_path / "slides.csv").write_text("slide,label\na,b\n")
    with pytest.raises(UserError, match="columns are slide, label, without patient"):
        main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv"), "--out", str(out)])


@pytest.mark.parametrize("rows", ["", "other,P1\nanother,P2\n"])
def test_a_table_of_other_slides_is_refused(cohort: Path, tmp_path: Path, rows: str) -> None:
    """Each slide would be a patient of its own, and the patients of the table in several parts."""
    (tmp_path / "slides.csv").write_text(f"slide,patient\n{rows}")
    with pytest.raises(UserError, match=r"slides.csv: none of its [02] rows .* names one of the 12 slides"):
        main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv")])
    with pytest.raises(UserError, match="--table: found beside --by slide"):
        main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv"), "--by", "slide"])
    assert not (cohort / "splits.csv").exists()


def test_slides_without_a_row_are_counted(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "slides.csv").write_text("slide,patient\nTCGA-A1-0000-01Z-00-DX0,P0\n")
    main(["--cohort", str(cohort), "--table", str(tmp_path / "slides.csv")])
    assert "slides.csv: has no row for 11 of 12 slides: TCGA-A1-0000-01Z-00-DX1, " in capsys.readouterr().out


def test_slides_can_be_their_own_patients(cohort: Path) -> None:
    main(["--cohort", str(cohort), "--by", "slide"])
    assert all(slide == line.patient for slide, line in read_split(cohort / "splits.csv").lines.items())


def test_leakage_by_hand_is_refused(cohort: Path) -> None:
    main(["--cohort", str(cohort)])
    path = cohort / "splits.csv"
    path.write_text(path.read_text().replace("0000-01Z-00-DX1,TCGA-A1-0000,train", "0000-01Z-00-DX1,TCGA-A1-0000,test"))
    with pytest.raises(UserError, match=r"patient TCGA-A1-0000 is in train .* and in test"):
        main(["--cohort", str(cohort)])
