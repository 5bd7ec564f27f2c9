"""ZoomLDM: latent diffusion for multi-scale images too large for one network (CVPR 2025)."""

__version__ = "0.1.0"
