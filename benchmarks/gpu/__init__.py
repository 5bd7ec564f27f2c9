"""What a GPU makes of it: `python -m benchmarks.gpu`."""
