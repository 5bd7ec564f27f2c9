"""Copy finished runs into the package as parts of the bundled model of their ladder's kind."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint import PARTS, load_metadata, load_weights, save_weights
from ldm.config.run_config import SETTINGS, model_settings, save_config
from ldm.hub import open_source
from ldm.support.bundled_models import BundledModel, model_of_kind


def bundle(run: Path) -> Path:
    """Copy one run; returns the folder it went to. UserError when the run is not finished."""
    source = open_source(run, "vq", "zoomldm", "cdm", "control")
    bundled = model_of_kind(source.config.ladder.kind)
    folder = bundled.folder / source.config.system
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()}
    save_weights(folder / "weights.safetensors", half, {SETTINGS: model_settings(source.config)})
    save_config(folder, source.config)
    if source.config.system == "vq":
        refresh_decoder(bundled, half)
    return folder


def refresh_decoder(bundled: BundledModel, autoencoder: dict[str, Tensor]) -> None:
    """Put `autoencoder` into the bundled ZoomLDM, if there is one, unless its latents or codes are others."""
    path = bundled.weights("zoomldm")
    if not path.is_file():
        return
    model = load_weights(path)
    decoding = tuple(f"{PARTS['autoencoder']}{part}." for part in ("decoder", "post_quant_conv"))
    kept = [name for name in autoencoder if not name.startswith(decoding)]
    if all(torch.equal(model[name], autoencoder[name]) for name in kept):
        save_weights(path, model | autoencoder, load_metadata(path))


def run(args: argparse.Namespace) -> None:
    """Bundle every run of the command line; prints where each went and its size."""
    for source in args.runs:
        folder = bundle(source)
        print(f"{source} -> {folder}: {(folder / 'weights.safetensors').stat().st_size / 2**20:.1f} MiB")
