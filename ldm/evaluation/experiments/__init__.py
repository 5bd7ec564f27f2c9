"""The experiments of `zoomldm evaluate`."""
