"""A dry run refuses what the start of the run would refuse, makes nothing, and says what this machine lacks."""

import json
import shutil
from pathlib import Path

import h5py
import pytest
import torch

import main
from benchmarks.fixtures import toy, training_cohort
from ldm.data.split_file import NAME
from ldm.errors import UserError
from ldm.support.bundled_models import WEIGHTS
from tests.test_doctor_slides import pictures

ROOT = Path(__file__).parents[2]
DEMO = str(ROOT / "configs/demo/zoomldm.yaml")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("cohort")
    toy.run_folder(folder / "other", "vq", tile_px=64)
    return training_cohort.make(folder)


def dry(overrides: list[str], *more: str) -> int:
    return main.main(["--base", DEMO, *overrides, *more, "--dry-run"])


def test_what_fits_is_counted_and_nothing_is_made(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(overrides[0].partition("=")[2])
    split = (folder / NAME).read_text()
    (folder / NAME).unlink()
    before = sorted(folder.iterdir())
    assert dry(overrides) == 0
    assert sorted(folder.iterdir()) == before
    (folder / NAME).write_text(split)
    assert dry(overrides) == 0
    printed = capsys.readouterr().out
    assert "168 regions, 2 slides" in printed
    assert "not here" not in printed
    assert list(tmp_path.iterdir()) == []


def reported(folder: Path, **statuses: str) -> None:
    """The report of a preparation of the slides of `folder` and others."""
    known = dict.fromkeys(("s0", "s1", "s2"), "prepared") | statuses
    reports = [{"slide_id": name, "status": status} for name, status in known.items()]
    (folder / "report.json").write_text(json.dumps(reports))


def test_slides_that_a_preparation_left_out_are_told(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(overrides[0].partition("=")[2], tmp_path / "cohort"))
    moved = [*overrides, f"data.cohort={folder}"]
    reported(folder)
    assert dry(moved) == 0
    assert "slides are prepared" not in capsys.readouterr().err
    reported(folder, s3="failed", s1="failed", s4="failed")  # s1 is there, from before
    assert dry(moved) == 0
    assert "cohort: 3 of 5 slides are prepared; 2 failed (s3 first): see" in capsys.readouterr().err


def test_a_stopped_preparation_that_the_training_continues_is_told(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(overrides[0].partition("=")[2], tmp_path / "cohort"))
    reported(folder, **{f"s{number}": "waiting" for number in range(3, 12)})
    preparation = tmp_path / "data.yaml"
    shutil.copy(ROOT / "configs/demo/data.yaml", tmp_path / "demo.yaml")
    scales = f"ladder: {{scales: {len(toy.SCALES)}}}\ntile_px: {toy.TILE_PX}\n"
    preparation.write_text(f"extends: demo.yaml\nout: {folder}\n{scales}")
    assert dry([*overrides, f"data.cohort={folder}", f"data.prepare={preparation}"]) == 0
    printed = capsys.readouterr()
    assert "9 slides of" in printed.out
    assert f"this training prepares them first, with {preparation}" in printed.out
    assert "cohort: 3 of 12 slides are prepared; 9 are pending (s3 first): " in printed.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["tile_px=64"], r"tile_px: the config has 64, but the cohort .* has 32"),
        (["ladder.scales=4", "model.summarizer.scales=4"], r"ladder: the config has .*2.5x.*, but the cohort"),
        (["encoder=uni"], "encoder: uni found, but the embeddings"),
        (["model.summarizer.embedding_dim=7"], "embedding_dim: 7 found, expected 6"),
        (["autoencoder=demo"], "but the latents of .* were made by"),
        (["data.scales=[20x,2.5x]"], "2.5x is not on the histology ladder|scale"),
        (["data.split=nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_the_start_refuses_the_dry_run_refuses(
    overrides: list[str], more: list[str], message: str, tmp_path: Path
) -> None:
    for last in (["--dry-run"], [f"run={tmp_path / 'run'}"]):
        with pytest.raises(UserError, match=message):
            main.main(["--base", DEMO, *overrides, *more, *last])


def test_a_preparation_that_makes_another_cohort_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more, message in (
        (["tile_px=64"], "tile_px: the config has 64, but configs/demo/data.yaml prepares 128"),
        (["encoder=uni"], "encoder: the config has uni, but configs/demo/data.yaml prepares demo"),
        (["ladder.scales=3", "model.summarizer.scales=3"], "ladder: the config has .* prepares"),
    ):
        for last in (["--dry-run"], ["run=run"]):
            with pytest.raises(UserError, match=message):
                main.main(["--base", DEMO, *more, *last])
            monkeypatch.delenv("ZOOMLDM_RUN", raising=False)
    assert not (tmp_path / "data").exists()


def test_what_is_not_here_is_told(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert dry(overrides, "training.accelerator=gpu", f"autoencoder={tmp_path / 'vq.ckpt'}") == 0
    printed = capsys.readouterr().out
    assert "not here     training.accelerator: gpu found, but torch sees none" in printed
    assert f"not here     autoencoder: {tmp_path / 'vq.ckpt'} does not exist" in printed
    with pytest.raises(UserError, match="tile_px: the config has 64"):
        dry(overrides, "training.accelerator=gpu", f"autoencoder={tmp_path / 'vq.ckpt'}", "tile_px=64")


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_own_pictures_of_other_colours_are_refused_before_the_first_step(mode: str, tmp_path: Path) -> None:
    small = training_cohort.of_system("vq", training_cohort.make(tmp_path))
    with h5py.File(tmp_path / "cohort/s1.h5", "r+") as file:
        pictures(mode)(file)
    base = ["--base", str(ROOT / "configs/demo/vq.yaml"), *small]
    for last in (["--dry-run"], [f"run={tmp_path / 'run'}"]):
        with pytest.raises(UserError, match=f"s1.h5: image 0 of 20x: its colours are {mode}, expected RGB"):
            main.main([*base, *last])
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_autoencoder_does_not_accumulate() -> None:
    with pytest.raises(UserError, match=r"training\.accumulate: 2 found, expected 1"):
        main.main(["--base", str(ROOT / "configs/demo/vq.yaml"), "training.accumulate=2", "--dry-run"])


def test_checkpointing_shrinks_the_activations_that_are_told(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for switch in ("false", "true"):
        assert dry(overrides, "data.batch_size=20000", f"training.checkpointing={switch}") == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if "of activations" in line)
        told.append(float(line.split()[1]))
    assert told[1] < 0.5 * told[0]


@pytest.mark.parametrize("config", sorted(WEIGHTS.rglob("config.yaml")), ids=lambda path: "-".join(path.parts[-3:-1]))
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_configs_of_the_bundled_models_train_again(
    config: Path, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = ["training.accelerator=cpu", f"training.precision={precision}", "run=run"]
    assert main.main(["--base", str(config), *changed, "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
