"""Edits of a run's config.yaml, or of a bag's settings, are detected."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import main
from benchmarks.fixtures import toy
from ldm.checkpoint import load_weights, save_weights
from ldm.config.run_config import SETTINGS, load_run_config, model_settings, save_config
from ldm.errors import UserError
from ldm.hub import open_source
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import intact, sidecar

SILENT = {"tile_px": 64, "model.prediction": "eps", "ladder.scales": 4, "model.schedule.end": 0.02}
"""edits that do not change the shape of any weight"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy.run_folder(tmp_path / "run", "zoomldm")


def edit(run: Path, **values: Any) -> None:
    config = OmegaConf.load(run / "config.yaml")
    for key, value in values.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, run / "config.yaml")


@pytest.mark.parametrize("key", SILENT)
def test_an_edit_that_shapes_do_not_show_is_refused(run: Path, key: str) -> None:
    open_source(run, "zoomldm")
    edit(run, **{key: SILENT[key]})
    with pytest.raises(UserError, match=r"config.yaml was changed: .* put back the file .*, or delete .*\.sha256"):
        open_source(run, "zoomldm")
    with pytest.raises(UserError, match="was changed"):
        main.main(["--resume", str(run)])


def test_an_edit_is_accepted_once_its_checksum_is_deleted_and_said(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(run, **{"model.prediction": "eps"})
    sidecar(run / "config.yaml").unlink()
    assert open_source(run, "zoomldm").config.model.prediction == "eps"
    assert "has no config.yaml.sha256 beside it" in capsys.readouterr().err


def test_the_config_of_another_run_is_refused(tmp_path: Path, run: Path) -> None:
    metadata = {SETTINGS: model_settings(load_run_config(run))}
    save_weights(run / "weights.safetensors", load_weights(run / "weights.safetensors"), metadata)
    open_source(run, "zoomldm")
    other = toy.run_folder(tmp_path / "other", "zoomldm", tile_px=64)
    for name in ("config.yaml", "config.yaml.sha256"):
        shutil.copy(other / name, run / name)
    with pytest.raises(UserError, match="is of another model than the weights beside it"):
        open_source(run, "zoomldm")


def test_a_config_is_written_whole_with_its_checksum_and_only_when_it_changes(run: Path) -> None:
    config = load_run_config(run)
    before = (run / "config.yaml").stat().st_mtime_ns
    save_config(run, config)
    assert (run / "config.yaml").stat().st_mtime_ns == before
    config.tile_px = 64
    save_config(run, config)
    assert intact(run / "config.yaml")
    assert load_run_config(run).tile_px == 64


@pytest.mark.parametrize("system", ["vq", "zoomldm", "cdm", "control"])
def test_the_bundled_configs_have_their_checksum(system: str) -> None:
    assert intact(BUNDLED["demo"].folder / system / "config.yaml")
