"""From a slide to one HDF5 file: regions, embeddings, latents."""
