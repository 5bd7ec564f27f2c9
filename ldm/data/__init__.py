"""From prepared slides (HDF5) to batches."""
