"""The doctor on prepared slides with valid but inconsistent values."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from imagecodecs import png_encode
from PIL import Image

from benchmarks.fixtures import toy
from ldm.data.h5 import SlideFile
from ldm.data.slide_writer import SlideWriter
from ldm.doctor.slide_check import examine
from ldm.errors import UserError
from ldm.scales import ladder

Change = Callable[[h5py.File], None]


def put(name: str, change: Callable[[np.ndarray], Any]) -> Change:
    """Write a dataset anew, under checksums, changed."""

    def apply(file: h5py.File) -> None:
        values = np.asarray(change(file[name][:]))
        del file[name]
        file.create_dataset(name, data=values, chunks=True, fletcher32=True)

    return apply


def attrs(**values: Any) -> Change:
    return lambda file: file.attrs.update(
        {key: np.bytes_(value) if isinstance(value, str) else value for key, value in values.items()}
    )


def at(place: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


def pictures(mode: str, number: int | None = None, file_type: str = "PNG") -> Change:
    """All images of 20x, or one of them, in other colours."""

    def apply(file: h5py.File) -> None:
        ends = file["scales/20x/image_ends"][:]
        old = np.split(file["scales/20x/images"][:], ends[:-1])
        buffer = io.BytesIO()
        Image.new(mode, (toy.TILE_PX, toy.TILE_PX)).save(buffer, file_type)
        other = np.frombuffer(buffer.getvalue(), np.uint8)
        new = [other if number in (None, row) else one for row, one in enumerate(old)]
        put("scales/20x/images", lambda _: np.concatenate(new))(file)
        put("scales/20x/image_ends", lambda _: np.cumsum([len(one) for one in new]))(file)

    return apply


CASES: dict[str, tuple[Change, str]] = {
    "a region twice": (put("scales/20x/ij", at(5, (0, 3))), r"20x are listed more than once: 1 places, \(0, 3\) first"),
    "all regions in one place": (put("scales/20x/ij", at(..., 0)), r"more than once: 1 places, \(0, 0\) first"),
    "regions beyond the tiles": (put("scales/5x/ij", at(0, (2, 0))), "regions of 5x lie beyond its tiles"),
    "regions outside the slide": (attrs(height_l0=100), "20x lie outside the slide: one begins at pixel 224"),
    "latents just below infinity": (put("scales/5x/latents", at((1, 0), 6e4)), "latents has values up to 6"),
    "latents of one picture": (put("scales/10x/latents", at(..., 0.5)), "latents are the same for all 16 regions"),
    "embeddings just below infinity": (put("embeddings/0", at((1, 0, 2), 6e4)), "embeddings/0 has values up to 6"),
    "embeddings of one picture": (put("embeddings/0", at(..., np.arange(6))), "is the same for all 64 tiles"),
    "embeddings without a direction": (
        put("embeddings/0", lambda values: np.broadcast_to(values[..., :1], values.shape)),
        "constant over the channels",
    ),
    "shares above one": (put("scales/20x/tissue", at(3, 40)), "tissue is 1 to 40, expected shares from 0 to 1"),
    "a transform that is no number": (attrs(transform="north"), "transform is 'north', expected six numbers"),
    "a transform onto a line": (attrs(transform="1 1 0 1 1 0"), "transform is '1 1 0 1 1 0', expected six numbers"),
    "a transform of nothing": (attrs(transform="nan 0 0 0 nan 0"), "transform is 'nan 0"),
    "a crs that is none": (attrs(crs="PROJCS[moon"), r"crs is 'PROJCS\[moon', expected the WKT"),
    "settings that are no settings": (attrs(settings="{"), "settings is '{', expected JSON"),
    "counts that are none": (attrs(eligible='{"20x": -1}'), "eligible is .*, expected JSON of counts"),
    "a scale above the ladder": (lambda file: file.copy("scales/20x", "scales/40x"), "holds scales/40x, expected 20x"),
    "a level of embeddings too many": (lambda file: file.copy("embeddings/0", "embeddings/1"), "holds embeddings/1"),
    "grey pictures": (pictures("L"), "image 0 of 20x: its colours are L, expected RGB"),
    "a picture with a mask": (pictures("RGBA", 3), "image 3 of 20x: its colours are RGBA, expected RGB"),
    "a picture of four inks": (pictures("CMYK", 3, "JPEG"), "image 3 of 20x: its colours are CMYK, expected RGB"),
    "a picture of another kind": (pictures("RGB", 3, "BMP"), "image 3 of 20x: it is neither JPEG nor PNG"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_no_preparation_writes_is_found(tmp_path: Path, case: str) -> None:
    change, message = CASES[case]
    path = toy.slide(tmp_path / "s.h5")
    examine(SlideFile(path))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message) as caught:
        examine(SlideFile(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_sixteen_bits_are_not_taken_for_eight(tmp_path: Path) -> None:
    path = toy.slide(tmp_path / "s.h5")
    deep = np.frombuffer(png_encode(np.zeros((toy.TILE_PX, toy.TILE_PX, 3), np.uint16)), np.uint8)
    with h5py.File(path, "r+") as file:
        put("scales/5x/images", lambda _: np.tile(deep, 4))(file)
        put("scales/5x/image_ends", lambda _: len(deep) * np.arange(1, 5))(file)
    for read in (examine, lambda slide: slide.images("5x", [0])):
        with pytest.raises(UserError, match="image 0 of 5x: its colours have 16 bits, expected RGB of 8 bits"):
            read(SlideFile(path))


def test_values_just_below_infinity_are_neither_read_nor_written(tmp_path: Path) -> None:
    path = toy.slide(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        put("scales/5x/latents", at((1, 0), 6e4))(file)
        put("embeddings/0", at((1, 0, 2), 6e4))(file)
    slide = SlideFile(path)
    assert slide.latents("5x", [0, 2]).abs().max() < 10
    for read in (lambda: slide.latents("5x", [1]), lambda: slide.embedding("5x", 0)):
        with pytest.raises(UserError, match="expected at most"):
            read()
    absurd = {"latents": np.full((1, 3, 8, 8), 6e4)}
    with (
        pytest.raises(UserError, match=r"latents at 20x from region .* values up to 6[\de+]*, expected at most 1000"),
        SlideWriter(tmp_path / "t.h5", slide.attrs) as writer,
    ):
        writer.append("20x", np.zeros((1, 2), int), np.ones(1), **absurd)


def test_the_pyramid_is_the_means_of_the_tiles(tmp_path: Path) -> None:
    base = np.random.default_rng(0).normal(size=(16, 16, 4))
    means = base.reshape(8, 2, 8, 2, 4).mean((1, 3))
    names = ladder("histology", 5).names
    shape: dict[str, Any] = {"slide_id": "s", "source": "s", "kind": "histology", "scales": names, "tile_px": 32}
    shape |= {"base_mpp": 0.5, "mpp_l0": 0.5, "encoder": "toy", "autoencoder": ""}
    for wrong in (False, True):
        with SlideWriter(tmp_path / "s.h5", shape) as writer:
            writer.create_embeddings(16, 16, 4, levels=2)
            writer.write_embeddings(0, 0, 0, base)
            writer.write_embeddings(1, 0, 0, means[::-1] if wrong else means)
            for name in names:
                writer.append(name, np.zeros((1, 2), int), np.ones(1))
        if not wrong:
            examine(SlideFile(tmp_path / "s.h5"))
    with pytest.raises(UserError, match="embeddings/1 is not the 2x2 means of embeddings/0"):
        examine(SlideFile(tmp_path / "s.h5"))
