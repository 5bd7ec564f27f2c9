"""The variational bound against its closed forms; the published values are in test_dit."""

import torch

from ldm.diffusion.schedule import add_noise, at, cosine_alpha_bar
from ldm.diffusion.vlb import BIN, bin_log_likelihood, posterior, variance_bound
from tests.golden.parity import golden

ALPHA_BAR = cosine_alpha_bar()


def test_posterior_tables_are_the_published_ones() -> None:
    published, tables = golden("schedules"), posterior(ALPHA_BAR)
    for name in ("of_z_0", "of_z_t", "log_least"):
        torch.testing.assert_close(getattr(tables, name), published[f"cosine_{name}"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(tables.log_most.exp(), published["cosine_betas"], rtol=1e-9, atol=0)


def test_the_posterior_steps_back_along_the_noise() -> None:
    """Its mean, averaged over noise, lies where z_{t-1} does: of_z_0 + of_z_t sqrt(a) = sqrt(a')."""
    tables = posterior(ALPHA_BAR)
    found = tables.of_z_0 + tables.of_z_t * ALPHA_BAR.sqrt()
    torch.testing.assert_close(found[1:], ALPHA_BAR[:-1].sqrt())


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    z_0, eps = torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 400, 998])
    return z_0, add_noise(z_0, eps, at(ALPHA_BAR, t, z_0)), t


def test_a_perfect_network_pays_nothing() -> None:
    z_0, z_t, t = draw()
    bound = variance_bound(z_0, z_t, t, z_0, torch.full_like(z_0, -1), ALPHA_BAR)
    torch.testing.assert_close(bound, torch.zeros_like(bound), rtol=0, atol=1e-9)
    assert (variance_bound(z_0, z_t, t, z_0, torch.ones_like(z_0), ALPHA_BAR)[:2] > 0).all()


def test_the_bound_trains_the_variance_alone() -> None:
    z_0, z_t, t = draw()
    prediction, logits = (z_0 + 0.1).requires_grad_(), torch.zeros_like(z_0, requires_grad=True)
    variance_bound(z_0, z_t, t, prediction, logits, ALPHA_BAR).sum().backward()
    assert prediction.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().min() > 0


def test_the_bins_share_all_of_the_probability() -> None:
    x = torch.linspace(-1, 1, 256, dtype=torch.float64)
    assert torch.isclose(x[1] - x[0], torch.tensor(2 * BIN, dtype=torch.float64))
    for mean, std in ((0.0, 0.3), (0.9, 0.5), (-2.0, 1.0)):
        likelihood = bin_log_likelihood(x, x.new_tensor(mean), 2 * x.new_tensor(std).log())
        torch.testing.assert_close(likelihood.exp().sum(), x.new_tensor(1.0), rtol=0, atol=1e-6)
