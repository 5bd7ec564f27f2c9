"""ZoomLDM: latent diffusion for multi-scale images too large for one network (CVPR 2025)."""

import os

__version__ = "0.1.0"

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Idle OpenMP threads sleep. By default they spin, and two programs that share a machine's cores slow each other down
# tenfold. It must be set before PyTorch is imported; whoever sets the variable decides otherwise.
