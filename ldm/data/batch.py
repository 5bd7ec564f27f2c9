"""Batch: the input of a training step. b samples of any mix of scales.

z_0        (b, 3, h, w)   latents, unquantised
embedding  b grids (d, gh, gw), each at most 8x8, tokens normalised
scale      (b,)           index on the ladder
slide      b names        of the slides that the samples are of
image      (b, 3, H, W)   the patches in [-1, 1], where a system asks for them
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchRNG:
    """The randomness of one batch: batch `number` of run `seed`, samples [first, first + b) of all ranks' `total`.

    Noise drawn from it depends on nothing else: the number of processes and interruptions do not change it.
    """

    seed: int
    number: int
    first: int
    total: int

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator that every rank starts in the same state; draw for `total` samples and keep the `local` ones."""
        mixed = torch.tensor([self.seed, self.number], dtype=torch.int64)
        state = int((mixed[0] * 6364136223846793005 + mixed[1] * 1442695040888963407 + 1).item()) & (2**63 - 1)
        return torch.Generator(device).manual_seed(state)

    def local(self, drawn: Tensor, count: int) -> Tensor:
        """The rows of a draw over all ranks that belong to this rank's `count` samples."""
        return drawn[self.first : self.first + count]


@dataclass(frozen=True)
class Sample:
    """One region: latent (3, h, w), embedding grid (d, gh, gw), scale index."""

    z_0: Tensor
    embedding: Tensor
    scale: int
    slide: str = ""


@dataclass(frozen=True)
class Batch:
    z_0: Tensor
    embedding: list[Tensor]
    scale: Tensor
    stream: BatchRNG
    image: Tensor | None = None
    slide: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.z_0)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """On `device`; copies of pinned memory to a card run beside what is computed there."""
        on_card = non_blocking or torch.device(device).type == "cuda"
        return self._moved(lambda tensor: tensor.to(device, non_blocking=on_card))

    def pin_memory(self) -> "Batch":
        """In memory from which a card copies by itself; the DataLoader calls it."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            z_0=move(self.z_0),
            embedding=[move(grid) for grid in self.embedding],
            scale=move(self.scale),
            image=None if self.image is None else move(self.image),
        )


def collate(samples: Sequence[Sample], stream: BatchRNG) -> Batch:
    """Stack latents and scales; grids keep their own sizes."""
    return Batch(
        z_0=torch.stack([sample.z_0 for sample in samples]),
        embedding=[sample.embedding for sample in samples],
        scale=torch.tensor([sample.scale for sample in samples]),
        stream=stream,
        slide=[sample.slide for sample in samples],
    )
