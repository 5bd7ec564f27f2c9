"""The table: rows match slides and override files; names become ids that stay in the folder."""

import os
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks.fixtures.slides import tissue_image, write_slide
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig, load_prepare_config
from data_prep.slides.find import find_slides, shown
from data_prep.slides.metadata import match_rows, read_table
from data_prep.slides.slide import open_slide
from ldm.data.ids import is_safe_id, safe_id
from ldm.errors import UserError

SLIDES = {
    "a/x_1": "a/x 1.svs",
    "b/x_1": "b/x 1.tiff",
    "TCGA-A1-A0SB-01Z-00-DX1.00aa": "TCGA-A1-A0SB-01Z-00-DX1.00aa.svs",
}


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def matched(path: Path) -> dict[str, float | None]:
    return {slide_id: row.mpp for slide_id, row in match_rows(path, read_table(path), SLIDES).items()}


@pytest.mark.parametrize("name", ["a/x_1", "a/x 1.svs", "a/x 1", "x 1.svs"])
def test_a_row_names_its_slide_by_id_path_or_name(tmp_path, name):
    assert matched(table(tmp_path, f"slide,mpp\n{name},0.25\n")) == {"a/x_1": 0.25}


def test_columns_come_in_any_order_and_spreadsheets_leave_marks(tmp_path):
    path = table(tmp_path, '\ufeffpatient,mpp,slide,note\r\nP1,,a/x_1,"one, two"\r\n,,,\r\nP2, 0.5 , b/x_1,\r\n')
    first, second = read_table(path)
    assert (first.slide, first.mpp, first.values) == ("a/x_1", None, {"patient": "P1", "note": "one, two"})
    assert (second.slide, second.mpp, second.line) == ("b/x_1", 0.5, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,mpp\nc,0.5\n", "line 2 names c, which is none of the 3 slides"),
        ("slide,mpp\nx 1,0.5\n", "line 2 names x 1, which may be a/x_1 or b/x_1"),
        ("slide,mpp\na/x_1,0.5\nx 1.svs,0.5\n", "line 3 names x 1.svs, as line 2 does"),
        ("slide,mpp\na/x_1,0;25\n", "mpp 0;25 found, expected a number"),
        ("slide;mpp\na/x_1;0.5\n", "line 1: has the columns slide;mpp; expected slide.* separated by semicolons"),
        ("slide,mpp\n,0.5\n", "line 2 names no slide"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_line(tmp_path, text, message):
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        matched(path)
    assert "table.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tag", "mpp", "in_table", "found"),
    [
        (0.5, None, None, (0.5, "file")),
        (0.5, 0.5, None, (0.5, "file")),
        (None, 0.5, None, (0.5, "config")),
        (352.8, 0.5, None, (0.5, "config")),
        (0.25, None, 0.5, (0.5, "table")),
        (0.25, 0.4, 0.5, (0.5, "table")),
        (None, None, 0.5, (0.5, "table")),
    ],
)
def test_the_table_wins_and_a_global_mpp_stands_in_for_what_is_missing_or_absurd(tmp_path, tag, mpp, in_table, found):
    path = write_slide(tmp_path / "s.tiff", [tissue_image(64, 64)], tag)
    slide = open_slide(path, "histology", mpp, in_table)
    assert (slide.mpp, slide.mpp_from) == (pytest.approx(found[0], rel=1e-4), found[1])


def test_a_global_mpp_that_contradicts_a_plausible_tag_and_absurd_statements_are_refused(tmp_path):
    path = write_slide(tmp_path / "s.tiff", [tissue_image(64, 64)], 0.25)
    with pytest.raises(UserError, match=r"says 0\.25 um per pixel, but mpp=0\.5 is stated; .* a row in a table"):
        open_slide(path, "histology", 0.5)
    with pytest.raises(UserError, match=r"mpp of the table is 40 um per pixel, expected 0\.05 to 5"):
        open_slide(path, "histology", None, 40)


def cohort(tmp_path: Path, **more: object) -> PrepareConfig:
    common = {"ladder": LadderConfig("histology", 3), "encoder": EncoderConfig("demo"), "autoencoder": None}
    return PrepareConfig(slides=str(tmp_path / "slides"), out=str(tmp_path / "out"), **common, **more)


def test_slides_are_found_with_their_rows(tmp_path):
    for name in ("b.tiff", "sub/A 1.SVS", ".hidden.tiff", "notes.txt"):
        (tmp_path / "slides" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "slides" / name).touch()
    tasks = find_slides(cohort(tmp_path, table=str(table(tmp_path, "slide,mpp\nA 1,0.25\n"))))
    assert [(task.slide_id, task.mpp, task.refusal) for task in tasks] == [("b", None, ""), ("sub/A_1", 0.25, "")]
    assert tasks[1].target == tmp_path / "out" / "sub" / "A_1.h5"
    with pytest.raises(UserError, match="names c, which is none of the 2 slides"):
        find_slides(cohort(tmp_path, table=str(table(tmp_path, "slide,mpp\nc,0.25\n"))))


