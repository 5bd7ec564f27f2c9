"""Copy finished runs into the package as parts of the bundled model of their ladder's kind."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ldm.checkpoint import PARTS, join, load_metadata, load_weights, save_weights, split
from ldm.config.run_config import SETTINGS, model_settings, save_config
from ldm.errors import UserError
from ldm.hub import WEIGHTS, Source, open_source
from ldm.support import bundled_models
from ldm.support.bundled_models import MODELS, SHARED, BundledModel, model_of_kind
from ldm.support.files import sha256


def bundle(run: Path) -> Path:
    """Copy one run; returns the folder it went to. UserError when the run is not finished.

    The weights file names the settings of the model, as that of a training does: a config.yaml that was edited is
    refused, whatever its sha256.
    """
    source = open_source(run, "vq", "zoomldm", "cdm", "control", "preview")
    system = source.config.system
    student = system == "zoomldm" and source.config.model.get("evaluations") is not None
    bundled = model_of_kind(source.config.ladder.kind, student)
    folder = bundled.weights(system).parent
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()}
    metadata = {**load_metadata(source.path), "system": system, SETTINGS: model_settings(source.config)}
    with control_kept(bundled):
        users = [user for user in users_of(bundled) if system == "vq" and same_latents(user[1].tensors, half)]
        save(folder, half, metadata, bundled if system == "zoomldm" else None)
        save_config(folder, source.config)
        for model, user in users:
            save(user.path.parent, user.tensors | half, load_metadata(user.path), model)
    return folder


def save(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str], model: BundledModel | None) -> None:
    """Write weights; those of a `model` without the parts that other bundled files hold, which are named instead.

    The autoencoder is in `vq`, and a student has the Summarizer of its teacher.
    """
    metadata = {key: value for key, value in metadata.items() if not key.startswith(SHARED)}
    holders = {"autoencoder": model.weights("vq")} if model else {}
    if model and model.teacher:
        holders["summarizer"] = MODELS[model.teacher].weights("zoomldm")
    parts = split(tensors) if model else {}
    for part, file in holders.items():
        if file.is_file() and equal(split(load_weights(file)).get(part, {}), parts[part]):
            del parts[part]
            metadata[SHARED + part] = f"{file.relative_to(bundled_models.WEIGHTS).as_posix()} {sha256(file)}"
    save_weights(folder / WEIGHTS, join(parts) if model else tensors, metadata)


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    """Whether names and values are the same."""
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def users_of(bundled: BundledModel) -> list[tuple[BundledModel, Source]]:
    """The bundled models in the folder of `bundled`, which have its autoencoder; a teacher before its student."""
    models = (model for model in MODELS.values() if model.folder == bundled.folder)
    return [(model, source) for model in models if (source := _part(model, "zoomldm"))]


def same_latents(model: dict[str, Tensor], autoencoder: dict[str, Tensor]) -> bool:
    """Whether an autoencoder differs from a model's at most in its decoder."""
    decoding = tuple(f"{PARTS['autoencoder']}{part}." for part in ("decoder", "post_quant_conv"))
    kept = [name for name in autoencoder if not name.startswith(decoding)]
    return all(torch.equal(model[name], autoencoder[name]) for name in kept)


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
        source = open_source(bundled.weights(system).parent, system)
    except UserError:
        return None
    _ = source.id
    return source


def run(args: argparse.Namespace) -> None:
    """Bundle every run of the command line; prints where each went and its size."""
    for source in args.runs:
        folder = bundle(source)
        print(f"{source} -> {folder}: {(folder / 'weights.safetensors').stat().st_size / 2**20:.1f} MiB")
