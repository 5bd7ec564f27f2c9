"""Labels: two kinds, every slide once, patients where they are known."""

from pathlib import Path

import pytest

from ldm.data.labels import read_labels
from ldm.errors import UserError


def file(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_labels_are_numbered_in_order(tmp_path: Path) -> None:
    labels = read_labels(file(tmp_path, "slide,label,patient\na,ILC,p1\nb,IDC,p2\nTCGA-A1-A0SB-01Z-00-DX1.00,ILC,\n"))
    assert labels.names == ["IDC", "ILC"]
    assert labels.values.tolist() == [1, 0, 1]
    assert labels.patients == ["p1", "p2", "TCGA-A1-A0SB"]
    assert read_labels(file(tmp_path, "slide,label\na,10\nb,9\n")).names == ["9", "10"]


def test_spaces_mean_nothing_and_slides_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = read_labels(
        file(tmp_path, 'slide, label ,patient\n a,1,P1\nb ," 1", P1\nc,0 ,P2\nd,,P3\ne,NA,P4\nf, ,P5\n')
    )
    assert (labels.slides, labels.values.tolist()) == (["a", "b", "c"], [1, 1, 0])
    assert labels.patients == ["P1", "P1", "P2"]
    assert str(labels) == "1 0 and 2 1; 3 without a label: left out"


def test_what_says_that_nothing_is_known_is_neither_a_label_nor_a_patient(tmp_path: Path) -> None:
    labels = read_labels(file(tmp_path, "slide,label,patient\na,1,NA\nb,0,unknown\nc,?,P\nd,Missing,P\ne,#N/A,P\n"))
    assert (labels.slides, labels.patients, labels.unlabelled) == (["a", "b"], ["a", "b"], 3)
    assert read_labels(file(tmp_path, "slide,label\na,+\nb,-\n")).values.tolist() == [0, 1]


def test_barcodes_in_any_case_are_one_patient(tmp_path: Path) -> None:
    text = "slide,label,patient\ntcga-a1-a0sb-01z-00-dx1.00,0,\nTCGA-A1-A0SB-01Z-00-DX2.01,1,\nx,1,Tcga-a1-A0SB\n"
    assert read_labels(file(tmp_path, text)).patients == ["TCGA-A1-A0SB"] * 3


def test_only_slides_with_bags_are_kept(tmp_path: Path) -> None:
    labels = read_labels(file(tmp_path, "slide,label,patient\na,1,p1\nb,0,p2\nc,1,p3\n")).only({"b", "c", "z"})
    assert (labels.slides, labels.values.tolist(), labels.patients) == (["b", "c"], [0, 1], ["p2", "p3"])
    with pytest.raises(UserError, match="1 of 2 slides have bags, labelled 1; expected both 0 and 1"):
        labels.only({"c"})


def test_shuffling_keeps_slides_and_counts(tmp_path: Path) -> None:
    labels = read_labels(file(tmp_path, "slide,label\n" + "".join(f"s{i},{i % 3 == 0}\n" for i in range(30))))
    shuffled = labels.shuffled(1)
    assert shuffled.slides == labels.slides
    assert shuffled.values.sum() == labels.values.sum()
    assert (shuffled.values != labels.values).any()
    assert (shuffled.values == labels.shuffled(1).values).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,stage\na,1\n", r"line 1: has the columns slide, stage; expected slide,label,\[patient\]"),
        ("", "line 1: has the columns nothing; expected"),
        ("slide,label\na,1\nb,None\n", "line 3 has the label 'None', which may mean none or a kind; leave it empty"),
        ("slide,label\na,1\nb,-\n", "line 3 has the label '-'"),
        ("slide,label\na,1\na,0\n", "line 3 has a again, as line 2 does; remove one"),
        ("slide,label\na,1\nb,0\nc,2\n", r"has the labels 0 \(1\), 1 \(1\), 2 \(1\), expected two"),
        ("slide,label\na,1\n", r"has the labels 1 \(1\), expected two"),
        ("slide,label\na,1\nb,\nc,NA\n", r"has the labels 1 \(1\), expected two"),
        (
            "slide,label\na,Yes\nb,no\nc,yes\n",
            "line 2 has 'Yes' and line 4 'yes', labels that differ in spelling alone",
        ),
        ("slide,label\na,1\nb,1.0\n", "line 2 has '1' and line 3 '1.0', labels"),
        ("slide,label\na,0\nb,1\u200b\nc,1\n", "labels that differ"),
        ("slide,label,patient\na,0,P1\nb,1,p1\n", "line 2 has 'P1' and line 3 'p1', patients that differ"),
        ("slide,label\n,1\n", "line 2 names no slide"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(file(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
