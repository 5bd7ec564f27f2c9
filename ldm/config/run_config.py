"""The config.yaml of a run: written with its sha256 beside it, read only when it has not changed since.

The shapes of weights do not determine patch size, prediction, schedule or ladder. So weights.safetensors also holds an
id of the settings that it was trained with (`model_settings`), and a config of another run is refused.

To use an edited config.yaml as it is, delete config.yaml.sha256: that is accepted with a warning.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ldm.config.objects import load_config
from ldm.errors import UserError
from ldm.support.files import atomic_write, intact, sidecar, write_sidecar

NAME = "config.yaml"
SETTINGS = "settings"
"""the key of `model_settings` in the metadata of a weights file"""


def save_config(folder: Path, config: DictConfig) -> None:
    """Write config.yaml and its checksum; a killed process leaves both old files, or a config without a checksum."""
    path = folder / NAME
    text = OmegaConf.to_yaml(config)
    if path.is_file() and path.read_text(encoding="utf-8") == text and intact(path):
        return
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
        sidecar(path).unlink(missing_ok=True)
    write_sidecar(path)


def load_run_config(folder: Path, overrides: Sequence[str] = ()) -> DictConfig:
    """The config of a run. UserError when it is missing or was changed since the run wrote it."""
    path = folder / NAME
    config = load_config([path], overrides)
    if not sidecar(path).is_file():
        _warn(path)
    elif not intact(path):
        raise UserError(
            f"config: {path} was changed: its sha256 is not that of {sidecar(path).name}; put back the file that the "
            f"run wrote, or delete {sidecar(path)} to use this one as it is"
        )
    return config


def model_settings(config: DictConfig) -> str:
    """Id of the model settings in a config, besides the weights."""
    read = {key: config.get(key) for key in ("system", "ladder", "tile_px", "encoder", "model", "steers")}
    if config.get("system") in ("control", "superres"):
        read["scales"] = config.data.get("scales")
    read |= {key: config[key] for key in ("contexts_id", "decoder_id", "latents_id", "label_names") if config.get(key)}
    plain = OmegaConf.to_container(OmegaConf.create(read))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def check_settings(folder: Path, config: DictConfig, metadata: dict[str, str]) -> None:
    """UserError where the weights beside `config` were trained with other settings of the model."""
    stated = metadata.get(SETTINGS)
    if stated is not None and sidecar(folder / NAME).is_file() and stated != model_settings(config):
        raise UserError(
            f"config: {folder / NAME} is of another model than the weights beside it; put back the config.yaml that "
            f"they were trained with, or delete {sidecar(folder / NAME)} to use this one as it is"
        )


@cache
def _warn(path: Path) -> None:
    print(
        f"warning: {path} has no {sidecar(path).name} beside it, so a change of it goes unseen; if it is right, write "
        f"one with sha256sum",
        file=sys.stderr,
    )
