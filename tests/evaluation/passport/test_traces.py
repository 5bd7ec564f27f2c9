"""Traces in pixels: JPEG, resizing, and copies that were turned."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.evaluation.passport.duplicates import near_duplicates, signature
from ldm.evaluation.passport.jpeg_traces import jpeg_trace
from ldm.evaluation.passport.resampling_traces import LINE, difference_spectra, fine_detail, interpolation_line
from tests.evaluation.passport.test_passport import Tile, compressed, tiles


def as_png(tmp_path: Path, tile: Tile) -> Path:
    Image.fromarray(tile).save(tmp_path / "x.png")
    return tmp_path / "x.png"


@pytest.mark.parametrize("quality", [60, 75, 90])
def test_jpeg_is_found_in_a_lossless_file_with_its_quality(quality: int, tmp_path: Path) -> None:
    found = [jpeg_trace(as_png(tmp_path, t), t) for t in (compressed(t, tmp_path, quality) for t in tiles(0))]
    known = [trace.quality for trace in found if trace is not None]
    assert len(known) >= len(found) - 1
    assert np.median(known) == pytest.approx(quality, abs=4)


def test_it_is_found_in_a_crop_and_not_where_there_was_none(tmp_path: Path) -> None:
    plain, crop = tiles(0)[0], compressed(tiles(0)[0], tmp_path, 70)[3:, 5:]
    assert jpeg_trace(as_png(tmp_path, plain), plain, everywhere=True) is None
    assert jpeg_trace(as_png(tmp_path, crop), crop) is None
    assert jpeg_trace(as_png(tmp_path, crop), crop, everywhere=True) is not None


def test_a_file_states_its_quality(tmp_path: Path) -> None:
    for quality in (12, 60, 95):
        Image.fromarray(tiles(0)[0]).save(tmp_path / "x.jpg", quality=quality)
        assert jpeg_trace(tmp_path / "x.jpg", tiles(0)[0]) == (quality, True)


@pytest.mark.parametrize(("factor", "frequency"), [(1.25, 0.2), (1.5, 1 / 3)])
def test_interpolation_leaves_a_line_at_the_ratio_of_the_sizes(factor: float, frequency: float) -> None:
    plain = [np.tile(tile, (2, 2, 1)) for tile in tiles(0) + tiles(1)]
    large = [np.asarray(Image.fromarray(t).resize([round(factor * 256)] * 2, Image.Resampling.BICUBIC)) for t in plain]
    found = interpolation_line([s for tile in large for s in difference_spectra(tile)])
    assert found is not None
    assert found.height > LINE
    assert found.frequency == pytest.approx(frequency, abs=0.01)
    assert np.median([fine_detail(t) for t in large]) < np.median([fine_detail(t) for t in plain]) - 3
    noise = [np.random.default_rng(i).integers(0, 255, (256, 256, 3), dtype=np.uint8) for i in range(8)]
    quiet = interpolation_line([s for tile in noise for s in difference_spectra(tile)])
    assert quiet is not None
    assert quiet.height < LINE


def test_copies_are_found_however_they_were_turned(tmp_path: Path) -> None:
    known = [signature(tile) for slide in range(4) for tile in tiles(slide)]
    flat = np.full((128, 128, 3), 240, np.uint8)
    changed = [np.rot90(tiles(1)[0]), tiles(2)[3][:, ::-1], compressed(tiles(0)[1], tmp_path, 50), flat, tiles(9)[0]]
    small = np.asarray(Image.fromarray(tiles(3)[2]).resize((70, 70)))
    found = near_duplicates([signature(tile) for tile in [*changed, small]], [*known, signature(flat)])
    assert sorted((pair.first, pair.second) for pair in found) == [(0, 6), (1, 15), (2, 1), (5, 20)]
    assert near_duplicates(known) == []
