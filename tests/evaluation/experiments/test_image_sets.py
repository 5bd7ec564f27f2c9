"""Sets of images: which of a folder's files count."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ldm.evaluation.experiments.image_sets import ImageSet, statistics_name


class Means:
    """An extractor: mean colours."""

    id, preprocessing, width = "means", "none", 3

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2))


def test_statistics_do_not_stand_for_images_that_are_there(tmp_path: Path) -> None:
    """They may be of other images than those that the folder holds now."""
    rng = np.random.default_rng(0)

    def add(number: int) -> None:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"5x_{number}.png")

    for number in range(3):
        add(number)
    images = ImageSet(tmp_path, ["5x"])
    before = images.described("5x", Means()).statistics
    before.save(tmp_path / statistics_name("5x", Means()))
    add(3)
    found = images.described("5x", Means()).statistics
    assert (before.n, found.n) == (3, 4)
    assert not np.array_equal(found.mean, before.mean)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert images.described("5x", Means()).statistics.n == 3
