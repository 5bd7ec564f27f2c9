"""Loggers by name, and refusals before any work."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

import main
from ldm.config.objects import load_config
from ldm.errors import UserError
from ldm.training import loggers
from ldm.training.loggers import logger_names, open_loggers

CONFIGS = sorted(path for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if "data" not in path.name)


def test_tensorboard_and_csv_are_the_default(tmp_path: Path) -> None:
    assert logger_names(None) == ["tensorboard", "csv"]
    opened = open_loggers(logger_names(None), tmp_path, "step=00000000")
    assert [type(logger) for logger in opened] == [TensorBoardLogger, CSVLogger]
    assert all(Path(logger.log_dir or "").is_relative_to(tmp_path) for logger in opened)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_training_config_states_it(path: Path) -> None:
    assert load_config([path]).training.logger == ["tensorboard", "csv"]


def test_none_writes_nothing(tmp_path: Path) -> None:
    opened = open_loggers(logger_names("none"), tmp_path, "")
    assert opened == []
    assert Trainer(logger=opened, enable_checkpointing=False, default_root_dir=tmp_path).loggers == []
    with pytest.raises(UserError, match="none found beside 1 others"):
        logger_names(["none", "csv"])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=f"training.logger: {name} is not installed; pip install {name}"):
        main.main(["--base", "demo", f"run={tmp_path / 'run'}", f"training.logger={name}"])
    assert not (tmp_path / "run" / "config.yaml").exists()
    monkeypatch.setattr(loggers, "find_spec", lambda _: ModuleType(name).__spec__ or sys)
    assert logger_names(["csv", name]) == ["csv", name]


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.logger"):
        main.main(["--base", "demo", "--dry-run", "training.logger=tensorbord"])
