"""Copy finished runs into the package as parts of the bundled model of their ladder's kind."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint import PARTS, load_metadata, save_weights
from ldm.config.run_config import SETTINGS, model_settings, save_config
from ldm.errors import UserError
from ldm.hub import Source, open_source
from ldm.support.bundled_models import BundledModel, model_of_kind


def bundle(run: Path) -> Path:
    """Copy one run; returns the folder it went to. UserError when the run is not finished.

    The weights file names the settings of the model, as that of a training does: a config.yaml that was edited is
    refused, whatever its sha256.
    """
    source = open_source(run, "vq", "zoomldm", "cdm", "control", "preview")
    system, bundled = source.config.system, model_of_kind(source.config.ladder.kind)
    folder = bundled.folder / system
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()}
    metadata = {**load_metadata(source.path), "system": system, SETTINGS: model_settings(source.config)}
    with control_kept(bundled):
        save_weights(folder / "weights.safetensors", half, metadata)
        save_config(folder, source.config)
        if system == "vq":
            refresh_decoder(bundled, half)
    return folder


def refresh_decoder(bundled: BundledModel, autoencoder: dict[str, Tensor]) -> None:
    """Put `autoencoder` into the bundled ZoomLDM, if there is one, unless its latents or codes are others."""
    if not bundled.weights("zoomldm").is_file():
        return
    model = open_source(bundled.folder / "zoomldm", "zoomldm")
    decoding = tuple(f"{PARTS['autoencoder']}{part}." for part in ("decoder", "post_quant_conv"))
    kept = [name for name in autoencoder if not name.startswith(decoding)]
    if all(torch.equal(model.tensors[name], autoencoder[name]) for name in kept):
        metadata = {**load_metadata(model.path), "system": "zoomldm", SETTINGS: model_settings(model.config)}
        save_weights(model.path, model.tensors | autoencoder, metadata)


@contextmanager
def control_kept(bundled: BundledModel) -> Iterator[None]:
    """Around a change of a bundled model: its control steers the new file, too, where the denoiser is the same."""
    before = _part(bundled, "zoomldm")
    yield
    after, control = _part(bundled, "zoomldm"), _part(bundled, "control")
    if before is None or after is None or control is None:
        return
    name, _, steered = str(control.config.get("steers")).rpartition("-")
    denoiser = [name for name in before.tensors if name.startswith(PARTS["denoiser"])]
    same = all(name in after.tensors and torch.equal(before.tensors[name], after.tensors[name]) for name in denoiser)
    if same and before.id.endswith(steered):
        control.config.steers = f"{name}-{after.id.rpartition('-')[2]}"
        metadata = {**load_metadata(control.path), SETTINGS: model_settings(control.config)}
        save_weights(control.path, control.tensors, metadata)
        save_config(control.path.parent, control.config)


def _part(bundled: BundledModel, system: str) -> Source | None:
    """What is bundled now, its id read before the file changes; None where nothing is, or nothing that loads."""
    try:
        source = open_source(bundled.folder / system, system)
    except UserError:
        return None
    _ = source.id
    return source


def run(args: argparse.Namespace) -> None:
    """Bundle every run of the command line; prints where each went and its size."""
    for source in args.runs:
        folder = bundle(source)
        print(f"{source} -> {folder}: {(folder / 'weights.safetensors').stat().st_size / 2**20:.1f} MiB")
