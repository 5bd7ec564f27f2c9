"""ZoomLDM: latent diffusion for multi-scale images too large for one network (CVPR 2025)."""

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Idle OpenMP threads sleep instead of spinning: two programs that share the cores otherwise slow each other down
# tenfold. Must be set before PyTorch is imported; a value that the user has set is kept.


def __getattr__(name: str) -> Any:
    """`ldm.__version__`: that of the installed package, as pyproject.toml states it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("zoomldm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
