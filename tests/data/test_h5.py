"""Prepared slides: round trip, atomic writes, and detection of damage."""

import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.fixtures import toy
from ldm.data import contract
from ldm.data.h5 import SlideFile
from ldm.data.slide_writer import SlideWriter
from ldm.data.tokens import normalize_tokens
from ldm.doctor import cohort_check as doctor
from ldm.doctor.finding import checked
from ldm.errors import UserError
from tests.test_doctor_slides import pictures

SCALES = ["20x", "10x", "5x", "2.5x", "1.25x"]
ATTRS: dict[str, Any] = {"slide_id": "a/b", "kind": "histology", "scales": SCALES, "tile_px": 32, "base_mpp": 0.5}
ATTRS |= {"encoder": "toy", "autoencoder": "", "source": "b.svs", "mpp_l0": 0.25}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, seed: int = 0) -> dict[str, Any]:
    """A slide of 16 x 32 base tiles with three regions a scale, and what went into it."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(16, 32, 5)).astype(np.float32)
    means = base.reshape(8, 2, 16, 2, 5).mean((1, 3))
    latents = rng.normal(size=(3, 3, 8, 8)).astype(np.float16)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with SlideWriter(path, ATTRS) as writer:
        writer.create_embeddings(16, 32, 5, levels=2)
        writer.write_embeddings(0, 0, 0, base)
        writer.write_embeddings(1, 0, 0, means)
        for name in SCALES:
            ij = np.array([[0, 0], [0, 1], [0, 1]])
            writer.append(name, ij[:1], np.ones(1), latents=latents[:1], images=[png(images[0])])
            writer.append(name, ij[1:], np.zeros(2), latents=latents[1:], images=[png(image) for image in images[1:]])
    return {"base": base, "means": means, "latents": latents, "images": images}


def test_what_is_written_is_read(tmp_path):
    content = write(tmp_path / "s.h5")
    slide = SlideFile(tmp_path / "s.h5")
    assert slide.attrs == {"format": "zoomldm-1", **ATTRS}
    assert slide.ladder.names == SCALES
    assert [slide.count(name) for name in SCALES] == [3] * 5
    assert slide.tissue("5x").tolist() == [1, 0, 0]
    assert torch.equal(slide.latents("5x", [2, 0, 2]), torch.from_numpy(content["latents"][[2, 0, 2]]).float())
    assert torch.equal(slide.latent("5x", 2), slide.latents("5x", [2])[0])
    for row, image in zip((2, 0), slide.images("5x", [2, 0]), strict=True):
        np.testing.assert_array_equal(image, content["images"][row])


@pytest.mark.parametrize(("name", "level", "grid"), [("20x", 0, 1), ("5x", 0, 4), ("2.5x", 0, 8), ("1.25x", 1, 8)])
def test_condition_is_the_window_of_the_pyramid(tmp_path, name, level, grid):
    content = write(tmp_path / "s.h5")
    pyramid = (content["base"], content["means"])[level].astype(np.float16)
    window = torch.from_numpy(pyramid[:grid, grid : 2 * grid]).permute(2, 0, 1)
    assert torch.equal(SlideFile(tmp_path / "s.h5").embedding(name, 1), normalize_tokens(window))


@pytest.mark.parametrize("level", [0, 1])
def test_tokens_are_a_rectangle_of_the_map_as_stored(tmp_path, level):
    content = write(tmp_path / "s.h5")
    stored = torch.from_numpy((content["base"], content["means"])[level].astype(np.float16)).float()
    slide = SlideFile(tmp_path / "s.h5")
    assert torch.equal(slide.tokens(level, 2, 4, 3, 5), stored[2:5, 4:9].permute(2, 0, 1))
    rows, cols = stored.shape[:2]
    assert torch.equal(slide.tokens(level, 0, 0, rows, cols), stored.permute(2, 0, 1))


@pytest.mark.parametrize("place", [(-1, 0, 2, 2), (0, -1, 2, 2), (15, 0, 2, 2), (0, 31, 2, 2), (0, 0, 0, 1)])
def test_tokens_outside_the_slide_are_refused(tmp_path, place):
    write(tmp_path / "s.h5")
    with pytest.raises(UserError, match="the slide has 16x32"):
        SlideFile(tmp_path / "s.h5").tokens(0, *place)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "s.h5"
    write(path)
    before = path.read_bytes()
    with pytest.raises(KeyError), SlideWriter(path, ATTRS) as writer:
        writer.write_embeddings(0, 0, 0, np.zeros((8, 8, 5)))  # not created
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_every_dataset_has_a_checksum(tmp_path):
    write(tmp_path / "s.h5")
    checked = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            checked[name] = item.fletcher32

    with h5py.File(tmp_path / "s.h5") as file:
        file.visititems(visit)
    assert len(checked) == 2 + 5 * len(SCALES)
    assert all(checked.values())


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    with SlideWriter(tmp_path / "s.h5", ATTRS) as writer:
        writer.create_embeddings(8, 8, 5, levels=1)
        with pytest.raises(UserError, match="not finite"):
            writer.write_embeddings(0, 0, 0, np.full((8, 8, 5), 1e6))


def test_an_open_slide_travels_to_another_process(tmp_path):
    write(tmp_path / "s.h5")
    slide = SlideFile(tmp_path / "s.h5")
    expected = slide.latents("20x", [1])
    assert torch.equal(pickle.loads(pickle.dumps(slide)).latents("20x", [1]), expected)


def test_mistakes_are_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        SlideFile(tmp_path / "none.h5").count("20x")
    (tmp_path / "junk.h5").write_bytes(b"junk")
    with pytest.raises(UserError, match="HDF5_USE_FILE_LOCKING"):
        SlideFile(tmp_path / "junk.h5").count("20x")
    (tmp_path / "slide.tif").write_bytes(b"II*\0 pixels")
    with pytest.raises(UserError, match=r"slide.tif: is no prepared slide, expected a .h5 file; make one .* prepare"):
        SlideFile(tmp_path / "slide.tif").count("20x")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = np.bytes_(b"other-1")
    with pytest.raises(UserError, match="expected zoomldm-1"):
        _ = SlideFile(tmp_path / "other.h5").ladder
    toy.slide(tmp_path / "bare.h5", autoencoder="")
    with h5py.File(tmp_path / "bare.h5", "r+") as file:
        del file["scales/20x/latents"]
    with pytest.raises(UserError, match="has no scales/20x/latents"):
        SlideFile(tmp_path / "bare.h5").latents("20x", [0])


def cut(shape: tuple[int, ...], **options: Any) -> Callable[[h5py.File, str], None]:
    """Put a dataset of zeros of another shape or type in a place; nothing of it is written."""

    def change(file: h5py.File, name: str) -> None:
        if name in file:
            del file[name]
        options.setdefault("dtype", "f2")
        file.create_dataset(name, shape, chunks=tuple(min(64, side) for side in shape), fletcher32=True, **options)

    return change


def filled(values: Any, fletcher32: bool = True) -> Callable[[h5py.File, str], None]:
    def change(file: h5py.File, name: str) -> None:
        del file[name]
        file.create_dataset(name, data=values, chunks=True, fletcher32=fletcher32)

    return change


def attribute(value: Any) -> Callable[[h5py.File, str], None]:
    def change(file: h5py.File, name: str) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return change


FOREIGN: dict[str, tuple[str, Callable[[h5py.File, str], None], str]] = {
    **{f"no {name}": (name, attribute(None), f"lacks {name}") for name in contract.REQUIRED},
    "a number for a name": ("encoder", attribute(7), "encoder is 7, expected text"),
    "a name for a number": ("tile_px", attribute(b"32"), "tile_px is '32', expected a whole number"),
    "a list of numbers": ("tile_px", attribute([32.0, 32.0]), "tile_px is array"),
    "half a pixel": ("tile_px", attribute(32.5), "tile_px is 32.5"),
    "no pixel": ("tile_px", attribute(0), "tile_px is 0, expected a whole number above 0"),
    "nan um per pixel": ("base_mpp", attribute(np.nan), "base_mpp is nan, expected a number above 0"),
    "another um per pixel": ("base_mpp", attribute(0.25), "base_mpp is 0.25, expected 0.5 for histology"),
    "scales of nothing": ("scales", attribute(h5py.Empty("f")), "scales is Empty"),
    "scales of another ladder": ("scales", attribute(np.array([b"1x", b"2x", b"3x"])), r"scales is \['1x'"),
    "more scales than there are": ("scales", attribute(np.array([b"20x"] * 12)), "12 scales asked of histology"),
    "a kind that is none": ("kind", attribute(b"radar"), "unknown kind radar"),
    "an id above the folder": ("slide_id", attribute(b"../x"), "unfit for a file's name"),
    "places that are no whole numbers": ("scales/20x/ij", filled(np.zeros((64, 2), "f4")), "ij is float32 with 2 axes"),
    "places in three dimensions": (
        "scales/20x/ij",
        filled(np.zeros((64, 3), "i4")),
        r"ij is \(64, 3\), expected \(64, 2",
    ),
    "shares for other regions": (
        "scales/20x/tissue",
        filled(np.zeros(63, "f4")),
        r"tissue is \(63,\), expected \(64,\)",
    ),
    "embeddings that are text": ("embeddings/0", filled(np.full((8, 8, 6), b"x")), r"embeddings/0 is \|S1 with 3 axes"),
    "no embeddings": ("embeddings", lambda file, name: file.__delitem__(name), "has no embeddings/0"),
    "latents that are no squares": ("scales/20x/latents", filled(np.zeros((64, 3, 8, 4), "f2")), "latents are 8x4"),
    "latents of another size": ("scales/20x/latents", filled(np.zeros((64, 3, 16, 16), "f2")), "differ in size"),
    "latents as large as pixels": ("scales/20x/latents", filled(np.zeros((64, 3, 32, 32), "f2")), "latents are 32x32"),
    "latents of four channels": (
        "scales/20x/latents",
        filled(np.zeros((64, 4, 8, 8), "f2")),
        r"expected \(64, 3, 8, 8",
    ),
    "no latents": ("scales/20x/latents", lambda file, name: file.__delitem__(name), "has no scales/20x/latents"),
    "images without their ends": ("scales/20x/image_ends", lambda file, name: file.__delitem__(name), "has no scales"),
    "ends without their images": (
        "scales/20x/images",
        lambda file, name: file.__delitem__(name),
        "has no scales/20x/im",
    ),
    "a table without checksums": (
        "scales/20x/tissue",
        filled(np.zeros(64, "f4"), fletcher32=False),
        "has no checksums",
    ),
    "10^10 rows of nothing": ("scales/20x/latents", cut((10**10, 3, 8, 8)), "says it has .* but the file holds 0"),
    "10^10 regions": ("scales/20x/ij", cut((10**10, 2), dtype="i4"), "says it has .* but the file holds 0"),
    "10^10 compressed tiles": ("embeddings/0", cut((10**5, 10**5, 6), compression="gzip"), "but the file holds 0"),
    "rows that were never written": (
        "scales/20x/latents",
        lambda file, name: file[name].resize(128, axis=0),
        "says it has 49,152 bytes, but the file holds",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_no_prepared_slide_is_refused_before_anything_is_read(tmp_path: Path, case: str) -> None:
    name, change, message = FOREIGN[case]
    path = toy.slide(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        change(file, name)
    for read in (lambda slide: slide.attrs, lambda slide: slide.tissue("5x"), lambda slide: slide.datasets()):
        with pytest.raises(UserError, match=message) as error:
            read(SlideFile(path))
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    (finding, *_) = [
        finding for finding in checked("cohort", lambda: doctor.cohort(tmp_path)) if finding.status == "FAIL"
    ]
    assert re.search(message, finding.told)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_colours_than_rgb_are_refused(tmp_path: Path, mode: str) -> None:
    path = toy.slide(tmp_path / "s.h5")
    with h5py.File(path, "r+") as file:
        pictures(mode)(file)
    with pytest.raises(UserError, match=f"image 0 of 20x: its colours are {mode}, expected RGB"):
        SlideFile(path).images("20x", [0])
