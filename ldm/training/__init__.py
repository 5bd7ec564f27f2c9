"""Training of the systems: zoomldm, vq, cdm, control, preview, superres."""
