"""Whether the devices and machines that a command asks for are there, before any work waits for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.errors import UserError
from ldm.support.typed import typed

PER_CORE = 4
"""most processes for each core of a CPU"""
CGROUP = Path("/sys/fs/cgroup")
CLUSTERS = ("MASTER_ADDR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""set by schedulers and launchers where several machines share a job"""


def check_machines(accelerator: str, devices: int | str, nodes: int) -> None:
    """UserError for an accelerator that this machine lacks, more devices than it has, or nodes that nobody started."""
    import torch

    gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise UserError(f"accelerator: cuda found, but torch sees no GPU; see {typed('doctor')}, or use cpu")
    if accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(f"accelerator: gpu found, but torch sees none; see {typed('doctor')}, or use cpu")
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("accelerator: mps found, but this is no Mac with a GPU of its own; use cpu")
    most = max(1, torch.cuda.device_count()) if gpu else PER_CORE * (os.cpu_count() or 1)
    if isinstance(devices, int) and devices > most:
        raise UserError(f"devices: {devices} found, expected at most {most} on this machine")
    if nodes > 1 and not any(name in os.environ for name in CLUSTERS):
        raise UserError(
            f"nodes: {nodes} found, but no scheduler or launcher (srun, torchrun) has started this job on several "
            "machines; set MASTER_ADDR and NODE_RANK on each, or use one node"
        )


@contextmanager
def told_by_lightning() -> Iterator[None]:
    """What Lightning refuses while it is set up (not while it runs), in one line."""
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except UserError:
        raise
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(
            f"accelerator, devices, nodes, strategy, precision: Lightning refuses them here "
            f"({' '.join(str(error).split())}); cpu, 1, 1, auto, 32-true always work"
        ) from error


def available_memory() -> int:
    """Bytes that a process here may still take: of the machine, or of the container's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # counts what caches would give back
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    limit = CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int((CGROUP / "memory.current").read_text()))
    return max(0, available)
