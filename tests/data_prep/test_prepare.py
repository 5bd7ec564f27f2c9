"""The command: slides in, a cohort of whole files out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange, reduce

from data_prep import networks
from data_prep import prepare_slide as pass_over
from data_prep.config import Encoder, PrepareConfig, Rungs, load_prepare_config
from data_prep.encoders import load_encoder
from data_prep.prepare import main, prepare
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from tests.data_prep.slides import tissue_image, write_slide

SCALES, TILE = 5, 32
DEMO = Path(__file__).parents[2] / "configs" / "demo" / "data.yaml"


@pytest.fixture
def cohort(tmp_path) -> PrepareConfig:
    write_slide(tmp_path / "slides" / "a.tiff", [tissue_image(400, 900, 1)], 0.5)
    write_slide(tmp_path / "slides" / "sub" / "b 1.tiff", [tissue_image(256, 256, 2)], 0.5)
    return PrepareConfig(
        slides=str(tmp_path / "slides"),
        out=str(tmp_path / "out"),
        ladder=Rungs("histology", SCALES),
        encoder=Encoder("demo"),
        autoencoder=None,
        tile_px=TILE,
        images="png",
    )


def variant(config: PrepareConfig, **changes: object) -> PrepareConfig:
    return PrepareConfig(**{**vars(config), **changes})


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*.h5")}


def test_regions_are_the_slide_at_their_scale(cohort):
    assert [report.status for report in prepare(cohort)] == ["prepared", "prepared"]
    image = np.full((512, 1024, 3), 255, np.uint8)
    image[:400, :900] = tissue_image(400, 900, 1)
    slide = SlideFile(Path(cohort.out) / "a.h5")
    assert (slide.attrs["width_l0"], slide.attrs["height_l0"], slide.attrs["slide_id"]) == (900, 400, "a")
    for scale in slide.ladder:
        side = TILE * scale.downsample
        rows = range(slide.count(scale.name))
        assert len(rows) > 0
        for (i, j), pixels in zip(slide.ij(scale.name), slide.images(scale.name, rows), strict=True):
            base = image[i * side : (i + 1) * side, j * side : (j + 1) * side].astype(np.float64)
            means = reduce(base, "(h a) (w b) c -> h w c", "mean", a=scale.downsample, b=scale.downsample)
            np.testing.assert_array_equal(pixels, np.floor(means + 0.5))
        assert (slide.tissue(scale.name) >= 0.1).all()


def test_embeddings_are_those_of_the_base_tiles_and_their_means(cohort):
    prepare(cohort)
    slide, encoder = SlideFile(Path(cohort.out) / "a.h5"), load_encoder("demo")
    rows = list(range(slide.count("20x")))
    tiles = torch.from_numpy(np.stack(slide.images("20x", rows)))
    base, means = (slide._read(f"embeddings/{level}").astype(np.float32) for level in (0, 1))
    i, j = slide.ij("20x").T
    np.testing.assert_allclose(base[i, j], encoder(tiles).numpy(), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(reduce(base, "(r a) (c b) d -> r c d", "mean", a=2, b=2), means, rtol=4e-3, atol=4e-3)
    blank = base[13:].reshape(-1, base.shape[-1])  # below the slide's edge
    assert (blank == blank[0]).all()
    assert [slide.embedding(scale.name, 0).shape[1:] for scale in slide.ladder] == [(g, g) for g in (1, 2, 4, 8, 8)]


def test_latents_are_the_autoencoders_unquantised(cohort, monkeypatch):
    torch.manual_seed(0)
    tiny = Autoencoder(width=32, multipliers=(1, 2), blocks=1, codes=16, patch=2, norm="pixel", attention=False).eval()
    monkeypatch.setattr(networks, "load_autoencoder", lambda _: (tiny, "tiny-1"))
    prepare(variant(cohort, autoencoder="tiny"))
    slide = SlideFile(Path(cohort.out) / "a.h5")
    assert (slide.attrs["autoencoder"], slide.attrs["latents_id"]) == ("tiny-1", tiny.latents_id())
    for name in slide.attrs["scales"]:
        rows = range(slide.count(name))
        pixels = torch.from_numpy(np.stack(slide.images(name, rows))).float() / 127.5 - 1
        with torch.inference_mode():
            expected = tiny.encode(rearrange(pixels, "n h w c -> n c h w"))
        torch.testing.assert_close(slide.latents(name, rows), expected, rtol=2e-3, atol=2e-3)


def test_a_rerun_keeps_whole_files_and_makes_the_same_bytes_again(cohort):
    prepare(cohort)
    first = contents(cohort.out)
    target = Path(cohort.out) / "a.h5"
    target.write_bytes(first["a.h5"][:1000])  # cut short
    assert [report.status for report in prepare(cohort)] == ["prepared", "kept"]
    assert contents(cohort.out) == first
    changed = variant(cohort, regions_per_scale=2)
    reports = prepare(changed)
    assert [report.status for report in reports] == ["prepared", "prepared"]
    assert max(reports[0].regions.values()) == 2
    assert not list(Path(cohort.out).rglob("*.partial"))


def test_files_do_not_depend_on_the_number_of_workers(cohort):
    prepare(cohort)
    two = variant(cohort, workers=2, out=f"{cohort.out}2")
    prepare(two)
    assert contents(two.out) == contents(cohort.out)


def test_a_failure_midway_leaves_nothing_under_the_slides_name(cohort, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(pass_over, "write_pyramid", fail)
    assert {report.status for report in prepare(cohort)} == {"failed"}
    assert contents(cohort.out) == {}
    assert list(Path(cohort.out).rglob(".*")) == []


def test_a_bad_slide_does_not_stop_the_cohort(cohort, capsys):
    Path(cohort.slides, "c.svs").write_bytes(b"not a slide")
    write_slide(Path(cohort.slides) / "d.tiff", [tissue_image(256, 256)], None)
    command = ["--config", str(DEMO), f"slides={cohort.slides}", f"out={cohort.out}", "pattern='**/*'", "tile_px=32"]
    assert main([*command, "generate=null", "autoencoder=null"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].endswith("failed: c, d")
    reports = json.loads(Path(cohort.out, "report.json").read_text())
    assert {report["slide_id"]: report["status"] for report in reports} == {
        "a": "prepared",
        "c": "failed",
        "d": "failed",
        "sub/b_1": "prepared",
    }
    assert "does not say its um per pixel" in reports[2]["message"]


def test_two_slides_of_one_name_are_refused_and_the_others_prepared(cohort):
    write_slide(Path(cohort.slides) / "a.tif", [tissue_image(256, 256)], 0.5)
    first, second = prepare(cohort)
    assert (first.status, second.status) == ("failed", "prepared")
    assert re.search(r"a\.tif and .*a\.tiff would both be a; rename one", first.message)


def test_demo_slides_are_drawn_when_they_are_absent(tmp_path, capsys):
    overrides = [
        f"slides={tmp_path / 'slides'}",
        f"out={tmp_path / 'out'}",
        "generate.count=1",
        "generate.size_px=1024",
        "tile_px=64",
        "autoencoder=null",
    ]
    assert main(["--config", str(DEMO), *overrides]) == 0
    assert "1 of 1 slides" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["histology_100.h5", "report", "report.json"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tile_px=100", "multiple of 16"),
        ("images=gif", "'jpeg' or 'png'"),
        ("tissue_share=2", "2 found, expected at most 1"),
        ("workers=-1", "at least 0"),
        ("shard=3/3", "I from 0 to N - 1"),
        ("devices=0", "at least 1 or 'auto'"),
        ("encoder={nam: demo}", r"no nam; did you mean name\? it takes name, weights"),
        ("ladder=histology", "expected a mapping"),
    ],
)
def test_settings_out_of_range_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        load_prepare_config([DEMO], [override])
