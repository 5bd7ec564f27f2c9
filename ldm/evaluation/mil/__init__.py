"""Slide labels from denoiser features: multiple-instance learning (paper, Table 4)."""
