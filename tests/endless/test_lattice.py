"""Windows of an endless plane: which cover an area, and their weights."""

import pytest
import torch

from ldm.endless.lattice import FARTHEST, Area, WindowLattice, key_of
from ldm.endless.plane import PARTS, groups_of, joined
from ldm.errors import UserError


@pytest.mark.parametrize(
    "lattice", [WindowLattice(8, 8), WindowLattice(8, 8, 4), WindowLattice(8, 6, -3), WindowLattice(8, 5, 20)]
)
@pytest.mark.parametrize(("start", "stop"), [(0, 1), (-17, -3), (7, 9), (100, 164)])
def test_exactly_the_windows_that_overlap_cover_an_area(lattice: WindowLattice, start: int, stop: int) -> None:
    begins = {number: number * lattice.stride + lattice.offset for number in range(-60, 60)}
    expected = [number for number, at in begins.items() if at < stop and at + lattice.side > start]
    assert list(lattice.numbers(start, stop)) == expected


@pytest.mark.parametrize("stride", [8, 7, 6, 5, 4])
def test_weights_of_overlapping_windows_sum_to_one(stride: int) -> None:
    lattice, area = WindowLattice(8, stride, 3), Area(-9, -9, 15, 15)
    total = torch.zeros(area.height, area.width)
    for number in lattice.covering(area):
        place = lattice.area(*number)
        common = place.common(area)
        total[common.within(area)] += lattice.weight()[common.within(place)]
    torch.testing.assert_close(total, torch.ones_like(total))


def test_windows_of_one_image_are_joined_to_it() -> None:
    whole, image = Area(-20, -20, 20, 20), torch.randn(3, 40, 40)
    lattice, area = WindowLattice(8, 6, 1), Area(-7, 2, 9, 11)
    windows = [(n, image[:, *lattice.area(*n).within(whole)]) for n in lattice.covering(area)]
    torch.testing.assert_close(joined(area, lattice, windows), image[:, *area.within(whole)])


def test_windows_side_by_side_are_joined_bit_by_bit() -> None:
    whole, image = Area(-20, -20, 20, 20), torch.randn(3, 40, 40)
    lattice, area = WindowLattice(8, 8, 4), Area(-7, 2, 9, 11)
    windows = [(n, image[:, *lattice.area(*n).within(whole)]) for n in lattice.covering(area)]
    assert torch.equal(joined(area, lattice, windows), image[:, *area.within(whole)])


def test_places_too_far_away_are_refused() -> None:
    far = 8 * FARTHEST
    assert len(WindowLattice(8, 8).numbers(far - 8, far)) == 1
    with pytest.raises(UserError, match="expected places between"):
        WindowLattice(8, 8).numbers(far, far + 1)


def test_keys_of_numbers_differ() -> None:
    numbers = [0, 1, 2, FARTHEST - 1, -1, -2, -FARTHEST]
    assert len({key_of(number) for number in numbers}) == len(numbers)
    assert [key_of(number) for number in numbers[:4]] == numbers[:4]
    assert min(map(key_of, numbers)) >= 0


@pytest.mark.parametrize("steps", [1, 2, 4, 12, 50])
@pytest.mark.parametrize("factor", [1, 2, 4, 16])
@pytest.mark.parametrize("first", [0, 3])
def test_groups_are_all_steps_on_whole_coarse_pixels(steps: int, factor: int, first: int) -> None:
    groups = groups_of(PARTS, range(first, first + steps), 32, max(1, factor // 4))
    assert [number for group in groups for number in group.steps] == list(range(first, first + steps))
    for _, lattice, _ in groups:
        assert (4 * lattice.offset) % factor == (4 * lattice.stride) % factor == 0
        assert 16 <= lattice.stride <= 32
