"""R11: edits of a run's settings or weights, or of a bag of features, are refused or reported.

The checksum beside a file stays, or is updated (for weights) or deleted (for a config), as for a deliberate edit. Edits
that change no model are not counted; "silent" is a changed model that loads without a message.
"""

import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.random import Generator
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tqdm import tqdm

from benchmarks.fixtures import toy
from ldm.checkpoint import load_metadata, load_weights
from ldm.conditioning_model import ConditioningModel
from ldm.config import run_config
from ldm.data.bags import Bag, read_bag, recipe, write_bag
from ldm.errors import UserError
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.support.cache import Identity
from ldm.support.files import sidecar, write_sidecar

GOOD = ("refused", "said")
VALUES: tuple[Any, ...] = (0, 1, 3, 7, 64, 328, -1, 1.5, True, None, "eps", "v", "x", [], [1], {"a": 1})


class EditedFile(NamedTuple):
    """What is edited: the folder, and what reads it."""

    name: str
    folder: Path
    read: Callable[[Path], Any]


def cases(folder: Path) -> list[EditedFile]:
    """A run of each system that scripts load, and a bag."""
    runs = {name: toy.run_folder(folder / name, name) for name in ("zoomldm", "vq", "cdm")}
    reads: dict[str, Callable[[Path], Any]] = {
        "zoomldm": ZoomLDM.load,
        "vq": load_autoencoder,
        "cdm": ConditioningModel.load,
    }
    return [EditedFile(name, path, reads[name]) for name, path in runs.items()]


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of the values in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*place, key)
        yield from leaves(item, (*place, key))


def edit_config(run: Path, rng: Generator) -> None:
    """One key renamed, removed or added, or one value replaced."""
    path = run / run_config.NAME
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    places = list(leaves(config))
    *parents, key = places[int(rng.integers(len(places)))]
    inside = config
    for step in parents:
        inside = inside[step]
    kind = rng.choice(["rename", "remove", "replace", "replace", "add"])
    if kind == "add" or not isinstance(inside, dict):
        (inside if isinstance(inside, dict) else config)[f"key{rng.integers(100)}"] = 1
    elif kind == "replace":
        inside[key] = VALUES[int(rng.integers(len(VALUES)))]
    else:
        value = inside.pop(key)
        if kind == "rename":
            inside[f"{key[1:]}{key[0]}x"] = value
    OmegaConf.save(OmegaConf.create(config), path)


def edit_accepted_config(run: Path, rng: Generator) -> None:
    """As `edit_config`, with the checksum deleted."""
    edit_config(run, rng)
    sidecar(run / run_config.NAME).unlink()


def edit_weights(run: Path, rng: Generator, checksum: bool) -> None:
    """One tensor renamed, removed, added, of another shape or type, or no longer finite."""
    path = run / "weights.safetensors"
    tensors, metadata = load_weights(path), load_metadata(path)
    name = str(rng.choice(sorted(tensors)))
    value = tensors[name]
    kind = str(rng.choice(["rename", "remove", "add", "shape", "integer", "not finite"]))
    if kind in ("rename", "remove"):
        del tensors[name]
    tensors |= {
        "rename": {f"{name}x": value},
        "remove": {},
        "add": {f"{name}.more": torch.zeros(1)},
        "shape": {name: torch.zeros((*value.shape, 2))},
        "integer": {name: value.to(torch.int8)},
        "not finite": {name: torch.full_like(value, float(rng.choice([np.nan, np.inf])))},
    }[kind]
    save_file(tensors, path, metadata)  # our own writer refuses it
    if checksum:
        write_sidecar(path)


EDITS: dict[str, Callable[[Path, Generator], None]] = {
    "config": edit_config,
    "config, checksum deleted": edit_accepted_config,
    "weights": partial(edit_weights, checksum=False),
    "weights, checksum made anew": partial(edit_weights, checksum=True),
}


def outcome(read: Callable[[], Any]) -> str:
    """Returns "refused" or "said" where correct; else what happened."""
    told = io.StringIO()
    run_config._warn.cache_clear()
    try:
        with contextlib.redirect_stderr(told):
            read()
    except UserError as error:
        return "refused" if "\n" not in str(error) else "refused in more than a line"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:100]}"
    return "said" if "warning: " in told.getvalue() else "silent"


def outcomes(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """`count` edits of runs, and one of each attribute of a bag: the edit and its outcome."""
    rng = np.random.default_rng(seed)
    known = cases(folder / "whole")
    for number in range(count):
        case, kind = known[number % len(known)], list(EDITS)[number // len(known) % len(EDITS)]
        copy = shutil.copytree(case.folder, folder / f"edit-{number}")
        before = (copy / run_config.NAME).read_bytes()
        EDITS[kind](copy, rng)
        if kind.startswith("weights") or (copy / run_config.NAME).read_bytes() != before:
            yield f"{kind} of {case.name}", outcome(partial(case.read, copy))
        shutil.rmtree(copy)
    yield from bag_edits(folder)


def bag_edits(folder: Path) -> Iterator[tuple[str, str]]:
    """Each attribute of a bag, changed alone."""
    pixels = np.ones((2, 2), np.int32)
    identity = Identity("features", settings={"t": 1})
    bag = Bag("s", ("20x",), np.ones((2, 3), np.float32), pixels.astype(np.int64), pixels, 8, identity)
    write_bag(folder / "bag.h5", bag)
    with h5py.File(folder / "bag.h5") as file:
        places = [("/", key) for key in file.attrs] + [("coords", "patch_size_level0")]
    for place, key in places:
        changed = Path(shutil.copy(folder / "bag.h5", folder / "changed.h5"))
        with h5py.File(changed, "r+") as file:
            value = file[place].attrs[key]
            file[place].attrs[key] = f"{value}x" if isinstance(value, str) else 7 if place != "/" else ["10x"]
        for read in (read_bag, recipe):
            yield f"{key} of a bag", outcome(partial(read, changed))


def measure(folder: Path, count: int) -> str:
    """Outcomes of `count` edits."""
    found: Counter[str] = Counter()
    for name, ended in tqdm(outcomes(folder, count, seed=1), total=count, unit="edit"):
        found[ended.partition(":")[0]] += 1
        if ended not in GOOD:
            tqdm.write(f"{name}: {ended}")
    parts = ", ".join(f"{number} {name}" for name, number in sorted(found.items()))
    return f"{found['silent']} silent of {sum(found.values())} ({parts})"
