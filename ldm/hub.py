"""Where weights come from: "demo" (in the package), a run folder, or a published file.

A run folder holds config.yaml, which names the networks, and weights.safetensors. A published file has no config: its
networks are the constructors' defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm.checkpoint import check_strict, load_metadata, load_strict, load_weights
from ldm.config.objects import build
from ldm.config.run_config import check_settings, load_run_config, model_settings
from ldm.config.training_config import check_finished
from ldm.errors import UserError
from ldm.support.files import sha256

BUNDLED = Path(__file__).parent / "weights" / "demo"


@dataclass(frozen=True)
class Source:
    """Weights, and the config that names their networks."""

    name: str
    path: Path
    config: DictConfig
    tensors: dict[str, Tensor]

    @property
    def published(self) -> bool:
        """Whether it is a file without a config of its own."""
        return self.config.get("system") is None

    @cached_property
    def id(self) -> str:
        """Names the weights: "<name>-<12 hex>", the first digits of the file's sha256."""
        return f"{self.name}-{sha256(self.path)[:12]}"

    @property
    def config_id(self) -> str:
        """Names what the config says of the networks."""
        return model_settings(self.config)


def open_source(source: str | Path, *systems: str) -> Source:
    """Read "demo", a run folder or a published file, as one of `systems`; the first is the bundled one.

    UserError when the source is missing, damaged, unfinished or a run of another system.
    """
    demo = str(source) == "demo"
    path = BUNDLED / systems[0] if demo else Path(source)
    if not path.is_dir():
        tensors = load_weights(path)
        return Source(path.stem, path, OmegaConf.create(_published(tensors, systems[0])), tensors)
    weights = path / "weights.safetensors"
    if not weights.is_file():
        raise UserError(f"{path}: has no weights.safetensors, written when a run ends; run main.py --resume {path}")
    config = load_run_config(path)
    if config.get("system") not in systems:
        raise UserError(f"{path}: a run of system {config.get('system')}; expected {' or '.join(systems)}")
    check_finished(config, str(path / "config.yaml"))
    check_settings(path, config, load_metadata(weights))
    return Source("demo" if demo else path.name, weights, config, load_weights(weights))


def check_there(source: str | Path | None, key: str) -> None:
    """UserError when `source`, the value of `key`, names no file and no finished run; cheap, so before all else."""
    if source is None or str(source) == "demo":
        return
    path = Path(source)
    if not path.exists():
        raise UserError(f"{key}: {path} does not exist; name a weights file, a finished run's folder, or demo")
    if path.is_dir() and not (path / "weights.safetensors").is_file():
        raise UserError(f"{key}: {path} has no weights.safetensors, written when a run ends; name a finished run")


def _published(tensors: dict[str, Tensor], system: str) -> dict[str, Any]:
    """The config of a published file: default networks; the number of scales is read off the table of scales."""
    tables = ("mag_embedding.weight", "embedding_table.weight")
    scales = next((len(tensor) for name, tensor in tensors.items() if name.endswith(tables)), 8)
    schedule = "cosine_alpha_bar" if system == "cdm" else "scaled_linear_alpha_bar"
    return {
        "ladder": {"kind": "satellite" if scales == 4 else "histology", "scales": scales},
        "tile_px": 256,
        "encoder": "dinov2" if scales == 4 else "uni",
        "model": {
            "denoiser": {"target": "ldm.networks.unet.UNet"},
            "summarizer": {"target": "ldm.networks.summarizer.Summarizer", "scales": scales},
            "autoencoder": {"target": "ldm.networks.autoencoder.Autoencoder"},
            "cdm": {"target": "ldm.networks.dit.DiT", "scales": scales},
            "schedule": {"target": f"ldm.diffusion.schedule.{schedule}"},
            "prediction": "eps",
        },
    }


def build_part(source: Source, key: str) -> Any:
    """What the config says under model.<key>."""
    return build(OmegaConf.select(source.config, f"model.{key}"), f"{source.path}: model.{key}")


def load_network(source: Source, part: str, parts: Mapping[str, Mapping[str, Tensor]]) -> Any:
    """The frozen network of one part, its weights loaded strictly."""
    if part not in parts:
        raise UserError(f"{source.path}: holds no {part}, only {', '.join(parts) or 'unknown tensors'}")
    what = f"{part} of {source.path}"
    with torch.device("meta"):  # a config of any size costs nothing until it agrees with the file
        check_strict(build_part(source, part), parts[part], what)
    network = build_part(source, part)
    load_strict(network, parts[part], what)
    return network.eval().requires_grad_(False)
