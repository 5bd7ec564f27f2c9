"""Weights on disk: written atomically, read without running code, loaded strictly.

We write safetensors with a sha256 beside it. We read safetensors and torch files: ours, the published `weights.ckpt`
(one flat dict: schedule buffers, denoiser, its EMA copies, first stage, Summarizer), the published CDM, and the
CompVis VQ-f4 and ImageNet LDM-4 that they start from.

A part is one network; in a file its names carry a prefix.
"""

import json
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.support.files import atomic_write, intact, sidecar, write_sidecar
from ldm.support.finite import SHOWN, not_finite

PARTS = {"denoiser": "model.diffusion_model.", "summarizer": "cond_stage_model.", "autoencoder": "first_stage_model."}
ABOUT = "zoomldm"
EMA = "model_ema."
EMA_COUNTERS = {"model_ema.decay", "model_ema.num_updates"}
BARE_AUTOENCODER = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
BARE_LOSS = "loss."
SCHEDULE_BUFFERS = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}


class Inert:
    """Placeholder for the non-tensor objects in published files; their code is never run."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (Inert, "argparse.Namespace"),
    (Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (Inert, "numpy.core.multiarray.scalar"),
    (Inert, "numpy.dtype"),
    (Inert, "_codecs.encode"),
]


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write `tensors` as safetensors to `path`, atomically; returns the file's sha256.

    Equal tensors and `metadata` give equal bytes: `metadata` is stored as JSON under one key, because safetensors
    writes several keys in any order. The digest also goes to `<path>.sha256`. Raises UserError when the disk refuses,
    or for values that are not finite; the old file then stays.
    """
    if wrong := not_finite(tensors):
        raise UserError(f"weights: {path} was not written: {wrong} not finite; take those of an earlier step")
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    needed = sum(tensor.nbytes for tensor in content.values())
    try:
        with atomic_write(path, lambda: needed) as partial:
            save_file(content, partial, {ABOUT: json.dumps(metadata or {}, sort_keys=True)})
            sidecar(path).unlink(missing_ok=True)  # of the old file: killed before the next line, the new one has none
        return write_sidecar(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights: {path} was not written ({_line(error)}); it needs {needed:,} bytes free") from error


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, on the CPU, every value finite.

    A torch file is a flat dict of tensors, or holds one under "ema" (the published CDM), "state_dict" (Lightning) or
    "teacher" (DINO). No code of the file runs. Raises UserError when the file is missing, damaged, unsafe, not finite
    or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights: {path} does not exist; give a .safetensors file or a checkpoint of torch")
    if sidecar(path).is_file() and not intact(path):
        raise UserError(f"weights: {path} is damaged: its sha256 is not that of {sidecar(path).name}; copy it again")
    tensors = _read(path)
    if wrong := not_finite(tensors):
        raise UserError(f"weights: {path}: {wrong} not finite; take weights of an earlier step, or copy the file again")
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"weights: {path} is not whole safetensors ({_line(error)}); copy it again") from error
    if is_zipfile(path):
        _check_zip(path)
    content = _load_torch(path)
    for key in ("ema", "state_dict", "teacher"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"weights: {path} holds no dict of tensors, alone or under ema, state_dict or teacher")
    return dict(content)


def load_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file. UserError when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
        return json.loads(found[ABOUT]) if ABOUT in found else found
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"weights: {path} is not whole safetensors ({_line(error)}); copy it again") from error


def _check_zip(path: Path) -> None:
    """Check the zip checksums of a torch file without a sha256 beside it; torch itself ignores them."""
    try:
        with ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, RuntimeError, ValueError, BadZipFile, zlib.error) as error:
        raise UserError(f"weights: {path} is damaged ({_line(error)}); copy it again") from error
    if damaged is not None:
        raise UserError(f"weights: {path} is damaged: {damaged} has another checksum; copy it again")


def _load_torch(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"weights: {path} is damaged or holds objects that could run code, so it was not read; "
            "convert it to safetensors with the software that made it"
        ) from error
    except Exception as error:  # damaged bytes can raise any error
        raise UserError(f"weights: {path} is no whole torch checkpoint ({_line(error)}); copy it again") from error


