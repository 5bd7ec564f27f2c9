"""The models in the package: what makes one, which are offered, and that their configs and slides belong to them."""

from pathlib import Path

import pytest

from data_prep.held_out import COUNT, SEED, TRAINED, TRAINED_COUNT
from ldm.config.objects import load_config
from ldm.config.training_config import check_config
from ldm.data.split_file import read_split
from ldm.errors import UserError
from ldm.hub import open_source
from ldm.support import bundled_models
from ldm.support.bundled_configs import bundled_file, config_file
from ldm.support.bundled_models import MODELS, NEEDED, model_of_kind

ALL = [pytest.param(model, id=name) for name, model in MODELS.items() if not model.teacher]
"""models with configs and slides of their own"""


def test_a_model_is_offered_once_every_part_of_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path)
    for name in (*NEEDED, "slide.h5"):
        assert not MODELS["satellite"].whole
        path = tmp_path / "satellite" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert MODELS["satellite"].whole
    assert not MODELS["demo"].whole


def test_a_part_that_the_package_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path)
    with pytest.raises(UserError, match="satellite: the package has no control of that name"):
        open_source("satellite", "control")


def test_every_kind_of_ladder_that_is_bundled_has_one_model() -> None:
    assert {kind: model_of_kind(kind).name for kind in ("histology", "satellite")} == {
        "histology": "demo",
        "satellite": "satellite",
    }
    assert model_of_kind("histology", student=True).name == "demo-fast"
    with pytest.raises(UserError, match=r"ladder\.kind: mri found"):
        model_of_kind("mri")
    with pytest.raises(UserError, match=r"satellite found, but no bundled model is of it; expected histology"):
        model_of_kind("satellite", student=True)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("system", ["vq", "zoomldm", "cdm"])
def test_a_models_configs_are_of_its_kind_and_its_own(model: bundled_models.BundledModel, system: str) -> None:
    config = load_config([f"{model.area}/{system}"])
    check_config(config)
    data = load_config([config.data.prepare], kind="data")
    assert config_file(model.data_config, "data") == config_file(config.data.prepare, "data")
    assert data.ladder == config.ladder
    assert config.ladder.kind == model.kind
    assert data.generate.kind == model.kind
    assert Path(config.data.cohort) == Path(data.out)
    assert Path(data.slides).parent == Path(data.out).parent == model.data
    assert data.encoder.name == data.autoencoder == model.name
    assert config.get("autoencoder", model.name) == model.name
    assert config.get("zoomldm", model.name) == model.name
    if system == "zoomldm":
        assert config.encoder == model.name
        assert config.model.summarizer.scales == config.ladder.scales
    if system == "cdm":
        assert config.model.cdm.scales == config.ladder.scales


@pytest.mark.parametrize("model", ALL)
def test_slides_to_measure_on_are_trained_on_or_not_as_they_say(model: bundled_models.BundledModel) -> None:
    config = load_config([f"{model.area}/zoomldm"])
    lines = read_split(bundled_file(config.data.split)).lines
    assert lines[f"{model.kind}_{model.seed}"].part == "validation"
    assert {lines[f"{model.kind}_{seed}"].part for seed in range(TRAINED, TRAINED + TRAINED_COUNT)} == {"train"}
    assert not lines.keys() & {f"{model.kind}_{seed}" for seed in range(SEED, SEED + COUNT)}


@pytest.mark.parametrize("path", sorted(bundled_models.WEIGHTS.rglob("config.yaml")), ids=lambda path: path.parent.name)
def test_no_bundled_config_names_a_folder_of_one_machine(path: Path) -> None:
    values = load_config([path]).items()
    given = [str(value) for key, value in values if key != "data"] + [str(v) for v in load_config([path]).data.values()]
    assert not [value for value in given if value.startswith(("/", "~"))]
