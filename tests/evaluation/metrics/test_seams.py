"""Seams and texture: closed forms."""

import math

import numpy as np
import pytest

from ldm.errors import UserError
from ldm.evaluation.metrics.seams import (
    cell_pattern,
    gradient_energy,
    radial_power_spectrum,
    seam_strength,
    spectral_distance,
)


def grey(plane: np.ndarray) -> np.ndarray:
    """(H, W) of levels -> uint8 (H, W, 3)."""
    return np.repeat(np.rint(plane).astype(np.uint8)[..., None], 3, axis=2)


def noise(height: int, width: int, deviation: float, seed: int = 0) -> np.ndarray:
    return grey(np.random.default_rng(seed).normal(128, deviation, (height, width)))


def stairs(height: int, width: int, tile: int, step: float, slope: float) -> np.ndarray:
    """Levels that rise by `slope` a pixel to the right and by `step` where a tile begins."""
    x = np.arange(width)
    return grey(np.broadcast_to(slope * (x - x // tile) + step * (x // tile), (height, width)))


@pytest.mark.parametrize(("height", "width"), [(600, 70), (1025, 40), (2, 1), (1, 2)])
def test_gradient_energy_is_the_mean_square_of_differences(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    values = image.astype(float) / 255
    differences = np.concatenate([np.diff(values, axis=axis).ravel() for axis in (0, 1)])
    assert gradient_energy(image) == pytest.approx(np.square(differences).mean(), rel=1e-5)


def test_gradient_energy_of_noise_is_twice_its_variance() -> None:
    assert gradient_energy(noise(512, 512, 20)) == pytest.approx(2 * (20 / 255) ** 2, rel=0.02)


def test_seams_of_stairs_are_the_step_over_the_mean_slope() -> None:
    height, width, tile, step, slope = 64, 96, 32, 8, 2
    at_borders = 2 * height * step / (2 * height + 1 * width)  # two upright borders, one level one without a gradient
    others = height * 9 * slope / (height * 9 + width * 6)  # lines a multiple of 8 px from a border
    found = seam_strength(stairs(height, width, tile, step, slope), tile)
    assert found == pytest.approx(at_borders / others, rel=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (700, 300), (128, 1100)])
def test_noise_has_no_seams_and_a_quilt_has(size: tuple[int, int]) -> None:
    image = noise(*size, 20)
    assert seam_strength(image, 64) == pytest.approx(1, abs=0.03)
    rows, columns = (np.arange(length) // 64 % 2 for length in size)
    quilt = image + (40 * (rows[:, None] ^ columns))[..., None].astype(np.uint8)
    assert seam_strength(quilt, 64) > 1.5
    assert seam_strength(quilt, 63) == pytest.approx(1, abs=0.2)


def test_seams_are_found_where_the_windows_begin() -> None:
    quilt = noise(256, 256, 20)
    quilt[40:104, :] += 40
    quilt[:, 24:88] += 40
    assert seam_strength(quilt, 64, (40, 24)) > 1.3
    assert seam_strength(quilt, 64) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("period", [4, 8])
def test_a_lattice_of_latents_or_jpeg_blocks_is_no_seam(period: int) -> None:
    image = noise(512, 512, 20)
    image[::period] += 30
    image[:, ::period] += 30
    assert cell_pattern(image, period) > 5
    assert seam_strength(image, 64) == pytest.approx(1, abs=0.05)


def test_a_lattice_of_the_coarser_canvas_is_no_seam_either() -> None:
    image = noise(512, 512, 20)
    image[::16] += 30
    image[:, ::16] += 30
    assert seam_strength(image, 64) > 1.1
    assert seam_strength(image, 64, lattice=16) == pytest.approx(1, abs=0.05)


def test_seams_need_tiles_and_gradients() -> None:
    with pytest.raises(UserError, match="image of 64x32 px; expected more than one tile of 64 px"):
        seam_strength(noise(32, 64, 20), 64)
    assert math.isnan(seam_strength(grey(np.full((64, 64), 9)), 32))


@pytest.mark.parametrize("size", [(512, 512), (301, 640)])
def test_the_spectrum_of_white_noise_is_its_variance(size: tuple[int, int]) -> None:
    spectrum = radial_power_spectrum(noise(*size, 25), 8)
    np.testing.assert_allclose(spectrum, (25 / 255) ** 2, rtol=0.15)


@pytest.mark.parametrize("frequency", [0.12, 0.22, 0.43])
def test_a_wave_stands_in_the_ring_of_its_frequency(frequency: float) -> None:
    wave = grey(np.broadcast_to(128 + 60 * np.sin(2 * np.pi * frequency * np.arange(256)), (128, 256)))
    spectrum = radial_power_spectrum(wave, 10)
    assert spectrum.argmax() == int(frequency * 20)
    np.testing.assert_allclose(radial_power_spectrum(wave.transpose(1, 0, 2), 10), spectrum, rtol=1e-4, atol=1e-6)


def test_spectra_of_too_many_rings_are_refused() -> None:
    with pytest.raises(UserError, match="64 bins for an image of 16x16 px"):
        radial_power_spectrum(noise(16, 16, 20), 64)


def test_spectral_distance_is_the_mean_log_ratio() -> None:
    a = np.array([1.0, 2.0, 8.0])
    assert spectral_distance(a, a) == 0
    assert spectral_distance(a, 2 * a) == pytest.approx(math.log(2))
    assert spectral_distance(a, a * [2, 0.5, 1]) == pytest.approx(2 / 3 * math.log(2))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 98)])
def test_the_cell_pattern_is_the_spread_of_a_lattice_and_nothing_else(height: int, width: int) -> None:
    lattice = np.arange(16).reshape(4, 4)
    plane = np.tile(lattice, (height // 4 + 1, width // 4 + 1))[:height, :width]
    tiles = 10 * (np.arange(width) // 8 % 2)  # of another period
    assert cell_pattern(grey(100 + plane + tiles)) == pytest.approx(lattice.std(), rel=1e-3)
    assert cell_pattern(grey(100 + np.zeros((height, 1)) + tiles)) == pytest.approx(0, abs=1e-3)
    assert cell_pattern(grey(np.full((height, width), 7.0))) == pytest.approx(0, abs=1e-4)
