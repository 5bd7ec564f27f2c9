"""Schedules against the published tables, and the identities between z_t, z_0, eps and v."""

import pytest
import torch

from ldm.diffusion.schedule import KINDS, add_noise, at, cosine_alpha_bar, predict, scaled_linear_alpha_bar, target
from ldm.errors import UserError
from tests.golden.parity import golden


def test_tables_are_the_published_ones() -> None:
    published = golden("schedules")
    assert torch.equal(scaled_linear_alpha_bar(), published["scaled_linear"])
    torch.testing.assert_close(cosine_alpha_bar(), published["cosine"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [10, 250, 1000])
@pytest.mark.parametrize("schedule", [scaled_linear_alpha_bar, cosine_alpha_bar])
def test_tables_fall_from_almost_one_towards_zero(schedule, steps: int) -> None:  # type: ignore[no-untyped-def]
    table = schedule(steps)
    assert len(table) == steps
    assert (table[1:] < table[:-1]).all()
    assert 0.9 < table[0] < 1
    assert table[-1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_predict_reads_what_target_asks_for(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    z_0, eps = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=generator)
    a_t = at(cosine_alpha_bar(), torch.tensor([0, 200, 500, 800, 990]), z_0)
    z_t = add_noise(z_0, eps, a_t)
    found = predict(target(z_0, eps, a_t, kind), z_t, a_t, kind)
    torch.testing.assert_close(found.z_0, z_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.eps, eps, rtol=1e-9, atol=1e-9)


def test_v_is_the_velocity_of_the_noising_arc() -> None:
    """With z = cos(angle) z_0 + sin(angle) eps, v is dz / d angle."""
    z_0, eps = torch.randn(2, 1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    angle = torch.tensor(0.7, dtype=torch.float64)
    ahead, behind = (add_noise(z_0, eps, (angle + step).cos() ** 2) for step in (1e-5, -1e-5))
    torch.testing.assert_close(target(z_0, eps, angle.cos() ** 2, "v"), (ahead - behind) / 2e-5, rtol=1e-8, atol=1e-8)


def test_noised_samples_keep_unit_variance() -> None:
    z_0, eps = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(2))
    for t in (0, 500, 999):
        assert add_noise(z_0, eps, scaled_linear_alpha_bar()[t]).var() == pytest.approx(1, abs=0.02)


def test_lookup_broadcasts_and_never_loses_precision() -> None:
    table, t = scaled_linear_alpha_bar(), torch.tensor([3, 0])
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        a_t = at(table, t, torch.zeros(2, 3, 8, 8, dtype=dtype))
        assert a_t.shape == (2, 1, 1, 1)
        assert a_t.dtype == expected
        assert a_t.flatten().tolist() == table[t].tolist()


def test_an_unknown_kind_is_refused() -> None:
    x = torch.zeros(1)
    for call in (lambda: predict(x, x, x, "epsilon"), lambda: target(x, x, x, "epsilon")):
        with pytest.raises(UserError, match="unknown kind epsilon; it is one of eps, v, z_0"):
            call()
