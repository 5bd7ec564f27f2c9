"""Functions over a denoiser."""
