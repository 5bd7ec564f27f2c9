"""R5: one flipped bit in the files that training and sampling read: it is refused, or nothing depends on it.

Half of the bits are anywhere in the file, half in its structure: headers, indices and names. Every trial reads in a
separate process, which a damaged file may crash or hang.
"""

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import h5py
import torch
from tqdm import tqdm

from benchmarks.fixtures import toy, training_cohort
from benchmarks.robustness.forking import answer_of, ending
from ldm.checkpoint import load_weights
from ldm.cli import train
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.files import sidecar
from ldm.training.checkpoints import newest_checkpoint

SECONDS = 60
"""timeout of a reader"""
DEMO = Path(__file__).parents[2] / "configs/demo/zoomldm.yaml"


class FlippedFile(NamedTuple):
    """A file, what reads all of it into a digest, and the spans (first byte, end) of its structure."""

    name: str
    path: Path
    read: Callable[[Path], str]
    structure: list[tuple[int, int]]


def digest(content: Any) -> str:
    """Of arrays, tensors and plain values, nested in dicts and lists."""
    seen = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in value:
                seen.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif hasattr(value, "dtype"):
            array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
            seen.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            seen.update(repr(value).encode())

    add(content)
    return seen.hexdigest()


def read_slide(path: Path) -> str:
    slide = SlideFile(path)
    content: list[Any] = [slide.attrs, slide.tokens(0, 0, 0, *slide.grid)]
    for scale in slide.attrs["scales"]:
        rows = range(slide.count(scale))
        content += [slide.ij(scale), slide.tissue(scale), slide.latents(scale, rows), slide.images(scale, rows)]
        content += [slide.embedding(scale, row) for row in rows]
    return digest(content)


def read_weights(path: Path) -> str:
    return digest(load_weights(path))


def read_newest(path: Path) -> str:
    """The checkpoint that a resumed run continues from; a skipped one is reported."""
    if newest_checkpoint(path.parent) != path:
        raise UserError(f"{path} is passed over")
    return digest(torch.load(path, weights_only=True))


def read_described(path: Path) -> str:
    """The weights that the sidecar `path` belongs to."""
    return read_weights(path.with_suffix(""))


def cases(folder: Path) -> Iterator[FlippedFile]:
    """A prepared slide, weights, the checkpoint of a run, and a torch file that has only its own checksums."""
    slide = toy.slide(folder / "slide.h5")
    yield FlippedFile("prepared slide", slide, read_slide, _between_chunks(slide))
    weights = toy.run_folder(folder / "zoomldm", "zoomldm") / "weights.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    yield FlippedFile("weights", weights, read_weights, [(0, 8 + header)])
    yield FlippedFile("sha256 of weights", sidecar(weights), read_described, [(0, 64)])
    run = ["run=" + str(folder / "run"), "training.max_steps=8", *training_cohort.make(folder / "cohort")]
    train.main(["--base", str(DEMO), *run])
    os.environ.pop("ZOOMLDM_RUN", None)
    checkpoint = training_cohort.newest(folder / "run")
    yield FlippedFile("checkpoint of a run", checkpoint, read_newest, _zip_directory(checkpoint))
    foreign = folder / "foreign.ckpt"
    torch.save(load_weights(weights), foreign)
    yield FlippedFile("torch file", foreign, read_weights, _zip_directory(foreign))


def _between_chunks(path: Path) -> list[tuple[int, int]]:
    """All of an HDF5 file that is no chunk of a dataset."""
    chunks = [(0, 0), (path.stat().st_size, 0)]

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            infos = (item.id.get_chunk_info(number) for number in range(item.id.get_num_chunks()))
            chunks.extend((info.byte_offset, info.size) for info in infos)

    with h5py.File(path) as file:
        file.visititems(visit)
    chunks.sort()
    spans = [(start + size, after) for (start, size), (after, _) in pairwise(chunks)]
    return [(first, end) for first, end in spans if first < end]


def _zip_directory(path: Path) -> list[tuple[int, int]]:
    with ZipFile(path) as file:
        return [(file.start_dir, path.stat().st_size), (0, 200)]


def flips(case: FlippedFile, count: int) -> Iterator[str]:
    """Outcome of each of `count` flips: refused, harmless, or an error; the file is restored afterwards."""
    whole, expected, generator = case.path.read_bytes(), case.read(case.path), random.Random(case.name)
    structure = [place for first, end in case.structure for place in range(first, end)]
    for number in range(count):
        place = generator.choice(structure) if number % 2 else generator.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        case.path.write_bytes(damaged)
        yield answer_of(SECONDS, _read, case, expected)
    case.path.write_bytes(whole)


def _read(case: FlippedFile, expected: str) -> str:
    return ending(lambda: "harmless" if case.read(case.path) == expected else "silent")


def tally(folder: Path, count: int) -> dict[str, Counter[str]]:
    """Outcomes of `count` flips in every case."""
    found = {}
    for case in cases(folder):
        found[case.name] = Counter(tqdm(flips(case, count), desc=case.name, total=count, unit="flip"))
    return found


def measure(folder: Path, count: int) -> str:
    """`count` flips in each file."""
    found = tally(folder, count)
    lines = [
        f"{name}: {', '.join(f'{number} {outcome}' for outcome, number in sorted(outcomes.items()))}"
        for name, outcomes in found.items()
    ]
    silent = sum(outcomes["silent"] for outcomes in found.values())
    return f"{silent} silent of {len(found) * count} ({'; '.join(lines)})"
