"""Variational lower bound that trains the variance of a step (Nichol and Dhariwal 2021, sections 2 and 3.1).

For t > 0 the term is KL(q(z_{t-1} | z_t, z_0) || p(z_{t-1} | z_t)), for t = 0 it is -log p(z_0 | z_1); both Gaussian,

    q: mean (sqrt(a') beta z_0 + sqrt(1 - beta) (1 - a') z_t) / (1 - a),  variance beta (1 - a') / (1 - a)
    p: the same mean with the network's z_0, log variance between that of q and log beta by the network's logits

with a = alpha_bar_t, a' = alpha_bar_{t-1}, beta = 1 - a / a'.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ldm.diffusion.schedule import at

BIN = 1 / 255
"""half the bin width of data in [-1, 1]: -log p(z_0 | z_1) is computed from the probability of a bin"""


class Posterior(NamedTuple):
    """Tables (steps,) of q(z_{t-1} | z_t, z_0): the mean's two factors, and the log variances allowed to p."""

    of_z_0: Tensor
    of_z_t: Tensor
    log_least: Tensor
    log_most: Tensor


def posterior(alpha_bar: Tensor) -> Posterior:
    """The tables of a schedule alpha_bar (steps,); q has no variance at t = 0, where that of t = 1 is used."""
    a = alpha_bar.double()
    before = torch.cat([a.new_ones(1), a[:-1]])
    beta = 1 - a / before
    variance = beta * (1 - before) / (1 - a)
    least = torch.cat([variance[1:2], variance[1:]]).log()
    return Posterior(before.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - before) / (1 - a), least, beta.log())


def variance_bound(
    z_0: Tensor, z_t: Tensor, t: Tensor, prediction: Tensor, logits: Tensor, alpha_bar: Tensor
) -> Tensor:
    """(b,) bound in bits per element of z_0 (b, ...), for the network's `prediction` of z_0 and its variance `logits`.

    Only the logits get a gradient, not `prediction`.
    """
    of_z_0, of_z_t, log_least, log_most = (at(table, t, z_t) for table in posterior(alpha_bar))
    mean_q = of_z_0 * z_0 + of_z_t * z_t
    mean_p = of_z_0 * prediction.detach() + of_z_t * z_t
    log_p = log_least + (logits + 1) / 2 * (log_most - log_least)
    divergence = 0.5 * (log_p - log_least - 1 + (log_least - log_p).exp() + (mean_q - mean_p) ** 2 * (-log_p).exp())
    first = -bin_log_likelihood(z_0, mean_p, log_p)
    nats = torch.where(t == 0, first.flatten(1).mean(dim=1), divergence.flatten(1).mean(dim=1))  # (b,)
    return nats / math.log(2)


def bin_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log probability that a Gaussian gives to the bin of x; the outermost bins, at -1 and 1, reach to infinity."""
    precision = (-0.5 * log_variance).exp()
    below, above = (_normal_cdf(precision * (x - mean + side)) for side in (-BIN, BIN))
    below = torch.where(x < -0.999, torch.zeros_like(below), below)
    above = torch.where(x > 0.999, torch.ones_like(above), above)
    return (above - below).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation that the published model was trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
