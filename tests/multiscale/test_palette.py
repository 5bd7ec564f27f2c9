"""Palettes: prototypes are real tiles of one slide, keyed by place; files round-trip; classes are found or known."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fixtures import toy
from benchmarks.fixtures.palettes import palette
from ldm.checkpoint import load_weights, save_weights
from ldm.data.h5 import SlideFile
from ldm.data.slide_writer import SlideWriter
from ldm.errors import UserError
from ldm.multiscale.palette import check_palette, load_palette, save_palette
from ldm.multiscale.prototypes import (
    LabelledSlide,
    blank_tiles,
    clusters,
    embeddings_of,
    make_palette,
    medoids,
    with_background,
)

TUMOR, FAT = 2, 3


def pure(rows: int, cols: int, k: int) -> np.ndarray:
    shares = np.zeros((rows, cols, 4), np.float32)
    shares[..., k] = 1
    return shares


def test_a_pure_tile_has_a_prototype_of_its_class_and_one_slide() -> None:
    of = palette()
    for seed in range(4):
        tokens = of.tokens(pure(6, 5, TUMOR), seed).flatten(1).T
        rows = {int((of.prototypes == token).all(1).nonzero()) for token in tokens}
        assert all(of.classes[row] == TUMOR for row in rows)
        assert len({int(of.sources[row]) for row in rows}) == 1
        assert len(rows) == 2  # both of the slide's


def test_a_mixed_tile_is_the_mean_by_area() -> None:
    of = palette()
    both = 0.25 * pure(3, 3, TUMOR) + 0.75 * pure(3, 3, 1)
    parts = [of.tokens(pure(3, 3, k), 5) for k in (TUMOR, 1)]
    torch.testing.assert_close(of.tokens(both, 5), 0.25 * parts[0] + 0.75 * parts[1])


def test_a_larger_map_begins_with_the_smaller_one_and_seeds_differ() -> None:
    of = palette()
    large, small = of.tokens(pure(8, 9, TUMOR), 1), of.tokens(pure(4, 5, TUMOR), 1)
    assert (large[:, :4, :5] == small).all()
    assert len({tuple(of.tokens(pure(8, 9, TUMOR), seed).flatten().tolist()) for seed in range(6)}) > 3


def test_a_class_that_the_slide_lacks_comes_from_another() -> None:
    of = palette()
    assert of.of(FAT, 1).tolist() == of.of(FAT, 0).tolist() == [5]
    assert {of.slide([1, FAT], seed) for seed in range(20)} == {0}  # the only slide with both
    assert {of.slide([1, TUMOR], seed) for seed in range(20)} == {0, 1}


def test_names_are_found_in_any_capitals_and_others_refused() -> None:
    assert palette().index("tumor") == TUMOR
    with pytest.raises(UserError, match=r"class 'Tumour' is not in the palette, which has Background, Stroma, Tumor"):
        palette().index("Tumour")
    two = palette(names=("fat", "FAT", "Tumor", "Stroma"))
    assert two.index("FAT") == 1
    with pytest.raises(UserError, match="is not in the palette"):
        two.index("Fat")


def test_a_palette_survives_its_file(tmp_path: Path) -> None:
    save_palette(tmp_path / "a.safetensors", palette())
    found = load_palette(tmp_path / "a.safetensors")
    for field in fields(found):
        ours, theirs = getattr(palette(), field.name), getattr(found, field.name)
        assert np.array_equal(ours, theirs), field.name


def test_what_is_no_palette_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        load_palette(path)
    save_weights(path, {"x": torch.zeros(2)})
    with pytest.raises(UserError, match="is no palette"):
        load_palette(path)
    wrong = (
        {"names": ("a", "b", "c")},
        {"names": ("a", "a", "b", "c")},
        {"slides": ("one",)},
        {"classes": np.zeros(11, int)},
        {"places": np.zeros((11, 3), int)},
        {"colours": ((1, 2),) * 4},
    )
    for changes in wrong:
        save_palette(path, palette(**changes))
        with pytest.raises(UserError, match="is no palette"):
            load_palette(path)
    save_palette(path, palette())
    assert load_weights(path)["prototypes"].dtype == torch.float16
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(UserError, match="damaged"):
        load_palette(path)


def test_a_palette_of_another_encoder_or_patch_is_refused() -> None:
    check_palette(palette(), "p", "toy", toy.TILE_PX, "histology")
    for given in (("uni", toy.TILE_PX, "histology"), ("toy", 256, "histology"), ("toy", toy.TILE_PX, "satellite")):
        with pytest.raises(UserError, match=r"palette: p: \w+ is .*, but the model's is"):
            check_palette(palette(), "p", *given)


@pytest.fixture
def slides(tmp_path: Path) -> list[LabelledSlide]:
    """Two slides: on the left class 0, on the right class 1, which differ in the first channel; last row blank."""
    made = []
    for number in range(2):
        path = toy.slide(tmp_path / f"s{number}.h5")
        rng = np.random.default_rng(number)
        grid = rng.normal(0, 0.2, (8, 8, toy.EMBEDDING))
        grid[:, :4, 0], grid[:, 4:, 0] = 2, -2
        grid[7] = 1.0, 2, 3, 4, 5, 6
        with SlideWriter(path, SlideFile(path).attrs | {"slide_id": f"s{number}"}) as writer:
            writer.create_embeddings(8, 8, toy.EMBEDDING, 1)
            writer.write_embeddings(0, 0, 0, grid)
            for index, scale in enumerate(toy.SCALES):
                ij = np.argwhere(np.ones((8 >> index, 8 >> index)))
                writer.append(scale, ij, np.ones(len(ij)), latents=np.zeros((len(ij), 3, 8, 8)))
        shares = np.zeros((8, 8, 2), np.float32)
        shares[:7, :4, 0], shares[:7, 4:, 1] = 1, 1
        made.append(LabelledSlide(SlideFile(path), shares))
    return made


def test_prototypes_are_embeddings_of_tiles_of_their_class(slides: list[LabelledSlide]) -> None:
    made = make_palette(list(map(with_background, slides)), ["a", "b", "Background"], [(0, 0, 0)] * 3, each=4)
    assert made.counts == (56, 56, 16)
    for row, place in enumerate(made.places.tolist()):
        slide = slides[made.sources[row]]
        assert (embeddings_of(slide.file)[tuple(place)] == made.prototypes[row].numpy()).all()
        assert made.classes[row] == 2 or slide.shares[(*place, made.classes[row])] == 1
    held = [[int(((made.classes == k) & (made.sources == s)).sum()) for k in range(3)] for s in range(2)]
    assert held == [[4, 4, 1], [4, 4, 1]]


def test_classes_without_a_tile_are_left_out_and_none_at_all_refused(slides: list[LabelledSlide]) -> None:
    more = [LabelledSlide(slide.file, np.pad(slide.shares, [(0, 0), (0, 0), (1, 0)])) for slide in slides]
    assert make_palette(more, ["none", "a", "b"], [(0, 0, 0)] * 3, each=2).names == ("a", "b")
    none = [LabelledSlide(slide.file, np.zeros_like(slide.shares)) for slide in slides]
    with pytest.raises(UserError, match="in none of 2 slides does a class fill half of a base tile"):
        make_palette(none, ["a", "b"], [(0, 0, 0)] * 2, each=2)


def test_blank_tiles_are_those_that_share_an_embedding(slides: list[LabelledSlide]) -> None:
    grid = embeddings_of(slides[0].file)
    assert blank_tiles(grid).nonzero()[0].tolist() == [7] * 8
    assert not blank_tiles(grid[:7]).any()


def test_clusters_find_what_differs(slides: list[LabelledSlide]) -> None:
    found, names = clusters([slide.file for slide in slides], 2)
    assert names == ["cluster-1", "cluster-2"]
    first = found[0].shares[0, 0].argmax()
    for slide in found:
        assert (slide.shares[:7, :4, first] == 1).all()
        assert (slide.shares[:7, 4:, 1 - first] == 1).all()
        assert (slide.shares[7] == 0).all()
    with pytest.raises(UserError, match=r"--clusters: 500 found"):
        clusters([slide.file for slide in slides], 500)


def test_medoids_stand_for_groups() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    rows = np.repeat(centres, 20, 0) + rng.normal(0, 0.01, (60, 16))
    chosen = medoids(rows.astype(np.float32), 3, 0)
    assert sorted(row // 20 for row in chosen) == [0, 1, 2]
    assert medoids(rows[:2].astype(np.float32), 3, 0) == [0, 1]
