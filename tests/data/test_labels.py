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
        ("slide,stage\na,1\n", "has slide, stage; expected"),
        ("", "has no rows; expected"),
        ("slide,label\na,1\na,0\n", "has a twice; expected every slide once"),
        ("slide,label\na,1\nb,0\nc,2\n", "labels 0, 1, 2; .* two labels"),
        ("slide,label\na,1\n", "labels 1; .* two labels"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(file(tmp_path, text))
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")
