"""Preparation: from a slide to one HDF5 file with regions, embeddings and latents."""
