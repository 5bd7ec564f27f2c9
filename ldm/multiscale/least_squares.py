"""The correction of latents through a preview head: damped least squares with exact derivatives.

    d = argmin |J d - e|^2 + damping |d|^2,      J the Jacobian of the head at z_0, e the change that its image needs

by conjugate gradients on the normal equations (Hestenes and Stiefel 1952). It replaces the paper's direction through
the encoder (eq. 6 and 12), whose length has to be chosen: here the head's own error determines it. With errors of
standard deviation s in the head's images, and corrections of standard deviation CORRECTION a priori, the most likely
correction is that with damping (s / CORRECTION)^2.

Shapes: n windows, h, w latents.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ldm.multiscale.model import LinearisedImage

CORRECTION = 0.25
"""standard deviation of a correction of one latent, a priori; latents have one of about 1"""
ROUNDS = 4
"""of conjugate gradients; with two, a lattice of the latents remains in the image"""


def damping_of(error: float) -> float:
    """Damping for a head whose images have the root mean square error `error`."""
    return (error / CORRECTION) ** 2


def least_squares(at: LinearisedImage, e: Tensor, damping: float, rounds: int = ROUNDS) -> Tensor:
    """The correction d (n, 3, h, w) of latents by which the function linearised `at` them changes by e."""

    def normal(d: Tensor) -> Tensor:
        """(J'J + damping) d"""
        return at.transposed(at.forward(d)) + damping * d

    return conjugate_gradients(normal, at.transposed(e), rounds)


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, rounds: int) -> Tensor:
    """x (n, ...) with apply(x) close to b, for each sample by itself; `apply` is symmetric and positive definite."""
    x, residual, direction = torch.zeros_like(b), b, b
    square = _dot(residual, residual)
    least = torch.finfo(b.dtype).tiny
    for _ in range(rounds):
        applied = apply(direction)
        length = square / _dot(direction, applied).clamp(min=least)
        x, residual = x + length * direction, residual - length * applied
        before, square = square, _dot(residual, residual)
        direction = residual + square / before.clamp(min=least) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(n, 1, ...) sums over each sample."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)
