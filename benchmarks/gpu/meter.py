"""Seconds and memory of code on a device; a row of the table."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

DENSE_BF16 = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
}
"""part of a card's name -> TFLOP/s of products of dense bf16 or fp16 matrices, by NVIDIA's data sheets"""
HEAD = ["", "images/s", "seconds", "first, s", "memory, GiB", "PFLOP", "floor, s", "of the floor's peak", "of measured"]


@dataclass(frozen=True)
class Peaks:
    """Rates in PFLOP/s: of a large matrix product on the device, and of its data sheet (None: unknown)."""

    measured: float
    stated: float | None

    @property
    def floor(self) -> float:
        """The rate that the floor is computed with."""
        return self.stated or self.measured


def stated_peak(device: torch.device, precision: str) -> float | None:
    """PFLOP/s by the card's data sheet, if it is known."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate / 1e3 for part, rate in DENSE_BF16.items() if part in name), None)


@dataclass
class GpuRow:
    """A measured task: images of a run, seconds of it and of the one before, peak bytes, PFLOP."""

    name: str
    images: int
    seconds: float
    first: float
    """seconds of the run before, with the choice of kernels and, of compiled networks, the compilation"""
    memory: int
    pflop: float
    notes: list[str] = field(default_factory=list)

    def cells(self, peaks: Peaks) -> list[str]:
        """Cells of the table under HEAD."""
        floor = self.pflop / peaks.floor
        return [
            self.name,
            f"{self.images / self.seconds:.3g}",
            f"{self.seconds:.3g}",
            f"{self.first:.3g}",
            f"{self.memory / 2**30:.1f}",
            f"{self.pflop:.3g}",
            f"{floor:.3g}",
            f"{floor / self.seconds:.0%}",
            f"{self.pflop / self.seconds / peaks.measured:.0%}",
        ]


def missing(name: str, why: str) -> list[str]:
    """Cells of a row that was not measured."""
    return [f"{name}: {why}".replace("|", "/"), *["-"] * (len(HEAD) - 1)]


@dataclass
class Meter:
    """Seconds and memory of the code within `running`."""

    device: torch.device
    seconds: float = 0.0
    memory: int = 0

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.wait()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.monotonic()
        yield
        self.wait()
        self.seconds = time.monotonic() - started
        if self.device.type == "cuda":
            self.memory = torch.cuda.max_memory_allocated(self.device)
        else:
            self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak(device: torch.device, dtype: torch.dtype, side: int, times: int = 5) -> float:
    """PFLOP/s of products of matrices (side, side)."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    meter = Meter(device)
    with meter.running():
        for _ in range(times):
            a @ b
    return times * 2 * side**3 / meter.seconds / 1e15
