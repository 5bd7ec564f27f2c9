"""Windows: coverage, blending as the inverse of cutting, and noise that depends on the place alone."""

import itertools

import pytest
import torch

from ldm.errors import UserError
from ldm.multiscale.windows import Blend, canvas_noise, cover, cut, gaussian, number_of_starts, starts
from tests.golden.parity import noise

CANVASES = [
    (8, 8, None, (0, 0)),
    (19, 30, None, (0, 0)),
    (16, 24, None, (3, 5)),
    (21, 17, 3, (1, 2)),
    (16, 28, 4, (0, 0)),
]
"""height, width, stride, offset"""


@pytest.mark.parametrize(("length", "stride", "offset"), itertools.product((8, 9, 24, 31), (None, 1, 5), (0, 3, 11)))
def test_windows_cover_an_axis_and_stay_on_it(length: int, stride: int | None, offset: int) -> None:
    places = starts(length, 8, stride, offset)
    assert places == sorted(set(places))
    assert set().union(*(range(place, place + 8) for place in places)) == set(range(length))


def test_windows_stand_side_by_side_and_an_offset_shifts_them_all() -> None:
    assert starts(24, 8) == [0, 8, 16]
    assert starts(24, 8, offset=8) == [0, 8, 16]
    assert starts(24, 8, offset=3) == [0, 3, 11, 16]
    assert starts(26, 8, stride=4) == [0, 4, 8, 12, 16, 18]


def test_a_canvas_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(UserError, match="canvas: 7 latents; expected at least one window of 8"):
        starts(7, 8)


def test_places_go_row_by_row_and_show_where_a_window_was_cut() -> None:
    places = cover(16, 24, 8)
    assert places.tolist() == [[0, 0], [0, 8], [0, 16], [8, 0], [8, 8], [8, 16]]
    canvas = noise(1, 3, 16, 24)
    assert torch.equal(cut(canvas, places, 8)[4], canvas[:, 8:, 8:16])


@pytest.mark.parametrize(("height", "width", "stride", "offset"), CANVASES)
@pytest.mark.parametrize("weight", [torch.ones(8, 8), gaussian(8)])
def test_blended_windows_are_the_canvas_they_were_cut_from(
    height: int, width: int, stride: int | None, offset: tuple[int, int], weight: torch.Tensor
) -> None:
    canvas = noise(1, 3, height, width)
    blend = Blend(canvas.shape, weight)
    for some in cover(height, width, 8, stride, offset).split(3):
        blend.add(cut(canvas, some, 8), some)
    torch.testing.assert_close(blend.mean(), canvas, rtol=0, atol=1e-6)


def test_where_windows_overlap_their_weights_decide() -> None:
    weight = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    blend = Blend((1, 2, 3), weight)
    blend.add(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]), torch.tensor([[0, 0], [0, 1]]))
    assert blend.mean()[0, 0].tolist() == [0, 0.25, 1]


def test_the_gaussian_is_one_in_the_middle_and_falls_to_every_side() -> None:
    weight = gaussian(9)
    assert weight[4, 4] == 1
    torch.testing.assert_close(weight[4, 0], torch.tensor(1 / 0.8**2).neg().exp())
    assert torch.equal(weight, weight.flip(0))
    assert torch.equal(weight, weight.T)


def test_noise_is_the_same_on_a_larger_canvas() -> None:
    small, large = canvas_noise(13, 20, 8, 5, 1, 2), canvas_noise(30, 41, 8, 5, 1, 2)
    assert small.shape == (3, 13, 20)
    assert torch.equal(small, large[:, :13, :20])
    assert abs(float(large.std()) - 1) < 0.05


def test_every_block_and_every_key_has_other_noise() -> None:
    blocks = [cut(canvas_noise(16, 16, 8, *key), cover(16, 16, 8), 8) for key in ((5, 1, 2), (5, 1, 3), (6, 1, 2))]
    for a, b in itertools.combinations(torch.cat(blocks), 2):
        assert not torch.isclose(a, b).all()


@pytest.mark.parametrize("stride", [3, 6, 8])
def test_windows_are_counted_without_listing_them(stride: int) -> None:
    for length in (8, 9, 15, 16, 17, 40):
        for offset in range(9):
            assert number_of_starts(length, 8, stride, offset) == len(starts(length, 8, stride, offset)), (
                length,
                offset,
            )
    assert number_of_starts(8 * 10**15, 8, 8) == 10**15
