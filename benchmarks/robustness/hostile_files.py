"""Hostile weights, checkpoints, prepared slides and images."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from PIL import Image

from benchmarks.fixtures import toy, training_cohort
from benchmarks.robustness.flips import read_slide
from ldm.checkpoint import load_weights
from ldm.cli import superres, train
from ldm.data.h5 import SlideFile
from ldm.pipeline import ZoomLDM
from ldm.support.files import sidecar, write_sidecar

MARK = "executed"
DEMO = Path(__file__).parents[2] / "configs/demo/zoomldm.yaml"


class Payload:
    """Leaves the mark when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARK,)


def _saved(content: Any, name: str = "weights.ckpt", **options: Any) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        torch.save(content, folder / name, **options)
        load_weights(folder / name)

    return attack


def _raw(content: bytes, name: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / name).write_bytes(content)
        load_weights(folder / name)

    return attack


def _object_array(folder: Path) -> None:
    np.save(folder / "weights.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    load_weights(folder / "weights.npy")


def _scripted(folder: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), folder / "weights.ckpt")
    load_weights(folder / "weights.ckpt")


def _header(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


def _resumed(folder: Path) -> None:
    """A run whose newest checkpoint is a pickle with a sha256 that is right."""
    run = folder / "run"
    train.main(["--base", str(DEMO), f"run={run}", "training.max_steps=4", *training_cohort.make(folder / "cohort")])
    newest = run / "checkpoints" / "step=00000005.ckpt"
    torch.save({"state_dict": {}, "callbacks": Payload()}, newest)
    write_sidecar(newest)
    train.main(["--resume", str(run)])


def _model(source: str, **others: Any) -> Callable[[Path], None]:
    return lambda folder: (ZoomLDM.load(source, **others), None)[1]


def _slide(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        path = toy.slide(folder / "slide.h5")
        with h5py.File(path, "r+") as file:
            change(file)
        read_slide(path)

    return attack


def _replaced(name: str, link: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return _slide(change)


def _external_storage(file: h5py.File) -> None:
    del file["scales/20x/images"]
    size = os.path.getsize("/etc/passwd")
    file.create_dataset("scales/20x/images", (size,), "u1", external=[("/etc/passwd", 0, size)])


def _virtual(file: h5py.File) -> None:
    del file["scales/20x/latents"]
    layout = h5py.VirtualLayout((64, 3, 8, 8), "f2")
    layout[:] = h5py.VirtualSource("/etc/passwd", "latents", (64, 3, 8, 8))
    file.create_virtual_dataset("scales/20x/latents", layout)


def _endless(file: h5py.File) -> None:
    del file["scales/20x/ij"]
    file.create_dataset("scales/20x/ij", (10**12, 2), "i4", chunks=(1024, 2), fletcher32=True)


def _bomb(file: h5py.File) -> None:
    """An image of 900 million pixels in three kilobytes, as the first region's."""
    content = np.frombuffer(_bomb_png(), np.uint8)
    for name, values in (("images", content), ("image_ends", np.full(64, len(content)))):
        del file[f"scales/20x/{name}"]
        file.create_dataset(f"scales/20x/{name}", data=values, chunks=values.shape, fletcher32=True)


def _bomb_png() -> bytes:
    """A PNG header of 30,000 px a side, for which a decoder would allocate all pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _objects(file: h5py.File) -> None:
    del file["scales/20x/tissue"]
    file.create_dataset("scales/20x/tissue", data=["text"] * 64, dtype=h5py.string_dtype())


def _pickled_attribute(file: h5py.File) -> None:
    file.attrs["slide_id"] = np.void(pickle.dumps(Payload()))


def _no_attribute(file: h5py.File) -> None:
    file.attrs["tile_px"] = h5py.Empty("i4")


def _huge_patch(file: h5py.File) -> None:
    file.attrs["scales"] = np.array([b"x" * 60] * 1000)


def _image(content: bytes, name: str) -> Callable[[Path], None]:
    def attack(folder: Path) -> None:
        (folder / name).write_bytes(content)
        superres.main([str(folder / name), "--out", str(folder / "out"), "--steps", "2", "--device", "cpu"])

    return attack


def _truncated_png() -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()[:3000]


def _wrong_sidecar(folder: Path) -> None:
    run = toy.run_folder(folder / "run", "zoomldm")
    sidecar(run / "weights.safetensors").write_bytes(b"\xff\xfe" * 40)
    ZoomLDM.load(run)


def _far_link(folder: Path) -> None:
    """A slide that claims to be elsewhere."""
    path = toy.slide(folder / "slide.h5")
    with h5py.File(path, "r+") as file:
        del file["embeddings/0"]
        file["embeddings/0"] = h5py.SoftLink("/embeddings/0")
    SlideFile(path).tokens(0, 0, 0, 1, 1)


ATTACKS: dict[str, Callable[[Path], None]] = {
    "pickle as a checkpoint": _saved(Payload()),
    "pickle under state_dict": _saved({"state_dict": {"a": torch.zeros(1), "b": Payload()}}),
    "pickle beside tensors": _saved({"ema": {"a": torch.zeros(1)}, "args": Payload()}),
    "pickle of the old format": _saved(Payload(), _use_new_zipfile_serialization=False),
    "pickle called safetensors": _saved(Payload(), "weights.safetensors"),
    "bare pickle": _raw(pickle.dumps(Payload()), "weights.pt"),
    "bare pickle of protocol 0": _raw(pickle.dumps(Payload(), 0), "weights.bin"),
    "array of objects": _object_array,
    "TorchScript": _scripted,
    "checkpoint of a run that is a pickle": _resumed,
    "safetensors with a header of 2^60 bytes": _raw((2**60).to_bytes(8, "little") + b"{}", "weights.safetensors"),
    "safetensors that point outside": _raw(
        _header({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}), "weights.safetensors"
    ),
    "safetensors of negative size": _raw(
        _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4), "weights.safetensors"
    ),
    "safetensors nested without end": _raw((200_000).to_bytes(8, "little") + b'{"a":' * 40_000, "weights.safetensors"),
    "sidecar that is no text": _wrong_sidecar,
    "model from a URL": _model("https://example.org/weights.safetensors"),
    "model from another URL": _model("file:///etc/passwd"),
    "model of the hub": _model("hf-hub:someone/model"),
    "CDM from a URL": _model("demo", cdm="https://example.org/weights.ckpt"),
    "model that is a device": _model("/dev/zero"),
    "slide with an external link": _replaced("embeddings/0", h5py.ExternalLink("/etc/passwd", "/")),
    "slide with a link to another slide": _replaced("embeddings/0", h5py.ExternalLink("slide.h5", "/scales/20x/ij")),
    "slide with a link to itself": _far_link,
    "slide with a folder for a table": _replaced("scales/20x/ij", h5py.SoftLink("/scales/20x")),
    "slide that shows a file of the system": _slide(_external_storage),
    "slide with a virtual table": _slide(_virtual),
    "slide with 10^12 regions": _slide(_endless),
    "slide with an image bomb": _slide(_bomb),
    "slide with text for numbers": _slide(_objects),
    "slide with a pickle for an id": _slide(_pickled_attribute),
    "slide with an empty attribute": _slide(_no_attribute),
    "slide with 1,000 scales": _slide(_huge_patch),
    "image bomb": _image(_bomb_png(), "bomb.png"),
    "image that is a pickle": _image(pickle.dumps(Payload()), "image.png"),
    "image cut short": _image(_truncated_png(), "cut.png"),
    "image that is a script": _image(b"%!PS\n(executed) (w) file closefile\n", "image.jpg"),
}
