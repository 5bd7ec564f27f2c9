"""The processor of a measurement."""

import os
import platform
from pathlib import Path


def hardware() -> str:
    """The processor and how many of its cores there are."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {models[0] if models else platform.processor() or platform.machine()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
