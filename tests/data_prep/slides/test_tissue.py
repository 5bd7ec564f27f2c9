"""Tissue is what is stained; ink, glass, dust, scratches, shadows and grey pictures are not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmarks.fixtures.slides import GLASS, tissue_image, write_slide
from data_prep.slides.slide import Plane, open_slide
from data_prep.slides.tissue import foreground, ink, otsu, read_foreground, tile_shares

INKS = {
    "blue": (40, 60, 170),
    "light blue": (60, 120, 210),
    "green": (30, 130, 80),
    "black": (35, 33, 38),
    "red": (200, 30, 45),
    "dark red": (150, 20, 35),
}
STAINS = {
    "haematoxylin": (0.65, 0.70, 0.29),
    "eosin": (0.07, 0.99, 0.11),
    "haematoxylin and eosin": (0.36, 0.85, 0.20),
    "DAB": (0.27, 0.57, 0.78),
}
"""optical densities of red, green and blue (Ruifrok and Johnston 2001)"""


def marked(image: np.ndarray, colour: tuple[int, int, int], strength: float) -> tuple[np.ndarray, np.ndarray]:
    """`image` under strokes of ink of `strength` 0 to 1, and where they are."""
    height, width = image.shape[:2]
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    draw.line([(8, height - 30), (60, height - 10), (110, height - 40)], fill=255, width=8)
    draw.arc([width // 2, 8, width - 8, 70], 20, 330, fill=255, width=6)
    stroke = np.asarray(layer) > 0
    light = (np.array(colour) / 255) ** strength
    return np.where(stroke[..., None], image * light, image).astype(np.uint8), stroke


def test_otsu_separates_two_heaps():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(20, 4, 900), rng.normal(120, 10, 100)]).clip(0, 255).astype(np.uint8)
    assert 30 <= otsu(values) <= 100


def test_foreground_is_the_stained_part():
    image = tissue_image(160, 160)
    truth = (image != GLASS).any(-1)
    assert (foreground(image) == truth).mean() > 0.97
    assert foreground(np.broadcast_to(np.uint8([200, 90, 150]), (64, 64, 3))).all()


@pytest.mark.parametrize("name", STAINS)
@pytest.mark.parametrize("density", [0.15, 0.4, 0.9])
def test_stains_of_any_density_are_tissue_on_glass_of_any_tint(name, density):
    for glass in ((243, 242, 245), (236, 232, 218), (215, 222, 236)):
        image = np.empty((96, 96, 3))
        image[:] = glass
        image[20:70, 20:70] *= 10 ** -(density * np.array(STAINS[name]))
        found = foreground(np.rint(image).astype(np.uint8))
        assert found[20:70, 20:70].mean() > 0.95
        found[20:70, 20:70] = False
        assert not found.any()


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", INKS)
def test_ink_on_glass_is_no_tissue_and_hides_none(name, strength):
    image = tissue_image(192, 192, 1)
    picture, stroke = marked(image, INKS[name], strength)
    truth = (image != GLASS).any(-1)
    found = foreground(picture)
    assert not (found & stroke & ~ndimage.binary_dilation(truth, iterations=2)).any()  # support of the filters
    assert found[truth & ~stroke].mean() > 0.93


@pytest.mark.parametrize("stain", STAINS.values())
def test_no_stain_has_the_hue_of_ink(stain):
    density = np.linspace(0.05, 1.2, 40)[:, None]
    colours = np.rint(255 * 10 ** -(density * np.array(stain))).astype(np.uint8)
    assert not ink(colours[None]).any()


def test_glass_with_scratches_dust_shadow_and_edge_has_no_tissue():
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", (256, 192), (242, 241, 244))
    draw = ImageDraw.Draw(picture)
    draw.line([(0, 150), (255, 90)], fill=(190, 190, 195))
    for x, y in rng.integers(0, 190, (40, 2)).tolist():
        draw.ellipse([x, y, x + 1, y + 1], fill=tuple((85 + rng.integers(-8, 8, 3)).tolist()))
    image = np.asarray(picture, np.float64) + rng.normal(0, 2, (192, 256, 3))
    image[:, -30:] *= np.linspace(1, 0.7, 30)[None, :, None]  # the coverslip's shadow
    image[:10] = (45, 46, 48)  # the slide's edge
    assert not foreground(image.clip(0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize("value", [0, 120, 255])
def test_plain_and_grey_slides_have_no_tissue(value):
    assert not foreground(np.full((64, 64, 3), value, np.uint8)).any()
    grey = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8).repeat(3, 2)
    assert not foreground(grey).any()


def test_the_background_is_glass_and_not_the_padding_beside_it(tmp_path):
    image = np.full((300, 300, 3), GLASS, np.uint8)
    image[100:220, 100:220] = 200, 90, 150
    plane = Plane(open_slide(write_slide(tmp_path / "s.tiff", [image], 0.5), "histology"), 0.5 * 32 / 8)
    found = read_foreground(plane, 32, 32)
    assert found.background == (GLASS, GLASS, GLASS)
    assert not found.lost.any()
    shares = tile_shares(found.mask)
    assert shares[5, 5] == 1
    assert shares[10:].max() == 0
