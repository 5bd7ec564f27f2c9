"""Sources of weights: a bundled model ("demo", "demo-fast", "satellite"), a folder, a file, or a name on the hub.

A model's folder, as a finished run and `save_pretrained` write it, holds config.yaml, which names the networks, and
weights.safetensors. A published file, weights.ckpt, is read without a config: its networks are the constructors'
defaults, and its tensors must match them in name and shape.

On the Hugging Face hub a model is ORG/NAME[/SUBFOLDER][@REVISION], such as StonyBrook-CVLab/ZoomLDM/brca. A file or
folder of that name on this disk has priority, unless the name begins with `hf:`. The names of bundled models always
mean the package; a folder of that name is ./satellite.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ldm.checkpoint import check_strict, join, load_metadata, load_strict, load_weights, save_weights, split
from ldm.config.objects import build
from ldm.config.run_config import SETTINGS, check_settings, load_run_config, model_settings, save_config
from ldm.config.training_config import check_finished
from ldm.errors import UserError
from ldm.layers.blocks import Upsample
from ldm.networks.trained import check_trained
from ldm.support import bundled_models
from ldm.support.bundled_models import BUNDLED, MODELS, SHARED
from ldm.support.cache import digest_of
from ldm.support.files import check_destination, sha256
from ldm.support.hub_files import Repository, fetch, list_files
from ldm.support.typed import typed

CONFIG, WEIGHTS, PUBLISHED = "config.yaml", "weights.safetensors", "weights.ckpt"
CDM = "cdm"
"""subfolder of a saved model's folder for its CDM"""
PREVIEW = "preview"
"""subfolder for its preview head"""
M = TypeVar("M", bound=nn.Module)
PART = r"[A-Za-z0-9][\w.-]*"
HUB_NAME = re.compile(rf"(hf:)?(?P<id>{PART}/{PART})/?(?P<inside>(?:{PART}/?)*)(?:@(?P<revision>[\w./-]+))?")
WEIGHTS_FILES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
OF_MODEL = ("system", "ladder", "tile_px", "encoder", "model", "contexts_id", "decoder_id")
"""keys of a config that describe the model; the others concern training and may contain local paths"""
PARTS_OF = {
    "zoomldm": ("denoiser", "summarizer", "autoencoder", "schedule", "prediction", "evaluations"),
    "cdm": ("cdm", "schedule"),
    "preview": ("preview",),
}
"""parts in a config's `model` section, by system"""


@dataclass(frozen=True)
class Source:
    """Weights, and the config that describes their networks."""

    name: str
    path: Path
    config: DictConfig
    tensors: dict[str, Tensor]
    shared: tuple[Path, ...] = ()
    """files of parts that bundled models share"""

    @property
    def published(self) -> bool:
        """Whether it is a file without a config."""
        return self.config.get("system") is None

    @property
    def own_cdm(self) -> Path | None:
        """The CDM that belongs to these weights: a bundled model's, or one that was saved with them."""
        for bundled in BUNDLED.values():
            if self.path == bundled.weights("zoomldm"):
                return bundled.weights(CDM).parent
        folder = self.path.parent / CDM
        return folder if (folder / WEIGHTS).is_file() and not self.published else None

    @cached_property
    def id(self) -> str:
        """Id of the weights: "<name>-<12 hex>", of the sha256 of the file, or of all files that hold them."""
        digests = [sha256(path) for path in (self.path, *self.shared)]
        return f"{self.name}-{(digest_of(' '.join(digests)) if self.shared else digests[0])[:12]}"

    @property
    def config_id(self) -> str:
        """Id of the network settings in the config."""
        return model_settings(self.config)


def weights_file(source: str | Path) -> Path:
    """The weights file of a ZoomLDM source, downloaded if necessary; its config is not read.

    UserError when it cannot be downloaded.
    """
    path, _ = locate(source, "zoomldm")
    return path / WEIGHTS if path.is_dir() else path


