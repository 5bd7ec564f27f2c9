"""The CSV reader: output of spreadsheets is accepted, what would be misread is refused."""

import re
from pathlib import Path

import pytest

from ldm.errors import UserError
from ldm.support.csv_table import alike, read_csv


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,x\n2,\n",
        "\ufeffa,b\r\n1,x\r\n2,\r\n",
        "# made by hand\n\n a , b \n  # and edited\n1 , x\n,,\n2,\n",
        "a,b\r1,x\r2,",
        '"a","b"\n"1","x"\n"2",""\n',
        ",a,b,\n0,1,x,\n1,2,,\n",  # a spreadsheet's index, and commas at the end
    ],
)
def test_one_table_in_the_ways_that_it_is_saved(tmp_path: Path, content: str) -> None:
    rows = read_csv(file(tmp_path, content), ["a"]).rows
    assert [row.cells for row in rows] == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]


def test_lines_are_those_of_the_file_and_text_is_composed(tmp_path: Path) -> None:
    rows = read_csv(file(tmp_path, '# one\na\n\n"u\u0308, x"\n'), ["a"]).rows
    assert rows == [(4, {"a": "\u00fc, x"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a;b\n1;2\n", r"line 1: has the columns a;b; expected a,b,\[c\]; it is separated by semicolons: save"),
        ("a\tb\n1\t2\n", "line 1: .* it is separated by tabs"),
        ("b,c\n1,2\n", "line 1: has the columns b, c; expected a,b"),
        ("a,b\n1,2\n3\n", "line 3: '3' found, 1 cells, expected 2; an empty cell needs its comma too"),
        ("a,b\n1,2,3\n", "line 2: '1,2,3' found, 3 cells, expected 2; quote cells that hold commas"),
        ('a,b\n1,"2\n3,4\n5,"6\n', 'line 2: .*1,"2.* found .*; a quote is closed on its line'),
        ('a,b\n1,"2"x\n', "line 2: "),
        ("a,b,a\n1,2,3\n", "line 1: has two columns a"),
        ("a,b\n1,2\x00\n", "line 2: .* control characters"),
        ("", "line 1: has the columns nothing"),
        ("# only this\n", "line 1: has the columns nothing"),
        ("a,b\n1,é\n".encode("latin-1"), "not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_what_would_be_misread_is_refused_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_csv(path, ["a", "b"], ["c"])
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read (")):
            read_csv(path, ["a"])


@pytest.mark.parametrize(
    ("one", "other"), [("Yes", "yes "), ("1", "1.0"), ("0123", "123"), ("\uff29\uff2c\uff23", "ilc"), ("a\u200b", "A")]
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert alike(one) == alike(other)


@pytest.mark.parametrize(
    ("one", "other"), [("1000001", "1000002"), ("12345678901234567", "12345678901234568"), ("1e5", "100000")]
)
def test_names_that_differ(one: str, other: str) -> None:
    assert alike(one) != alike(other)
