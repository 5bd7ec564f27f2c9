"""The report shows the outcome of every slide, failed ones first, and escapes names."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from benchmarks.fixtures.slides import tissue_image, write_slide
from benchmarks.robustness import prepared_cohort
from data_prep import preparation, prepare
from data_prep.preparation_config import PrepareConfig
from data_prep.report.outcomes import Records, SlideReport, waiting
from data_prep.report.page import page
from data_prep.workers import attempt
from ldm.data.h5 import SlideFile


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    return prepared_cohort.variant(prepared_cohort.make(tmp_path, 2), autoencoder=None, images=None)


def test_the_page_shows_each_slide_and_failed_ones_first(config: PrepareConfig) -> None:
    Path(config.slides, "a broken one.svs").write_bytes(b"<html>")
    preparation.prepare(config)
    html = Path(config.out, "report", "index.html").read_text()
    assert re.findall(r'<tr class="(\w+)"', html) == ["failed", "prepared", "prepared"]
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert sorted(set(links)) == ["0.jpg", "1.jpg"]
    for link in links:
        picture = np.asarray(Image.open(Path(config.out, "report", link)).convert("RGB")).astype(int)
        blue = (picture[..., 2] > 150) & (picture[..., :2].max(-1) < 120)
        green = (picture[..., 1] - picture[..., [0, 2]].max(-1)) > 20
        assert 0.002 < blue.mean() < 0.2
        assert 0.002 < green.mean() < 0.2


def test_names_and_messages_are_text(config: PrepareConfig) -> None:
    seen: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            seen.append(tag)

    hostile = '<script>alert("1")</script>\'"&'
    record = Path(config.out, "report", f'"><script>{1}<.jpg')
    record.parent.mkdir(parents=True)
    record.touch()
    reports = [SlideReport(hostile, hostile, "failed", message=hostile), SlideReport(record.stem, hostile, "prepared")]
    Tags().feed(page(config, reports))
    assert "script" not in seen
    assert "img" in seen


def test_a_fault_of_the_program_is_logged_and_the_others_go_on(
    config: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = attempt.plan_slide

    def faulty(task: attempt.Task, *arguments: object) -> object:
        if task.slide_id == "0":
            raise KeyError("no such thing")
        return planned(task, *arguments)

    monkeypatch.setattr(attempt, "plan_slide", faulty)
    first, second = preparation.prepare(config)
    assert (first.status, second.status) == ("failed", "prepared")
    log = Path(config.out, "report", "0.log")
    assert re.search(r"0\.tiff: KeyError at test_outcomes\.py:\d+ \('no such thing'\); its traceback", first.message)
    assert str(log) in first.message
    assert "no such thing" in log.read_text()
    assert "Traceback" in log.read_text()


def test_shards_and_their_reports_add_up(config: PrepareConfig) -> None:
    write_slide(Path(config.slides) / "2.tiff", [tissue_image(256, 256)], 0.5)
    assert [r.slide_id for r in preparation.prepare(prepared_cohort.variant(config, shard="1/2"))] == ["1"]
    found = {r["slide_id"]: r["status"] for r in json.loads(Path(config.out, "report.json").read_text())}
    assert found == {"0": "waiting", "1": "prepared", "2": "waiting"}
    preparation.prepare(prepared_cohort.variant(config, shard="0/2"))
    found = {r["slide_id"]: r["status"] for r in json.loads(Path(config.out, "report.json").read_text())}
    assert found == dict.fromkeys("012", "prepared")


def test_a_killed_run_has_said_what_waits(config: PrepareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert waiting(config.out) == []
    told: list[list[str]] = []
    attempted = preparation.attempt

    def watched(task: attempt.Task, *arguments: object) -> SlideReport:
        told.append(waiting(config.out))  # as a killed process would leave it
        return attempted(task, *arguments)

    monkeypatch.setattr("data_prep.preparation.attempt", watched)
    preparation.prepare(config)
    assert told == [["0", "1"], ["0", "1"]]
    assert waiting(config.out) == []


def test_what_another_process_reports_meanwhile_is_not_done_again(config: PrepareConfig) -> None:
    preparation.prepare(config)
    records = Records(config.out, ["0", "1"])
    assert records.news("0") is None
    told = SlideReport("0", "0.tiff", "failed", message="elsewhere")
    records.write(told)
    assert records.news("0") == told
    assert records.news("1") is None


def test_an_infrared_band_that_is_no_mask_is_told_wherever_the_slide_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bands = np.random.default_rng(0).integers(20, 200, (4, 128, 128), dtype=np.uint8)
    bands[3, :, :64] = 0
    layout = {"driver": "GTiff", "count": 4, "height": 128, "width": 128, "dtype": "uint8", "crs": "EPSG:32614"}
    (tmp_path / "scenes").mkdir()
    with rasterio.open(tmp_path / "scenes" / "naip.tif", "w", transform=from_origin(4e5, 4e6, 1, 1), **layout) as file:
        file.write(bands)
    (tmp_path / "c.yaml").write_text(
        f"slides: {tmp_path / 'scenes'}\nout: {tmp_path / 'out'}\nladder: {{kind: satellite, scales: 3}}\n"
        "encoder: {name: demo}\nautoencoder: null\ntile_px: 32\nimages: png\n"
    )
    for status in ("prepared", "kept"):
        assert prepare.main(["--config", str(tmp_path / "c.yaml")]) == 0
        assert "naip: band 4 is tagged alpha, but " in capsys.readouterr().out
        (report,) = json.loads((tmp_path / "out" / "report.json").read_text())
        assert (report["status"], len(report["notes"])) == (status, 1)
        assert report["notes"][0] in (tmp_path / "out" / "report" / "index.html").read_text()
    slide = SlideFile(tmp_path / "out" / "naip.h5")
    assert slide.count("1x") == 16
    patch = slide.images("1x", [0])[0]
    np.testing.assert_array_equal(patch, np.moveaxis(bands[:3, :32, :32], 0, -1))