def split(tensors: Mapping[str, Tensor], ema: bool = True) -> dict[str, dict[str, Tensor]]:
    """Sort the tensors of a file by part (see PARTS), names without their prefix; schedule buffers are dropped.

    `ema`: where the file has EMA copies of the denoiser, take them. (The published Summarizer has none.) A bare
    autoencoder, as CompVis publishes VQ-f4, is the part "autoencoder"; its training losses are dropped.
    Raises UserError that names every tensor of no known part.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    averages: dict[str, Tensor] = {}
    unknown = []
    for key, value in tensors.items():
        part = next((part for part, prefix in PARTS.items() if key.startswith(prefix)), None)
        if part:
            parts.setdefault(part, {})[key.removeprefix(PARTS[part])] = value
        elif key.startswith(BARE_AUTOENCODER):
            parts.setdefault("autoencoder", {})[key] = value
        elif key.startswith(EMA):
            averages[key] = value
        elif key not in SCHEDULE_BUFFERS and not key.startswith(BARE_LOSS):
            unknown.append(key)
    if unknown:
        raise UserError(
            f"weights: {', '.join(unknown)} belong to no part; names start with {', '.join(PARTS.values())}"
        )
    if ema and averages:
        parts["denoiser"] = _averaged(parts.get("denoiser", {}), averages)
    return parts


def _averaged(denoiser: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The EMA copies of `denoiser`'s tensors; in published files their names have no dots."""
    names = {name: EMA + f"diffusion_model.{name}".replace(".", "") for name in denoiser}
    missing = [copy for copy in names.values() if copy not in averages]
    extra = sorted(averages.keys() - set(names.values()) - EMA_COUNTERS)
    if missing or extra:
        raise UserError(f"weights: EMA copies do not match the denoiser: {_differences(missing, extra)}")
    return {name: averages[copy] for name, copy in names.items()}


def join(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One flat dict of the parts' tensors under their prefixes; the inverse of `split`."""
    return {PARTS[part] + name: value for part, state in parts.items() for name, value in state.items()}


def load_strict(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into `module`. Raises UserError that names every missing, unexpected or mismatched tensor."""
    check_strict(module, state, what)
    module.load_state_dict(dict(state), strict=True)


def check_strict(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """UserError for what `load_strict` refuses, without loading; `module` may be on the meta device."""
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    both = [(name, value, own[name]) for name, value in state.items() if name in own]
    shapes = [
        f"{name} is {tuple(value.shape)}, expected {tuple(expected.shape)}"
        for name, value, expected in both
        if value.shape != expected.shape
    ]
    kinds = _wrong_kinds(own, state)
    if missing or unexpected or shapes or kinds:
        raise UserError(f"{what}: weights and config differ: {_differences(missing, unexpected, shapes, kinds)}")


def check_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """UserError where `state` and `own` differ in dtype kind; for networks that other packages load."""
    if kinds := _wrong_kinds(own, state):
        raise UserError(f"{what}: weights are of another kind: {', '.join(kinds)}; take the file in floating point")


def _wrong_kinds(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Tensors of another dtype kind. float16 may load into float32; integers for floats are quantised codes."""
    wrong = [name for name in state if name in own and _kind(state[name]) != _kind(own[name])]
    more = [f"{len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return [f"{name} is {_dtype(state[name])}, expected {_dtype(own[name])}" for name in wrong[:SHOWN]] + more


def _kind(x: Tensor) -> tuple[bool, bool, bool]:
    plain = x.is_floating_point() and x.dtype.itemsize > 1  # 8-bit types are quantised: they need a separate scale
    return plain, x.is_complex(), x.dtype == torch.bool


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _differences(
    missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str] = (), kinds: Sequence[str] = ()
) -> str:
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes, "wrong kind": kinds}
    return "; ".join(f"{difference}: {', '.join(names)}" for difference, names in found.items() if names)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
