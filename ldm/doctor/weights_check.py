"""Check a model's files: undamaged, finite, with the names that the config builds; and a run's checkpoints."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from ldm.checkpoint import BARE_AUTOENCODER, PARTS, check_strict, load_weights, split
from ldm.config.run_config import load_run_config
from ldm.config.training_config import check_finished
from ldm.doctor.finding import Finding, checked, fail, ok, warn
from ldm.hub import Source, load_network, locate, open_source
from ldm.support.bundled_models import BUNDLED
from ldm.support.files import intact, sidecar
from ldm.support.typed import typed
from ldm.training.checkpoints import checkpoints
from ldm.training.systems import SYSTEMS

BUNDLE = ("vq", "zoomldm", "cdm", "control", "preview")
EXPECTED = {"vq": ("autoencoder",), "zoomldm": ("denoiser", "summarizer", "autoencoder")}
"""required parts of a system's weights"""


def model(source: str | Path) -> Iterator[Finding]:
    """Check a value of --model: "demo", "satellite", a folder, a weights file or a name on the hub."""
    if bundled := BUNDLED.get(str(source)):
        for system in BUNDLE:
            if bundled.weights(system).is_file():
                yield from run(bundled.weights(system).parent)
        return
    path, _ = locate(source, "zoomldm")
    yield from run(path) if path.is_dir() else published(path)


class Wanted(NamedTuple):
    """What a model needs of prepared slides."""

    encoder: str
    latents_id: str


def wanted_by(source: str | Path) -> Wanted:
    """The tile encoder of a model's conditions, and the encoding of its latents."""
    found = open_source(source, "zoomldm")
    return Wanted(found.config.encoder, load_network(found, "autoencoder", split(found.tensors)).latents_id())


def run(folder: Path) -> Iterator[Finding]:
    """Check a run folder: its checkpoints and, once it is finished, its weights."""
    config = load_run_config(folder)
    check_finished(config, str(folder / "config.yaml"))
    system = config.system
    yield config_file(folder / "config.yaml")
    yield from checked(f"{folder / 'checkpoints'}", lambda: saved(folder, config))  # the weights may still be fine
    leftovers = sorted(folder.rglob(".*.partial"))
    if leftovers:
        yield warn(
            f"{folder}: {len(leftovers)} unfinished files of a killed process, such as {leftovers[0]}; delete them"
        )
    weights = folder / "weights.safetensors"
    if weights.is_file():
        yield from _parts(open_source(folder, system), system)
    elif checkpoints(folder / "checkpoints"):
        yield warn(f"{folder}: not finished, has no weights.safetensors; {typed('train')} --resume {folder}")
    else:
        yield warn(
            f"{folder}: neither weights.safetensors nor a checkpoint; {typed('train')} --resume {folder} begins it"
        )


def config_file(path: Path) -> Finding:
    """Check that a run's config.yaml can be read and is unchanged."""
    if not sidecar(path).is_file():
        return warn(f"{path}: no {sidecar(path).name} beside it, so changes go unseen; make it with sha256sum")
    return ok(f"{path}: as the run wrote it")


def published(path: Path) -> Iterator[Finding]:
    """Check a weights file without a config: its names tell the system, its networks are the constructors' defaults."""
    tensors = load_weights(path)
    system = "cdm"
    if any(name.startswith(tuple(PARTS.values())) for name in tensors):
        system = "zoomldm"
    elif any(name.startswith(BARE_AUTOENCODER) for name in tensors):
        system = "vq"
    del tensors
    yield from _parts(open_source(path, system), system)


def saved(folder: Path, config: DictConfig) -> Iterator[Finding]:
    """Check the checkpoints of a run: undamaged, the newest with the names that its config builds."""
    found = checkpoints(folder / "checkpoints")
    whole = [
        path
        for path in tqdm(found, desc="checkpoints", unit="file", leave=False, disable=len(found) == 0)
        if intact(path)
    ]
    for path in found:
        if path not in whole:
            yield warn(f"{path}: damaged, its sha256 differs or is missing; --resume passes it over, so delete it")
    if found and not whole:
        yield fail(f"{folder / 'checkpoints'}: none is whole; copy one back, or delete them to begin at step 0 again")
    if not whole:
        return
    content: Any = torch.load(whole[0], map_location="cpu", weights_only=True, mmap=True)
    for name, network in SYSTEMS[config.system](config).networks().items():
        check_strict(network, _inside(content["state_dict"], network), f"{name} of {whole[0]}")
    yield ok(f"{whole[0]}: step {content['global_step']:,}, whole, names and shapes as the config builds")


def _inside(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors of `network` in the state of the training system, under any prefix."""
    first = next(iter(network.state_dict()))
    prefix = next((name.removesuffix(first) for name in state if name.endswith(f".{first}")), "")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _parts(source: Source, system: str) -> Iterator[Finding]:
    yield file(source.path, source.tensors)
    parts = {system: source.tensors} if system not in EXPECTED else split(source.tensors)
    for part in dict.fromkeys((*EXPECTED.get(system, ()), *parts)):
        network = load_network(source, part, parts)
        count = sum(parameter.numel() for parameter in network.parameters())
        yield ok(f"{part} of {source.path}: {count:,} parameters in {len(parts[part])} tensors, as the config builds")


def file(path: Path, tensors: Mapping[str, Tensor] | None = None) -> Finding:
    """Check a weights file: undamaged, finite, with a checksum file."""
    tensors = load_weights(path) if tensors is None else tensors
    if not sidecar(path).is_file():
        return warn(f"{path}: no {sidecar(path).name} beside it, so damage can go unseen; make it with sha256sum")
    return ok(f"{path}: whole, its sha256 is right, {len(tensors)} tensors, all finite")