class HubName(NamedTuple):
    """A model's name on the hub."""

    text: str
    repository: Repository
    inside: str
    """subfolder or file in the repository; empty for its top"""

    @property
    def last(self) -> str:
        """The last part of the name, used in ids of the weights."""
        return PurePosixPath(self.inside).stem or self.repository.id.partition("/")[2]

    def file(self, name: str) -> str:
        return str(PurePosixPath(self.inside) / name)


def hub_name(source: str | Path) -> HubName | None:
    """Parse `source` as a name on the hub; None where it is, or looks like, a local path.

    UserError for an invalid name after hf:.
    """
    text = str(source)
    found = HUB_NAME.fullmatch(text)
    if text.startswith("hf:"):
        if not found:
            raise UserError(f"{text}: is no name on the hub; expected hf:ORG/NAME[/SUBFOLDER][@REVISION]")
    elif isinstance(source, Path) or not found or Path(text).exists() or Path(found["id"]).parent.exists():
        return None  # a missing path in an existing folder is not a hub name
    elif text.endswith(WEIGHTS_FILES):
        return None
    what = text if text.startswith("hf:") else f"{text} (no file or folder here)"
    return HubName(what, Repository(found["id"], found["revision"]), found["inside"].rstrip("/"))


def open_source(source: str | Path, *systems: str) -> Source:
    """Open a model from a source, as one of `systems`; the first is the bundled one.

    UserError when the source is missing, damaged, unfinished or a run of another system.
    """
    path, name = locate(source, systems[0])
    if not path.is_dir():
        tensors = load_weights(path)
        return Source(name, path, OmegaConf.create(_published(tensors, systems[0])), tensors)
    weights = path / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{path}: has no {WEIGHTS}, written when a run ends; run {typed('train')} --resume {path}")
    config = load_run_config(path)
    if config.get("system") not in systems:
        raise UserError(f"{path}: a run of system {config.get('system')}; expected {' or '.join(systems)}")
    check_finished(config, str(path / CONFIG))
    metadata = load_metadata(weights)
    check_settings(path, config, metadata)
    shared = shared_parts(weights, metadata)
    tensors = load_weights(weights) | join({part: split(load_weights(file))[part] for part, file in shared.items()})
    return Source(name, weights, config, tensors, tuple(shared.values()))


def shared_parts(weights: Path, metadata: Mapping[str, str]) -> dict[str, Path]:
    """Parts of a bundled model that other files of the package hold, by its `metadata`. UserError for changed files."""
    found = {}
    for key in [key for key in metadata if key.startswith(SHARED)]:
        part, (name, _, digest) = key.removeprefix(SHARED), metadata[key].partition(" ")
        found[part] = bundled_models.WEIGHTS / name
        if not found[part].is_file() or sha256(found[part]) != digest:
            raise UserError(f"{weights}: its {part} is in {found[part]}, which is missing or changed; install again")
    return found


def locate(source: str | Path, system: str) -> tuple[Path, str]:
    """The local folder or file of `source`, downloaded if necessary, and its name in ids.

    UserError when it cannot be downloaded, or the package lacks it.
    """
    if bundled := MODELS.get(str(source)):
        if not bundled.weights(system).is_file():
            raise UserError(f"{source}: the package has no {system} of that name; name a finished run of it")
        return bundled.weights(system).parent, bundled.name
    name = hub_name(source)
    path = Path(source) if name is None else _fetched(name)
    if not path.exists() and (found := HUB_NAME.fullmatch(str(source))):
        raise UserError(
            f"{source}: does not exist, and is taken for a path as {Path(found['id']).parent} is a folder here or the "
            f"name is a file's; correct the path, or write hf:{source} for the hub"
        )
    called = name.last if name else path.name if path.is_dir() else path.stem
    if path.is_dir() and not (path / WEIGHTS).is_file() and (path / PUBLISHED).is_file():
        path = path / PUBLISHED
    return path, called


def _fetched(name: HubName) -> Path:
    """Download the folder, or the single file, of a model on the hub. UserError when that fails."""
    files = _needed(name)
    paths = [fetch(name.repository, file, name.text) for file in files]
    if len({str(path).removesuffix(file) for path, file in zip(paths, files, strict=True)}) > 1:
        raise UserError(f"{name.text}: changed on the hub while it was fetched; run the same command again")
    return paths[0] if len(paths) == 1 else paths[0].parent


