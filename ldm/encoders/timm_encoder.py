"""Tile encoders built by timm: those of the table, any timm model by name, any repository saved by timm.

The whole tile is resized to the network's input and normalised as in training.
"""

import sys
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from timm.models import eva, vision_transformer
from torch import Tensor

from ldm.checkpoint import load_strict, load_weights
from ldm.encoders.dinov2_names import is_transformers, timm_names
from ldm.encoders.table import GATED, PUBLISHED, TIMM_FILES, Published
from ldm.errors import UserError
from ldm.support.files import sha256
from ldm.support.finite import not_finite
from ldm.support.hub_files import Repository, UnreachableError, cached, check_access, explained, fetch, list_files

LOCAL = "set encoder.weights to a local file"
HF_HUB = "hf-hub:"


class TimmEncoder:
    """For a published encoder, the tokens that the table names; for any other network, its pooled features."""

    def __init__(self, name: str, weights: str | Path | None, device: str) -> None:
        published = PUBLISHED.get(name)
        network = _published(name, published, weights) if published else _by_timm(name, weights)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device
        self.id = name if weights is None else f"{name}-{sha256(weights)[:12]}"
        self.with_patches = published is not None and published.tokens == "class and mean"
        if published:
            self.width, self.interpolation = published.width, published.interpolation
            self.size = (published.size, published.size)
            mean, std = published.normalisation
        else:
            config = timm.data.resolve_data_config({}, model=network)
            self.width, self.interpolation = network.num_classes or network.num_features, config["interpolation"]
            self.size, mean, std = tuple(config["input_size"][1:]), config["mean"], config["std"]
        height, width = self.size
        self.preprocessing = f"{self.interpolation}, antialiased, to {width}x{height}, mean {mean}, std {std}"
        self.mean, self.std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (mean, std))

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        x = rearrange(tiles.to(self.device), "n h w c -> n c h w").float() / 255
        x = F.interpolate(x, self.size, mode=self.interpolation, antialias=True).clamp(0, 1)
        x = (x - self.mean) / self.std
        found = class_and_mean(self.network, x) if self.with_patches else self.network(x)
        return found.float().cpu()  # (n, d)


def class_and_mean(network: Any, x: Tensor) -> Tensor:
    """Images (n, 3, h, w) -> class token and mean of the patch tokens, concatenated (n, 2 c)."""
    tokens = network.forward_features(x)  # (n, class, registers and patches, c)
    return torch.cat([tokens[:, 0], tokens[:, network.num_prefix_tokens :].mean(1)], 1)


def build(published: Published) -> Any:
    """The network of a row of the table, with random weights."""
    return timm.create_model(published.architecture, pretrained=False, **published.network_options)


def _published(name: str, published: Published, weights: str | Path | None) -> Any:
    """A network of the table, its weights from a local file or from the file that its publisher put on the hub."""
    if weights is None and published.elsewhere:
        raise UserError(f"encoder.name: {name}: no hub has its weights; set encoder.weights to {published.elsewhere}")
    path = Path(weights) if weights is not None else _fetched(name, published)
    network = build(published)
    load_strict(network, _local_state(network, path), str(path))
    return network


def _fetched(name: str, published: Published) -> Path:
    """The published file on this disk, downloaded if necessary. UserError with reason and remedy when it cannot be."""
    repository, what = Repository(published.hub), f"encoder.name: {name}: its weights could not be fetched"
    there = cached(repository, published.files)
    if there is not None:
        return fetch(repository, there.name, what, LOCAL)
    try:
        files = list_files(repository, published.files, what, LOCAL)
    except UnreachableError as error:  # it did not say what it asks for
        raise UserError(f"{error}{login_step(name, repository)}") from error
    file = next((file for file in published.files if file in files), published.files[0])
    with explained(what, repository, LOCAL):
        check_access(repository, [file])
    print(f"encoder.name: {name}: fetching its weights from {repository.page}", file=sys.stderr)
    return fetch(repository, file, what, LOCAL)


def login_step(name: str, repository: Repository) -> str:
    """What comes before the first download of a gated encoder; empty for another."""
    return f"; accept its licence at {repository.page} and run `hf auth login` first" if name in GATED else ""


def _by_timm(name: str, weights: str | Path | None) -> Any:
    """A timm model by name, or from a repository saved by timm; pooled, without its classifier."""
    hub = name.removeprefix(HF_HUB) if name.startswith(HF_HUB) else ""
    what = f"encoder.name: {name}: its weights could not be fetched"
    if hub or weights is None:
        if not hub:
            known = timm.get_pretrained_cfg(name)
            hub = (known and known.hf_hub_id) or ""
        repository = Repository(*hub.split("@", 1)) if hub else None
        with explained(what, repository or Repository(""), LOCAL):
            if repository:
                check_access(repository, TIMM_FILES)
                if cached(repository, TIMM_FILES) is None:
                    print(f"encoder.name: {name}: fetching its weights from {repository.page}", file=sys.stderr)
            network = timm.create_model(name, pretrained=weights is None, num_classes=0)
    else:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    if weights is not None:
        load_strict(network, _local_state(network, weights), str(weights))
    if wrong := not_finite(network.state_dict()):
        raise UserError(
            f"encoder.name: {name}: its weights, as fetched: {wrong} not finite; delete and fetch them again"
        )
    if getattr(network, "global_pool", "avg") == "":
        raise UserError(
            f"encoder.name: {name} gives every token of a tile and does not say which make an embedding; choose one "
            f"of {', '.join(PUBLISHED)}"
        )
    return network


def _local_state(network: Any, weights: str | Path) -> dict[str, Tensor]:
    """The tensors of a file under timm's names; position embeddings of another image size are resized.

    The classifier is left out. DINO's own files name the network `backbone`, inside `module` where it was trained on
    several GPUs; names of transformers are converted.
    """
    tensors = load_weights(weights).items()
    state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in tensors}
    if is_transformers(state):
        state = timm_names(state)  # trained at this size: nothing is resized
    elif isinstance(network, vision_transformer.VisionTransformer):
        state = vision_transformer.checkpoint_filter_fn(state, network)
    elif isinstance(network, eva.Eva):
        state = eva.checkpoint_filter_fn(state, network)
    if network.num_classes:
        return state
    classifier = network.pretrained_cfg.get("classifier") or "head"
    return {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
