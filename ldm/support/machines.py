"""Check, before any work, that the devices and machines that a command asks for exist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm.errors import UserError
from ldm.support.typed import typed

PER_CORE = 4
"""most processes per CPU core"""
CGROUP = Path("/sys/fs/cgroup")
CLUSTERS = ("MASTER_ADDR", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""environment variables of schedulers and launchers for jobs on several machines"""


def check_machines(accelerator: str, devices: int | str, nodes: int) -> None:
    """UserError for a missing accelerator, more devices than there are, or nodes that no launcher started."""
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
def report_lightning_errors() -> Iterator[None]:
    """Turn errors of Lightning's setup into a UserError of one line."""
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
    """Bytes of memory that are available, considering the container's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():  # includes reclaimable caches
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    limit = CGROUP / "memory.max"
    if limit.is_file() and limit.read_text().strip() != "max":
        available = min(available, int(limit.read_text()) - int((CGROUP / "memory.current").read_text()))
    return max(0, available)