def test_a_slide_of_several_files_is_one(tmp_path):
    def dicom(name: str, series: bytes) -> None:
        tag = b"\x20\x00\x0e\x00UI" + len(series).to_bytes(2, "little") + series
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" + bytes(50) + tag + bytes(99))

    for name, series in (("a/1.dcm", b"1.2"), ("a/2.dcm", b"1.2"), ("a/3.dcm", b"1.3"), ("b/1.dcm", b"1.2")):
        dicom(name, series)
    folder = tmp_path / "slides"
    (folder / "v.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=v 0.jpg\nImageFile(1,0)=v 1.jpg\nNoLayers=1\n"
    )
    for name in ("v 0.jpg", "v 1.jpg", "other.jpg", "broken.dcm"):
        (folder / name).touch()
    found = [task.slide_id for task in find_slides(cohort(tmp_path))]
    assert found == ["a/1", "a/3", "b/1", "broken", "other", "v"]


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\x.svs",
        "図" * 90 + ".svs",
        "a/\u202e.svs",
        "a/...svs",
        "a b/ü.svs",
        "$(rm).svs",
        "a\n.svs",
        "x" * 250 + ".svs",
        os.fsdecode(b"M\xfc.svs"),
    ],
)
def test_an_id_is_a_place_below_the_output_folder_and_can_be_printed(tmp_path, name):
    slide_id = safe_id(Path(name).with_suffix("").as_posix())
    assert tmp_path in (tmp_path / f"{slide_id}.h5").resolve().parents
    assert all(0 < len(part) < 200 and not part.startswith(".") for part in slide_id.split("/"))
    assert is_safe_id(slide_id)
    assert all(len(part.encode()) < 200 for part in slide_id.split("/"))
    assert "\n" not in shown(Path(name))
    shown(Path(name)).encode()


def test_names_in_any_script_keep_their_letters(tmp_path):
    names = ["切片.svs", "切図.svs", "Müller 1.svs", "स्लाइड.svs", "ตัวอย่าง.svs", "слайд_№1.svs"]
    decomposed = "a\u0308.svs"
    for name in [*names, decomposed]:
        (tmp_path / "slides" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "slides" / name).touch()
    found = {task.slide_id for task in find_slides(cohort(tmp_path, table=str(table(tmp_path, "slide\n\u00e4.svs\n"))))}
    assert found == {"切片", "切図", "Müller_1", "स्लाइड", "ตัวอย่าง", "слайд__1", "\u00e4"}
    assert all(is_safe_id(slide_id) for slide_id in found)


def test_all_files_of_one_id_are_named_and_none_is_prepared(tmp_path):
    for name in ("a 1.svs", "a_1.tiff", "A_1.png", "b.svs"):
        (tmp_path / "slides" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "slides" / name).touch()
    first, second = find_slides(cohort(tmp_path))
    assert all(name in first.refusal for name in ("a 1.svs", "a_1.tiff", "A_1.png"))
    assert first.refusal.endswith("would all be A_1; rename all but one")
    assert (second.slide_id, second.refusal) == ("b", "")


@pytest.mark.parametrize(
    ("typed", "key", "expected"),
    [
        ("pattern=**/*", "pattern", "**/*"),
        ("pattern=*.svs", "pattern", "*.svs"),
        ("pattern='**/*'", "pattern", "**/*"),
        ('pattern="**/*.tiff"', "pattern", "**/*.tiff"),
        ("slides=2023", "slides", "2023"),
        ("slides=/data/a: b #1", "slides", "/data/a: b #1"),
        ("slides=C:\\slides", "slides", "C:\\slides"),
        ("table=null", "table", None),
        ("autoencoder=null", "autoencoder", None),
    ],
)
def test_names_and_patterns_stand_as_they_are_typed(typed, key, expected):
    file = Path(__file__).parents[3] / "configs" / "data_mine.yaml"
    assert getattr(load_prepare_config([file], [typed]), key) == expected


def test_shares_of_tissue_by_scale():
    config = PrepareConfig(
        slides="s",
        out="o",
        ladder=LadderConfig("histology", 5),
        encoder=EncoderConfig("demo"),
        autoencoder=None,
        tissue_share={"20x": 0.25, "1.25x": 0.05},
    )
    assert config.tissue_shares == (0.25, 0.1, 0.1, 0.1, 0.05)
    assert hash(config) == hash(PrepareConfig(**vars(config)))
    for shares, message in (({"3x": 0.1}, "3x is not on the histology ladder"), ({"20x": 2}, "between 0 and 1")):
        with pytest.raises(UserError, match=message):
            PrepareConfig(**{**vars(config), "tissue_share": shares})


@pytest.mark.parametrize("name", ["demo/data", "data_mine", "data_histology", "data_satellite"])
def test_every_key_stands_in_the_configs_so_that_a_command_can_change_it(name):
    file = Path(__file__).parents[3] / "configs" / f"{name}.yaml"
    keys = {field.name for field in fields(PrepareConfig)}
    assert keys - set(OmegaConf.load(file)) <= {"coordinates"}  # of tissue
    scale = load_prepare_config([file]).zooms.names[1]
    changed = load_prepare_config([file], [f"tissue_share={{{scale}: 0.3}}", "partial=skip", "table=slides.csv"])
    assert changed.tissue_shares[:2] == (0.1, 0.3)
