"""The commands, end to end on a toy model and a toy slide."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures import toy
from ldm.checkpoint import load_weights, save_weights
from ldm.cli import evaluate, features, joint, superres, zoomldm
from ldm.cli import sample as sample_patches
from ldm.commands.out_folder import out_folder
from ldm.errors import UserError, cli
from ldm.pipeline import ZoomLDM


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    return ["--model", str(world / "zoomldm"), "--out", str(out), "--steps", "2", "--device", "cpu", *more]


def test_patches_from_a_slide_are_drawn_beside_the_real_ones(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample_patches.main(arguments(world, tmp_path, "--from", str(world / "slide.h5"), "--count", "2"))
    sheet = tmp_path / "contact_sheet.png"
    assert capsys.readouterr().out.strip() == str(sheet)
    expected = {f"{scale}_{i}.png" for scale in toy.SCALES for i in range(2)}
    assert {file.name for file in tmp_path.iterdir()} == expected | {"contact_sheet.png"}
    assert Image.open(sheet).width > 4 * toy.TILE_PX
    assert Image.open(tmp_path / "5x_0.png").size == (toy.TILE_PX, toy.TILE_PX)


def test_patches_from_the_cdm(world: Path, tmp_path: Path) -> None:
    sample_patches.main(arguments(world, tmp_path, "--cdm", str(world / "cdm"), "--count", "2", "--scales", "5x"))
    assert {file.name for file in tmp_path.iterdir()} == {"5x_0.png", "5x_1.png", "contact_sheet.png"}


def test_patch_i_depends_on_seed_plus_i_alone(world: Path, tmp_path: Path) -> None:
    given = ("--from", str(world / "slide.h5"), "--scales", "10x")
    sample_patches.main(arguments(world, tmp_path / "three", *given, "--count", "3"))
    sample_patches.main(arguments(world, tmp_path / "last", *given, "--count", "1", "--seed", "2"))
    first, second = (np.asarray(Image.open(tmp_path / run / "10x_2.png")).astype(int) for run in ("three", "last"))
    assert np.abs(first - second).mean() < 1  # a latent on the border of two codes may take either


def test_a_slide_without_images_shows_its_decoded_latents(world: Path, tmp_path: Path) -> None:
    bare = toy.slide(tmp_path / "bare.h5", images=False)
    sample_patches.main(arguments(world, tmp_path, "--from", str(bare), "--count", "1", "--scales", "20x"))
    assert (tmp_path / "contact_sheet.png").is_file()


def test_latents_of_another_autoencoder_are_not_decoded_but_their_slide_is_a_condition(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ZoomLDM.load(world / "zoomldm").latents_id
    for name, latents_id in (("own", own), ("other", "0123456789ab")):
        slide = toy.slide(tmp_path / f"{name}.h5", images=False, slide_id="s", latents_id=latents_id)
        given = ("--from", str(slide), "--count", "1", "--scales", "20x")
        sample_patches.main(arguments(world, tmp_path / name, *given))
    assert capsys.readouterr().out.count("other.h5: has neither images nor latents of this model's autoencoder") == 1
    first, second = ((tmp_path / name / "20x_0.png").read_bytes() for name in ("own", "other"))
    assert first == second
    wide, narrow = (Image.open(tmp_path / name / "contact_sheet.png").width for name in ("own", "other"))
    assert wide - narrow >= toy.TILE_PX  # the decoded one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "uni-0123"}, "encoder is uni-0123, but .* is toy"),
        ({"tile_px": 64}, "tile_px is 64, but .* is 32"),
    ],
)
def test_a_slide_of_another_kind_is_refused(
    world: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    other = toy.slide(tmp_path / "other.h5", **changes)
    with pytest.raises(UserError, match=message):
        sample_patches.main(arguments(world, tmp_path, "--from", str(other)))


def test_a_slide_of_another_ladder_is_refused(world: Path, tmp_path: Path) -> None:
    run = toy.run_folder(tmp_path / "satellite", "zoomldm", ladder={"kind": "satellite", "scales": 3})
    given = ["--model", str(run), "--from", str(world / "slide.h5"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"kind is histology, but .* is satellite"):
        sample_patches.main(given)


def test_mistakes_end_in_one_line_and_status_2(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample_patches.py", *arguments(world, tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli(sample_patches.main)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --from: no conditions for")
    assert told.count("\n") == 1


def test_more_images_than_memory_holds_are_refused_before_any_is_made(world: Path, tmp_path: Path) -> None:
    for count in ("1000000000", "100000000"):
        with pytest.raises(UserError, match=f"--count: {count} images of a scale need about .* GB of memory"):
            sample_patches.main(arguments(world, tmp_path / "out", "--from", str(world / "slide.h5"), "--count", count))
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_slide(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, expected one slide"):
        sample_patches.main(arguments(world, tmp_path, "--from", str(world)))


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("by_link", [False, True])
def test_a_result_never_takes_the_place_of_an_input(world: Path, tmp_path: Path, by_link: bool) -> None:
    made = Path(picture(tmp_path / "made/image.png"))
    given = made
    if by_link:
        given = tmp_path / "links/image.png"
        given.parent.mkdir()
        given.symlink_to(made)
    before, model = made.read_bytes(), ["--model", str(world / "zoomldm")]
    small = picture(tmp_path / "small/image.png")
    for run, options in (
        (superres.main, [small, "--truth", str(given)]),
        (superres.main, [str(given)]),
        (joint.main, ["--from", str(given), "--size", "64"]),
    ):
        with pytest.raises(
            UserError, match=r"made is where image\.png lies, which would be overwritten; choose another"
        ):
            run([*model, *options, "--out", str(made.parent)])
    assert made.read_bytes() == before
    assert list(made.parent.iterdir()) == [made]


def test_bags_do_not_go_into_the_cohort_where_they_would_be_taken_for_slides(world: Path, tmp_path: Path) -> None:
    cohort = toy.slide(tmp_path / "cohort/a.h5").parent
    for out in (cohort, cohort / "bags"):
        with pytest.raises(UserError, match=r"--out: .* lies in the cohort .*; choose a folder beside it"):
            features.main([str(cohort), "--model", str(world / "zoomldm"), "--out", str(out), "--accelerator", "cpu"])
    assert list(cohort.iterdir()) == [cohort / "a.h5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--truth", "a.png"], "--truth: a.png belongs to an image, but none is given"),
        (["--from", "a.h5"], "--from: a.h5 belongs to an image, but none is given"),
        ([__file__, "--place", "1,2"], "--place: 1,2 names a base tile of a slide; give its --from"),
    ],
)
def test_options_of_super_resolution_that_would_do_nothing_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        superres.main(options)


def test_an_interval_of_no_guidance_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for main, options in ((sample_patches.main, []), (evaluate.main, ["patches"])):
        with pytest.raises(UserError, match="--guidance-interval: limits a guidance, but --guidance is 1"):
            main([*options, "--guidance-interval", "0.3,3"])


ROOT = Path(__file__).parents[1]
COMMANDS = [
    *(["main.py"], ["data_prep/prepare.py"], ["data_prep/splits.py"], ["data_prep/crops.py"]),
    *([str(path.relative_to(ROOT))] for path in sorted((ROOT / "scripts").glob("*.py"))),
    *(["-m", "ldm.cli.zoomldm", *name] for name in ([], *([name] for name in zoomldm.COMMANDS))),
]
HEAVY = {"torch", "torchvision", "timm", "taming", "rasterio", "openslide", "pytorch_lightning", "scipy"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    """So it answers at once; whatever is heavy is imported where it is used."""
    told = subprocess.run(
        [sys.executable, "-X", "importtime", *command, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in told.stderr.splitlines()}
    assert imported & HEAVY == set()
    assert command[-1] != "ldm.cli.zoomldm" or "numpy" not in imported


def test_without_out_every_model_has_a_folder_of_its_own(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also two that are called alike."""
    monkeypatch.chdir(tmp_path)
    tensors = load_weights(world / "zoomldm/weights.safetensors")
    shutil.copytree(world / "zoomldm", tmp_path / "zoomldm", ignore=shutil.ignore_patterns("preview"))
    save_weights(tmp_path / "zoomldm/weights.safetensors", {name: 0.9 * tensor for name, tensor in tensors.items()})
    kept: dict[Path, bytes] = {}
    for model in (world / "zoomldm", tmp_path / "zoomldm"):
        given = ["--from", str(world / "slide.h5"), "--count", "1", "--scales", "5x", "--steps", "2"]
        sample_patches.main(["--model", str(model), *given])
        assert all(path.read_bytes() == content for path, content in kept.items())
        kept = {path: path.read_bytes() for path in Path("samples").rglob("5x_0.png")}
    assert len(kept) == 2


def test_no_command_with_a_model_has_one_default_folder_for_all() -> None:
    for command in (sample_patches, joint, superres):
        assert command.parse_args([]).out is None
    assert features.parse_args(["cohort"]).out is None
    for name in evaluate.COUNTS:
        assert evaluate.parse_args([name]).out is None


def test_the_usual_folder_is_the_demo_model_s(demo: ZoomLDM) -> None:
    def folder(**options: str | None) -> Path:
        return out_folder(
            argparse.Namespace(**{"out": None, "model": "demo", "cdm": None, **options}), "samples/x", demo
        )

    assert demo.cdm is not None
    assert folder() == Path("samples/x")
    assert folder(out="own") == Path("own")
    assert folder(model="satellite") == Path("samples/x/satellite")
    assert folder(model="run") == Path("samples/x") / demo.id
    assert folder(cdm="other") == Path("samples/x") / f"{demo.id}+{demo.cdm.id}"
