"""The command `prepare`: from slides to a cohort of complete files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from PIL import Image

from benchmarks.fixtures import toy
from benchmarks.fixtures.slides import tissue_image, write_slide
from benchmarks.robustness.prepared_cohort import contents, variant
from data_prep import prepare_slide as pass_over
from data_prep.preparation import command, prepare
from data_prep.preparation_config import EncoderConfig, LadderConfig, PrepareConfig
from data_prep.prepare import main
from data_prep.settings import fingerprint
from data_prep.slides.find import left_out
from data_prep.workers import networks
from data_prep.workers.one_setting import NAME, check_folder, claim_folder
from ldm.data.h5 import SlideFile
from ldm.demo.world import generate
from ldm.encoders.tile_encoders import load_encoder
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from ldm.support.files import writer

SCALES, TILE = 5, 32
DEMO = Path(__file__).parents[2] / "configs" / "demo" / "data.yaml"


@pytest.fixture
def cohort(tmp_path) -> PrepareConfig:
    write_slide(tmp_path / "slides" / "a.tiff", [tissue_image(400, 900, 1)], 0.5)
    write_slide(tmp_path / "slides" / "sub" / "b 1.tiff", [tissue_image(256, 256, 2)], 0.5)
    return PrepareConfig(
        slides=str(tmp_path / "slides"),
        out=str(tmp_path / "out"),
        ladder=LadderConfig("histology", SCALES),
        encoder=EncoderConfig("demo"),
        autoencoder=None,
        tile_px=TILE,
        images="png",
    )


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
    prepare(variant(cohort, autoencoder=__file__))
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
    assert not list(Path(cohort.out).rglob("*.partial"))


def test_other_settings_are_refused_beside_what_is_there(cohort):
    prepare(cohort)
    before = contents(cohort.out)
    with pytest.raises(UserError, match=r"out/a\.h5: .*regions_per_scale is nothing, but this command has 2; choose"):
        prepare(variant(cohort, regions_per_scale=2))
    two = variant(cohort, tissue_share={"20x": 0.5}, images="jpeg", shard="1/2")
    with pytest.raises(UserError, match=r"tissue_share is \{.*0\.1.* has \{'20x': 0\.5.*; images is png, .* jpeg"):
        prepare(two)
    assert contents(cohort.out) == before
    prepare(variant(cohort, workers=1, batch_size=3, mpp=0.5))  # settings that may differ within a cohort
    write_slide(Path(cohort.slides) / "c.tiff", [tissue_image(256, 256, 3)], 0.5)
    assert [report.status for report in prepare(variant(cohort, mpp=0.5))] == [
        "kept",
        "prepared",
        "kept",
    ]


def test_preparations_that_begin_together_agree_before_a_file_is_there(tmp_path):
    wanted, other = {"seed": 0, "partial": "pad"}, {"seed": 1, "partial": "pad"}
    claim_folder(tmp_path, wanted)
    claim_folder(tmp_path, wanted)
    path = tmp_path / NAME
    path.write_text(path.read_text().replace(writer(), "another-1-2"))  # of another machine: it may be running
    with pytest.raises(UserError, match=r"settings\.json: seed is 0, but this command has 1; .* nobody prepares"):
        claim_folder(tmp_path, other)
    with pytest.raises(UserError, match="seed is 0, but this command has 1"):
        check_folder(tmp_path, other)
    for ended in (writer().rpartition("-")[0] + "-0", writer()):  # it was of this machine and has ended, or is this one
        path.write_text(json.dumps({"writer": ended, "settings": wanted}))
        claim_folder(tmp_path, other)
        assert json.loads(path.read_text())["settings"] == other
    path.write_text("{")
    claim_folder(tmp_path, wanted)
    check_folder(tmp_path, wanted)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_files_without_settings_are_made_again_and_strangers_refused(cohort, capsys):
    toy.slide(Path(cohort.out) / "a.h5", settings='{"source": ["a.tiff"]}')
    assert [report.status for report in prepare(cohort)] == ["prepared", "prepared"]
    assert "1 files are damaged or do not record their settings" in capsys.readouterr().err
    toy.slide(Path(cohort.out) / "other.h5", settings="")
    with pytest.raises(UserError, match=r"other\.h5: lies in the cohort's folder, is none of its slides"):
        prepare(cohort)


def test_a_fingerprint_is_of_every_file_of_a_slide_and_all_of_it(tmp_path):
    slide, part = tmp_path / "a.mrxs", tmp_path / "b.dcm"
    rng = np.random.default_rng(0)
    for path in (slide, part, tmp_path / "a/Data0.dat", tmp_path / "a.mrxs.aux.xml"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.bytes(2**22))
    seen = [fingerprint(slide, (part,))]
    for path in (slide, part, tmp_path / "a/Data0.dat", tmp_path / "a.mrxs.aux.xml"):
        with path.open("r+b") as file:
            file.seek(2**21)
            file.write(b"other")
        seen.append(fingerprint(slide, (part,)))
        assert seen[-1] not in seen[:-1]


def test_a_slide_that_was_replaced_is_made_anew_and_said(cohort):
    prepare(cohort)
    write_slide(Path(cohort.slides) / "a.tiff", [tissue_image(400, 900, 7)], 0.5)
    first, second = prepare(cohort)
    assert (first.status, second.status, second.message) == ("prepared", "kept", "")
    assert "a.tiff: its file, um/px or imports changed" in first.message


def test_a_slide_without_a_region_fails_with_the_reason(cohort):
    write_slide(Path(cohort.slides) / "blank.tiff", [np.full((256, 256, 3), 240, np.uint8)], 0.5)
    reports = {report.slide_id: report for report in prepare(variant(cohort, tissue_share=1.0))}
    assert (reports["blank"].status, reports["a"].status) == ("failed", "prepared")
    assert "blank.tiff: no region of any scale can be kept; the largest shares of tissue are 0 at 20x (expected 1)" in (
        reports["blank"].message
    )
    assert not list(Path(cohort.out).glob("blank*"))


def test_a_file_says_of_how_many_regions_it_holds_some(cohort):
    prepare(cohort)
    few = variant(cohort, regions_per_scale=2, out=f"{cohort.out}2")
    prepare(few)
    all_of_it, some = (SlideFile(Path(config.out) / "a.h5") for config in (cohort, few))
    for name in some.ladder.names:
        assert some.eligible(name) == all_of_it.eligible(name) == all_of_it.count(name)
        assert some.count(name) == min(2, all_of_it.count(name))


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "histology_100.geojson",
        "histology_100.h5",
        "report",
        "report.json",
        "settings.json",
    ]


@pytest.mark.parametrize("key", ["autoencoder", "encoder.weights", "encoder.embeddings", "coordinates", "table"])
def test_what_the_config_names_and_is_not_there_is_told_before_networks_are_loaded(key, tmp_path, monkeypatch):
    monkeypatch.setattr(networks.LocalNetworks, "load", lambda *_: pytest.fail("networks were loaded"))
    absent = tmp_path / "absent"
    drawn = [f"slides={tmp_path / 'slides'}", "generate.count=12"]
    with pytest.raises(UserError, match=rf"{key}: {absent} does not exist"):
        main(["--config", str(DEMO), *drawn, f"out={tmp_path / 'out'}", f"{key}={absent}"])
    assert not (tmp_path / "slides").exists()


def test_no_demo_slide_is_drawn_among_somebody_s_files(cohort, tmp_path, capsys):
    before = sorted(Path(cohort.slides).rglob("*"))
    command = ["--config", str(DEMO), f"slides={cohort.slides}", f"out={cohort.out}", "tile_px=32", "autoencoder=null"]
    assert main(command) == 0
    assert sorted(Path(cohort.slides).rglob("*")) == before
    assert "holds files of your own, so no demo slide is drawn" in capsys.readouterr().err
    (tmp_path / "svs").mkdir()
    (tmp_path / "svs" / "mine.svs").touch()
    with pytest.raises(UserError, match=r"svs holds no slide that matches \*\.tiff"):
        main([*command, f"slides={tmp_path / 'svs'}"])
    with pytest.raises(UserError, match=r"mine\.svs: is a file, expected a folder"):
        main([*command, f"slides={tmp_path / 'svs' / 'mine.svs'}"])
    with pytest.raises(UserError, match="svs: holds files of your own; choose an empty folder"):
        generate(tmp_path / "svs", 1, 5, "histology", 1024)
    assert [path.name for path in (tmp_path / "svs").iterdir()] == ["mine.svs"]


def test_endings_that_are_read_are_found_and_others_are_named(tmp_path, cohort, capsys):
    folder = tmp_path / "many"
    for name in ("a.qptiff", "b.btf", "sub/c.tf8", "d.ptif"):
        write_slide(folder / name, [tissue_image(256, 256)], 0.5)
    picture = Image.fromarray(tissue_image(256, 256))
    for name in ("e.webp", "f.bmp"):
        picture.save(folder / name)
    (folder / "t.csv").write_text("slide,mpp\ne.webp,0.5\nf.bmp,0.5\n")
    (folder / "g.xyz").touch()
    (folder / ".hidden").touch()
    config = variant(cohort, slides=str(folder), out=str(folder / "out"), table=str(folder / "t.csv"))
    reports = prepare(config)
    assert [(report.slide_id, report.status) for report in reports] == [
        (name, "prepared") for name in ("a", "b", "d", "e", "f", "sub/c")
    ]
    assert left_out(config) == "left out, for no slide has this suffix: 1 of .xyz (g.xyz), 1 of .csv (t.csv)"
    empty = variant(config, slides=str(folder), pattern="*.xyz", table=None)
    with pytest.raises(UserError, match=r"no slide that matches \*\.xyz \(left out, .*g\.xyz"):
        prepare(empty)


@pytest.mark.parametrize("there", [False, True])
def test_demo_slides_are_drawn_into_a_named_folder_only_when_asked(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "mistyped"
    if there:
        folder.mkdir()
    with pytest.raises(UserError, match=rf"slides: {folder} .*; name a folder of slides, or .* generate.count=12"):
        command(str(DEMO), [f"slides={folder}", f"out={tmp_path / 'out'}"])
    assert list(tmp_path.glob("**/*.tiff")) == []


def test_a_setting_given_both_as_an_option_and_as_a_key_is_refused():
    with pytest.raises(UserError, match=r"workers: found both as --workers and as workers="):
        main(["--config", "demo", "workers={a: 1}", "--workers", "0"])
