"""Sharing work between processes: items are distributed round-robin, sums are reduced. Started by Lightning Fabric.

fabric, processes = launch(devices=8, nodes=2, accelerator="auto")
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ldm.errors import TERMINATED
from ldm.support.machines import check_machines, report_lightning_errors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Made = TypeVar("Made")


def _nothing() -> None:
    pass


def take_all_threads(fabric: "Fabric") -> None:
    """Compute with the CPU threads of all processes of this machine: the others have nothing left to do."""
    if fabric.device.type == "cpu" and fabric.world_size > 1:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class Processes:
    """The communication of this process with the others; by default it is alone."""

    local_indices: Callable[[int], range] = range
    """number of items -> indices of those that this process works on"""
    all_reduce_sum: Callable[[Tensor], Tensor] = lambda x: x
    """sum of a tensor over all processes"""
    barrier: Callable[[], None] = _nothing
    """waits for all processes"""
    first: bool = True

    def once(self, make: Callable[[], Made]) -> Made:
        """Call `make` on the first process, then on the others, which find its result on disk; returns the result."""
        if not self.first:
            self.barrier()
        made = make()
        if self.first:
            self.barrier()
        return made


ALONE = Processes()


def end_with(parent: int, every: float = 1.0) -> None:
    """End this process, looking every so many seconds, when the process that started it, `parent`, has ended.

    The first of several processes is the one that a user or a scheduler stops; what it saved is all there is to save.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(TERMINATED)

    threading.Thread(target=watch, daemon=True).start()


def launch(devices: int, nodes: int, accelerator: str) -> "tuple[Fabric, Processes]":
    """Start the processes of a command; each of them returns from here. UserError for missing machines."""
    from lightning_fabric import Fabric  # takes seconds, which who works alone need not wait

    check_machines(accelerator, devices, nodes)
    strategy = "ddp" if devices * nodes > 1 else "auto"
    with report_lightning_errors():
        fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=nodes)
    fabric.launch()
    if fabric.local_rank > 0:
        end_with(os.getppid())
    if fabric.world_size == 1:
        return fabric, ALONE

    def all_reduce_sum(x: Tensor) -> Tensor:
        summed = x.to(fabric.device)
        torch.distributed.all_reduce(summed)
        return summed.to(x.device)

    def local_indices(count: int) -> range:
        return range(fabric.global_rank, count, fabric.world_size)

    return fabric, Processes(local_indices, all_reduce_sum, fabric.barrier, first=fabric.global_rank == 0)