def _needed(name: HubName) -> list[str]:
    """The files of a model in a repository. UserError that lists what is there instead."""
    saved = [WEIGHTS, CONFIG, f"{WEIGHTS}.sha256", f"{CONFIG}.sha256"]
    own = [name.file(file) for file in saved + [f"{part}/{file}" for part in (CDM, PREVIEW) for file in saved]]
    published = name.file(PUBLISHED)
    likely = [*own, published, *([name.inside] if name.inside else [])]
    there = list_files(name.repository, likely, name.text)
    if name.inside in there:
        return [name.inside]
    if own[0] in there:
        return [file for file in own if file in there]
    if published in there:
        return [published]
    models = {str(PurePosixPath(file).parent) for file in there if PurePosixPath(file).name in (WEIGHTS, PUBLISHED)}
    choice = sorted(f"{name.repository.id}/{folder}" for folder in models - {"."})
    remedy = f"choose {' or '.join(choice)}" if choice else "name a repository that does"
    place = f"{name.repository.page}{'/' if name.inside else ''}{name.inside}"
    raise UserError(f"{name.text}: {place} itself holds neither {WEIGHTS} nor {PUBLISHED}; {remedy}")


def check_there(source: str | Path | None, key: str) -> None:
    """UserError when `source`, the value of `key`, names no file and no finished run; a cheap early check."""
    if source is None or str(source) in MODELS:
        return
    if (name := hub_name(source)) is not None:
        _needed(name)
        return
    path = Path(source)
    if not path.exists():
        bundled = " or ".join(BUNDLED)
        raise UserError(f"{key}: {path} does not exist; name a weights file, a finished run's folder, or {bundled}")
    if path.is_dir() and not any((path / weights).is_file() for weights in (WEIGHTS, PUBLISHED)):
        raise UserError(f"{key}: {path} has no {WEIGHTS}, written when a run ends; name a finished run")


def save_model(folder: Path, config: DictConfig, tensors: Mapping[str, Tensor], system: str) -> None:
    """Write a model's folder: config.yaml with the keys that describe the model, weights, and their sha256.

    UserError when the files cannot be written.
    """
    check_destination(folder, folder=True)
    read = {key: config[key] for key in OF_MODEL if config.get(key) is not None}
    parts = {key: config.model[key] for key in PARTS_OF[system] if config.model.get(key) is not None}
    kept = OmegaConf.create({**read, "system": system, "model": parts})  # the config of a published file has no system
    save_weights(folder / WEIGHTS, tensors, {SETTINGS: model_settings(kept)})
    save_config(folder, kept)


def _published(tensors: dict[str, Tensor], system: str) -> dict[str, Any]:
    """The config of a published file: default networks; the number of scales is that of the scale embeddings."""
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
    """Build the network under model.<key> of the config."""
    return build(OmegaConf.select(source.config, f"model.{key}"), f"{source.path}: model.{key}")


def load_network(source: Source, part: str, parts: Mapping[str, Mapping[str, Tensor]]) -> Any:
    """The frozen network of one part, its weights loaded strictly. UserError where they cannot be of a training.

    Its feature maps are channels last and its upsampling is folded: faster on cards and CPUs, equal up to rounding.
    """
    if part not in parts:
        raise UserError(f"{source.path}: holds no {part}, only {', '.join(parts) or 'unknown tensors'}")
    what = f"{part} of {source.path}"
    with torch.device("meta"):  # on the meta device, so that a huge config takes no memory before it matches the file
        check_strict(build_part(source, part), parts[part], what)
    with torch.device("cpu"):  # not on the meta device of a dry run, where no value can be judged
        network = build_part(source, part)
    load_strict(network, parts[part], what)
    check_trained(network, what)
    return fast_form(network.eval().requires_grad_(False))


def fast_form(network: M) -> M:
    """`network` with feature maps channels last and folded upsampling."""
    for module in network.modules():
        if isinstance(module, Upsample):
            module.folded = True
    return network.to(memory_format=torch.channels_last)
