"""ZoomLDM: latent diffusion for multi-scale images too large for one network (CVPR 2025)."""

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Idle OpenMP threads sleep. By default they spin, and two programs that share a machine's cores slow each other down
# tenfold. It must be set before PyTorch is imported; whoever sets the variable decides otherwise.


def __getattr__(name: str) -> Any:
    """`ldm.__version__`: that of the installed package, as pyproject.toml states it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zoomldm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
