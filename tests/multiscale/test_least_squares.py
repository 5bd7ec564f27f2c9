"""Corrections by damped least squares: the closed form, for each window by itself."""

import pytest
import torch

from ldm.multiscale.least_squares import CORRECTION, conjugate_gradients, damping_of, least_squares
from ldm.networks.preview_head import Linearised, PreviewHead
from tests.golden.parity import noise


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_a_linear_map_is_solved_as_the_normal_equations_are(damping: float) -> None:
    A, e = noise(1, 10, 8).double(), noise(3, 3, 10).double()
    d = least_squares(Linearised(e, lambda d: d @ A.T, lambda e: e @ A), e, damping, rounds=12)
    rows = torch.cat([A, damping**0.5 * torch.eye(8).double()])
    wanted = torch.cat([e.T, torch.zeros(8, 3)])
    torch.testing.assert_close(d, torch.linalg.lstsq(rows, wanted).solution.T, rtol=0, atol=1e-8)


def test_a_head_comes_nearer_and_windows_do_not_touch_each_other() -> None:
    head, z = PreviewHead(width=8, layers=1).double(), noise(2, 2, 3, 8, 8).double()
    at, e = head.linearised(z), 0.02 * noise(3, 2, 3, 16, 16).double()
    damping = damping_of(0.1 * CORRECTION)
    d = least_squares(at, e, damping)
    wanted = at.value + e
    assert (head(z + d) - wanted).square().sum() < e.square().sum()
    alone = least_squares(head.linearised(z[:1]), e[:1], damping)
    torch.testing.assert_close(alone, d[:1])


def test_where_nothing_is_wrong_nothing_is_corrected() -> None:
    d = conjugate_gradients(lambda v: 2 * v, torch.zeros(2, 3, 4), rounds=5)
    assert torch.equal(d, torch.zeros(2, 3, 4))
