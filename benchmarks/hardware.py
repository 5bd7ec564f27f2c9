"""The hardware that a figure was found on."""

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """The name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def hardware() -> str:
    """The processor and how many of its cores there are."""
    return f"{os.cpu_count()} cores, {processor()}"


def device_name(device: torch.device | str = "cpu") -> str:
    """The card, with its memory, or the processor and how many threads are used."""
    device = torch.device(device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"{processor()}, {torch.get_num_threads()} threads"
